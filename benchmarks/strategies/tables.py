"""A contest's standing as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.strategies.summary import Row, Standing


def standing_tables(standing: Standing) -> Iterator[Table]:
    """Yield a table per landscape, contestants by number of evaluations, then the mean ranks."""
    for landscape in dict.fromkeys(row.landscape for row in standing.rows):
        yield _table(landscape, [row for row in standing.rows if row.landscape == landscape])
    table = Table("contestant", title="mean rank", title_justify="left")
    table.add_column("mean rank", justify="right")
    for name, rank in standing.mean_rank.items():
        table.add_row(name, f"{rank:.2f}")
    yield table


def _table(landscape: str, rows: list[Row]) -> Table:
    columns = sorted({row.evaluations for row in rows})
    by_cell = {(row.contestant, row.evaluations): row for row in rows}
    title = f"{landscape}, {rows[0].num_seeds} seeds: median regret in points, share that reached the optimum"
    table = Table("contestant", title=title, title_justify="left")
    for evaluations in columns:
        table.add_column(f"{evaluations:,}", justify="right")
    for name in dict.fromkeys(row.contestant for row in rows):
        table.add_row(name, *(_cell(by_cell[name, evaluations]) for evaluations in columns))
    return table


def _cell(row: Row) -> str:
    if row.capped:
        return f"capped at {row.num_distinct:,}"
    low, high = row.median_regret_interval
    regret = f"{row.median_regret:.2f} ({low:.2f}-{high:.2f})"
    low, high = (100 * end for end in row.optimum_share_interval)
    return f"{regret}\n{100 * row.optimum_share:.0f} % ({low:.0f}-{high:.0f})"
