"""A contest's standing as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.strategies.summary import Row, Standing
from headmask.border.shown import counted


def standing_tables(standing: Standing) -> Iterator[Table]:
    """Yield a table per landscape and width, contestants by what was spent, then the mean ranks."""
    for landscape, width in dict.fromkeys((row.landscape, row.width) for row in standing.rows):
        name = landscape if width is None else f"{landscape}, {counted(width, 'mask')} a round"
        yield _table(name, [row for row in standing.rows if (row.landscape, row.width) == (landscape, width)])
    table = Table("contestant", title="mean rank", title_justify="left")
    table.add_column("mean rank", justify="right")
    for name, rank in standing.mean_rank.items():
        table.add_row(name, f"{rank:.2f}")
    yield table


def _table(name: str, rows: list[Row]) -> Table:
    columns = sorted({row.spent for row in rows})
    by_cell = {(row.contestant, row.spent): row for row in rows}
    title = f"{name}, {counted(rows[0].num_seeds, 'seed')}: median value and regret in points, share at the optimum"
    table = Table("contestant", title=title, title_justify="left")
    for spent in columns:
        table.add_column(f"{spent:,}", justify="right")
    for name in dict.fromkeys(row.contestant for row in rows):
        table.add_row(name, *(_cell(by_cell[name, spent]) for spent in columns))
    return table


def _cell(row: Row) -> str:
    if row.capped:
        return f"capped at {row.num_spent:,}"
    low, high = row.median_regret_interval
    regret = f"{row.median_regret:.2f} ({low:.2f}-{high:.2f})"
    low, high = (100 * end for end in row.optimum_share_interval)
    return f"{row.median_value:.2f}\n{regret}\n{100 * row.optimum_share:.0f} % ({low:.0f}-{high:.0f})"
