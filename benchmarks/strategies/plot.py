"""A contest as a picture. matplotlib, without a screen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.strategies.contest import Run
from benchmarks.strategies.contestants import SURROGATE
from benchmarks.strategies.meter import Budget
from benchmarks.strategies.summary import regret
from headmask.border.kinds import PICTURE, PICTURE_METADATA
from headmask.border.shown import counted
from headmask.border.writing import written
from strategies import STRATEGIES

# S seeds, X units of the budget, or rounds

COLUMNS = 2
LINEAR_BELOW = 0.1
"""Points of regret: logarithmic above, linear below, so that an optimum can be seen."""
SPENT = {"masks": "distinct masks", "forwards": "image forwards, in masks' worth"}
MIN_SPENT = 100
"""Where the axis of a budget begins; that of rounds begins with the first."""


def write_plot(runs: Sequence[Run], path: Path) -> None:
    """Write the median regret by what was spent as PNG, a panel for each landscape and width; ours are drawn thick."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        width = run.cell.budget.width
        panel = run.cell.landscape if width is None else f"{run.cell.landscape}, rounds of {width:,}"
        panels[panel][run.cell.contestant].append(run)
    names = dict.fromkeys(run.cell.contestant for run in runs)
    colours = {name: colormaps["tab20"](place % 20) for place, name in enumerate(names)}
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(6 * min(COLUMNS, len(panels)), 4 * rows + 1), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (landscape, groups) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, min(COLUMNS, len(panels)), place)
        for name, group in groups.items():
            axes.plot(*_curve(group), label=name, color=colours[name], linewidth=2.5 if _is_ours(name) else 1.2)
        group = next(iter(groups.values()))
        _dress(axes, f"{landscape}, {counted(len(group), 'seed')}", group[0].cell.budget)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize="small")
    with written(path, PICTURE) as scratch:
        figure.savefig(scratch, format="png", dpi=120, metadata=PICTURE_METADATA)


def _curve(runs: Sequence[Run]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return what was spent (X) and the median regret (X); one whose plan ended keeps its best."""
    longest = max(len(run.best_so_far) for run in runs)
    regrets_SX = np.stack([np.pad(each := regret(run), (0, longest - len(each)), mode="edge") for run in runs])
    return np.arange(1, longest + 1), np.median(regrets_SX, axis=0)


def _is_ours(name: str) -> bool:
    return name.removesuffix(SURROGATE) in STRATEGIES


def _dress(axes: Any, title: str, budget: Budget) -> None:
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(SPENT[budget.unit] if budget.width is None else "rounds")
    axes.set_ylabel("median regret, points")
    axes.set_xscale("log")
    axes.set_xlim(left=MIN_SPENT if budget.width is None else 1)
    axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
    # Too many heads cost hundreds of points; what matters lies below ten.
    axes.set_ylim(0, min(10.0, axes.get_ylim()[1]))
    axes.grid(alpha=0.3)
