"""A comparison on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from orchestrator.compare.content import Comparison, RunFigures, SplitFigures
from orchestrator.compare.names import short_names
from orchestrator.screen.terminal import Terminal
from workers.tasks.registry import GRADED_METRICS

MAX_ROWS, MAX_COLUMNS = 20, 6
"""Maximum number of runs shown as rows, and as columns."""
NUM_CHECKPOINTS = 4
SPLITS = ("confirm", "test")
_KEPT = "\N{MIDDLE DOT}"
SAME = "All scores may be compared: weights, data, objective, ablation and precision are the same."


def show(console: Terminal, comparison: Comparison) -> None:
    """Print which mask to ship, and why; then the details."""
    runs = comparison.runs
    console.say(comparison.recommendation.sentence)
    _print(console, _main_table(comparison))
    if len(runs) > MAX_ROWS:
        console.say(f"{len(runs) - MAX_ROWS} more are not shown; --json and --out have all of them.")
    for line in [*(comparison.warnings or [SAME]), *(f"{run.letter} {run.lacks}." for run in runs if run.lacks)]:
        console.say(line)
    if len(runs) <= MAX_COLUMNS:
        _print(console, _metrics_table(comparison))
    if comparison.heads:
        _print(console, _grid_table(comparison))
        _print(console, _overlap_table(comparison))
    if comparison.settings and len(runs) <= MAX_COLUMNS:
        _print(console, _settings_table(comparison))
    if with_curves(comparison):
        _print(console, _curves_table(comparison))


def _print(console: Terminal, table: Table) -> None:
    """Print a table below its title, which may be wider than it."""
    title, table.title = table.title, None
    console.say(str(title))
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    """Return a table whose first column is on the left and whose others are on the right."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", overflow="fold")
    return table


def _main_table(comparison: Comparison) -> Table:
    to = f"to {comparison.reference}"
    title = f"{comparison.objective} in points, best on confirm first; differences with 95 % intervals, p by Holm"
    table = _table(title, "run", "reliable", "heads", "confirm", to, "test", to, "to no mask")
    shipped, names = comparison.recommendation.letter, short_names(comparison.runs)
    for run in comparison.runs[:MAX_ROWS]:
        cells = [
            {True: "yes", False: "no", None: "?"}[run.is_reliable],
            _heads(run),
            *_split_cells(comparison, run, "confirm"),
            *_split_cells(comparison, run, "test"),
            _gain(run, comparison.objective),
        ]
        name = f"{run.letter} {names[run.letter]}"
        table.add_row(name, *cells, style="bold" if run.letter == shipped else None)
    return table


def _heads(run: RunFigures) -> str:
    if run.scales is not None:
        return f"{len(run.scales)} scaled"
    return "?" if run.heads is None else str(len(run.heads))


def _split_cells(comparison: Comparison, run: RunFigures, split: str) -> tuple[str, str]:
    """Return a run's value and its difference to the reference."""
    figures: SplitFigures | None = getattr(run, split)
    objective = comparison.objective
    if figures is None or objective is None or objective not in figures.selected:
        return "", ""
    value = f"{100 * figures.selected[objective]:.2f}"
    if run.letter == comparison.reference:
        return value, "reference"
    if figures.difference is None:
        return value, "no"
    lines = [f"{100 * figures.difference.metrics[objective]:+.2f}", *_interval(figures.difference.interval)]
    if split == "test" and run.reference_p_adjusted is not None:
        lines.append(f"p {run.reference_p_adjusted:.4f}")
    return value, "\n".join(lines)


def _gain(run: RunFigures, objective: str | None) -> str:
    """Return how much a run's mask changes the objective of its own search."""
    if run.test is None or run.objective is None:
        return ""
    delta = run.test.selected[run.objective] - run.test.baseline[run.objective]
    lines = [f"{100 * delta:+.2f}", *_interval(run.interval)]
    lines += [] if run.p_adjusted is None else [f"p {run.p_adjusted:.4f}"]
    return "\n".join(lines if run.objective == objective else [*lines, f"in {run.objective}"])


def _interval(interval: tuple[float, float] | None) -> list[str]:
    return [] if interval is None else [f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"]


def _metrics_table(comparison: Comparison) -> Table:
    title = f"metrics in points; in brackets the difference to {comparison.reference}"
    parts = [(split, run.letter) for split in SPLITS for run in comparison.runs if getattr(run, split)]
    table = _table(title, "metric", *(f"{split}\n{letter}" for split, letter in parts))
    for name, *cells in metric_rows(comparison.runs):
        if name.rpartition("/")[2] not in GRADED_METRICS or name == comparison.objective:
            table.add_row(name, *(cell.replace(" ", "\n") for cell in cells))
    return table


def metric_rows(runs: Sequence[RunFigures]) -> list[list[str]]:
    """Return a row per metric: its name, and the values of every run on confirm and then on test."""
    parts = [figures for split in SPLITS for run in runs if (figures := getattr(run, split))]
    names = dict.fromkeys(name for figures in parts for name in figures.selected)
    return [[name, *(_metric(figures, name) for figures in parts)] for name in names]


def _metric(figures: SplitFigures, name: str) -> str:
    if name not in figures.selected:
        return ""
    value, difference = f"{100 * figures.selected[name]:.2f}", figures.difference
    if difference is None or name not in difference.metrics:
        return value
    return f"{value} ({100 * difference.metrics[name]:+.2f})"


def _grid_table(comparison: Comparison) -> Table:
    """Return the grid with the letters of the runs that ablate every head, or their number if there are many."""
    reference = next(run for run in comparison.runs if run.letter == comparison.reference)
    layers, heads = map(int, reference.grid.split("x"))
    num_letters = len({letter for names in comparison.heads.values() for letter in names})
    title = "which runs ablate each head" if num_letters <= MAX_COLUMNS else "how many runs ablate each head"
    table = _table(f"{title}; rows are layers", "", *map(str, range(heads)))
    for layer in range(layers):
        cells = (comparison.heads.get(f"L{layer}H{head}", []) for head in range(heads))
        row = ("".join(names) if num_letters <= MAX_COLUMNS else str(len(names) or "") for names in cells)
        table.add_row(f"L{layer}", *(cell or _KEPT for cell in row))
    return table


def _overlap_table(comparison: Comparison) -> Table:
    """Return a table of shared heads of every two runs, and of the layers of every run's heads."""
    shown = comparison.runs[:MAX_COLUMNS]
    title = "shared heads (Jaccard), and heads by layer"
    table = _table(title, "", *(run.letter for run in shown), "heads by layer, from L0")
    for run, shares in zip(shown, comparison.jaccard, strict=False):
        cells = ("" if share is None else f"{share:.2f}" for share in shares[: len(shown)])
        table.add_row(run.letter, *cells, " ".join(map(str, run.layer_counts or [])))
    return table


def _settings_table(comparison: Comparison) -> Table:
    table = _table("configuration that differs", "setting", *(run.letter for run in comparison.runs))
    for key, values in comparison.settings.items():
        table.add_row(key, *("" if value is None else str(value) for value in values))
    return table


def _curves_table(comparison: Comparison) -> Table:
    """Return the best value so far of every run after the same numbers of masks."""
    runs = with_curves(comparison)[:MAX_ROWS]
    counts = checkpoints([run.curve[-1].masks for run in runs])
    title = "best on search after this many masks, in points (optimistic)"
    table = _table(title, "", *(f"{count:,}" for count in counts), "replica seconds", "image forwards")
    for run in runs:
        reached = ([point.value for point in run.curve if point.masks <= count] for count in counts)
        ended = run.curve[-1].masks
        cells = (
            f"{100 * values[-1]:.2f}" if values and count <= ended else ""
            for values, count in zip(reached, counts, strict=True)
        )
        forwards = "" if run.image_forwards is None else f"{run.image_forwards:,}"
        table.add_row(run.letter, *cells, f"{run.curve[-1].seconds:.0f}", forwards)
    return table


def with_curves(comparison: Comparison) -> list[RunFigures]:
    """Return the runs whose curves show the reference's objective."""
    return [run for run in comparison.runs if run.curve and run.objective == comparison.objective]


def checkpoints(ends: Sequence[int]) -> list[int]:
    """Return the numbers of masks at which curves are read: their ends, if they are few, and halves of the longest."""
    longest = max(ends)
    return sorted(
        {longest // 2**power for power in range(NUM_CHECKPOINTS) if longest // 2**power} | set(sorted(set(ends))[:3])
    )
