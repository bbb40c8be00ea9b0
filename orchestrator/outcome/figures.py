"""Figures of a finished search for notebooks, drawn from its run folder alone, with matplotlib and without a screen."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from headmask.errors import ConfigError
from headmask.mask import Head, HeadGrid
from orchestrator.outcome.pictures import draw_deltas
from workers.tasks.metrics import Mix

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from orchestrator.outcome.schema import FrontPoint, SearchResult


class NotebookFigure(Figure):
    """A matplotlib figure that notebooks show once if it is the last value in a cell, whatever their backend."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=110)
        return content.getvalue()


def draw_run(result: SearchResult, grid: HeadGrid, trials: pd.DataFrame) -> NotebookFigure:
    """Return a figure of what each head does alone, selected heads marked, beside quality against size.

    Args:
        result: result of the search.
        grid: grid of the searched tower.
        trials: its scored masks, as `trials.parquet` holds them.
    """
    height = max(3.5, 1.6 + 0.34 * grid.layers)
    figure = NotebookFigure(figsize=(2.2 + 0.45 * grid.heads + 5.5, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2.2 + 0.45 * grid.heads, 5))
    _draw_scan(left, result, grid, trials)
    _draw_sizes(right, result)
    return figure


def _draw_scan(axes: Any, result: SearchResult, grid: HeadGrid, trials: pd.DataFrame) -> None:
    name, deltas_LH = _scan_deltas(result, grid, trials)
    axes.set_title(f"change of {name} without the head\nsearch split; dots: selected mask", fontsize="medium")
    draw_deltas(axes, deltas_LH, [Head.parse(head) for head in result.selected])


def _scan_deltas(result: SearchResult, grid: HeadGrid, trials: pd.DataFrame) -> tuple[str, NDArray[np.float64]]:
    """Return the name of what is shown, and its change in points per head; NaN if a head was not scored alone.

    That is the objective, or the guide if trials do not hold the objective, such as the mean of several data sets.
    """
    name, values = result.objective, _objective(result.objective, trials)
    if values is None:
        name, values = result.guide, trials["value"]
    deltas_LH = np.full((grid.layers, grid.heads), np.nan)
    baseline = values[trials["num_heads"] == 0]
    for mask, value in zip(trials["mask"], values, strict=True):
        if mask and "," not in mask and len(baseline):
            deltas_LH[Head.parse(mask)] = 100 * (value - baseline.iloc[0])
    return name, deltas_LH


def _objective(objective: str, trials: pd.DataFrame) -> Any:
    """Return the objective of every trial, or None if its metrics are missing."""
    try:
        return trials.apply(Mix.parse(objective).value, axis=1)
    except (ConfigError, KeyError):
        return None


def _draw_sizes(axes: Any, result: SearchResult) -> None:
    front, objective = result.size.front, result.objective
    for split, color, marker in (("search", "C0", "o-"), ("confirm", "C1", "D")):
        scores = getattr(result.splits, split)
        points = [(len(point.heads), value) for point in front if (value := _value(point, split)) is not None]
        sizes, values = np.array(points).T if points else (np.array([]), np.array([]))
        label = "best masks by size, on search (optimistic)" if split == "search" else "the same on confirm"
        axes.plot(sizes, 100 * (values - scores.baseline[objective]), marker, color=color, ms=4, label=label)
    for split, color in (("confirm", "C1"), ("test", "C2")):
        change = 100 * getattr(result.splits, split).delta[objective]
        axes.plot(len(result.selected), change, "D", color=color, ms=9, mec="black", label=f"selected mask, on {split}")
    sure = "no interval on test: too few independent groups"
    if (interval := result.splits.test.interval) is not None:
        axes.vlines(len(result.selected), *(100 * end for end in interval), color="C2", lw=2)
        sure = "bar: 95 % interval on test"
    axes.axhline(0, color="black", lw=0.8, ls=":", label="baseline of each split")
    axes.set_title(f"{result.verdict}\n{sure}", fontsize="medium")
    axes.set(xlabel="ablated heads", ylabel=f"change of {objective} in points")
    axes.legend(fontsize="x-small")


def _value(point: FrontPoint, split: str) -> float | None:
    value: float | None = getattr(point, split)
    return value
