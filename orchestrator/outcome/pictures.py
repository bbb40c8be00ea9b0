"""Pictures of a search, drawn with matplotlib and without a screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from headmask.border.kinds import PICTURE, PICTURE_METADATA
from headmask.border.writing import written
from headmask.mask import Head, HeadGrid, HeadMask
from orchestrator.statistics.pareto import Point, front, knee, savings
from orchestrator.study.records import TrialRecord
from strategies.scales import HIGHEST


def scan_deltas(
    records: Sequence[TrialRecord],
    grid: HeadGrid,
    value: Callable[[TrialRecord], float | None] = lambda record: record.value,
) -> np.ndarray:
    """Return (layers, heads): the objective's change when that head alone is ablated; NaN if it was not scored.

    Args:
        records: records of a search.
        grid: grid of the tower.
        value: the objective of a trial, before limits of loss.
    """
    deltas_LH = np.full((grid.layers, grid.heads), np.nan)
    baseline = next((value(record) for record in records if record.mask.is_empty), None)
    for record in records:
        own = value(record) if len(record.mask) == 1 else None
        if own is not None and baseline is not None:
            deltas_LH[record.mask.heads[0]] = own - baseline
    return deltas_LH


def scale_of(deltas_LH: np.ndarray) -> float:
    """Return the end of a heat map's scale: a head whose removal ruins the model would wash out all others."""
    scored = deltas_LH[np.isfinite(deltas_LH)]
    return max(float(np.quantile(np.abs(scored), 0.9)) if scored.size else 0.0, 1e-6)


def write_heat_map(
    records: Sequence[TrialRecord],
    selected: HeadMask,
    objective: str,
    path: Path | IO[bytes],
    value: Callable[[TrialRecord], float | None] = lambda record: record.value,
) -> None:
    """Write the scan's heat map as PNG: blue heads help when ablated, red ones hurt; selected ones are marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = selected.grid
    deltas_LH = 100 * scan_deltas(records, grid, value)
    figure = Figure(figsize=(2.2 + 0.5 * grid.heads, 1.8 + 0.4 * grid.layers), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(
        f"change of {objective} when one head is ablated\nsearch split; dots: selected mask", fontsize="medium"
    )
    draw_deltas(axes, deltas_LH, selected.heads)
    save_figure(figure, path)


def draw_deltas(axes: Any, deltas_LH: np.ndarray, selected: Sequence[Head]) -> None:
    """Draw changes in points by head: blue heads help when ablated, red ones hurt; selected ones are marked."""
    limit = scale_of(deltas_LH)
    image = axes.imshow(deltas_LH, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    layers, heads = deltas_LH.shape
    axes.set(xticks=range(heads), yticks=range(layers), xlabel="head", ylabel="layer")
    _dots(axes, selected)
    axes.figure.colorbar(image, ax=axes, label="points", extend="both")


def write_scales(
    scales: Mapping[str, float], losses: Sequence[float | None], selected: HeadMask, path: Path | IO[bytes]
) -> None:
    """Write trained scales as PNG: the loss by step, and the scales as a distribution and by head.

    Args:
        scales: by head; heads without one stay white.
        losses: loss of every step; None if it was not finite.
        selected: the mask to mark.
        path: path of the picture, or a file object.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = selected.grid
    scales_LH = np.full((grid.layers, grid.heads), np.nan)
    for head, scale in scales.items():
        scales_LH[Head.parse(head)] = scale
    figure: Any = Figure(figsize=(5 + 0.5 * grid.heads, max(4.0, 1.8 + 0.4 * grid.layers)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=(4, 1 + 0.5 * grid.heads))
    top, bottom = left.subplots(2)
    top.plot(range(1, len(losses) + 1), [np.nan if loss is None else loss for loss in losses], color="C0")
    top.set_xlabel("step")
    top.set_ylabel("loss in nats")
    bottom.hist(list(scales.values()), bins=np.linspace(0, HIGHEST, 31), color="C0")
    bottom.set_xlabel("scale")
    bottom.set_ylabel("heads")
    axes = right.subplots()
    image = axes.imshow(1 - scales_LH, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", origin="lower")
    axes.set(xticks=range(grid.heads), yticks=range(grid.layers), xlabel="head", ylabel="layer")
    axes.set_title("1 - scale: blue to ablate\ndots: selected mask", fontsize="medium")
    _dots(axes, selected.heads)
    right.colorbar(image, ax=axes)
    save_figure(figure, path)


def _dots(axes: Any, marked: Sequence[Head]) -> None:
    if marked:
        layers, heads = zip(*marked, strict=True)
        axes.scatter(heads, layers, marker="o", s=60, facecolor="black", edgecolor="white")


def write_pareto(
    values: Mapping[HeadMask, float],
    confirm: Mapping[HeadMask, float],
    selected: HeadMask,
    objective: str,
    path: Path | IO[bytes],
    share_per_head: float | None = None,
) -> None:
    """Write quality against size as PNG: all scored masks, both fronts, the knee, finalists on confirm.

    Values are changes against the baseline of their own split.

    Args:
        values: objective on search of every mask, the baseline's among them.
        confirm: objective on confirm of the finalists, the baseline's among them.
        selected: the mask that won on confirm.
        objective: its name.
        path: path of the picture, or a file object.
        share_per_head: share of the tower's multiply-adds that pruning a head saves; None for no such axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    on_search, on_confirm = changes(values), changes(confirm)
    _draw_search(axes, on_search)
    axes.plot(*_line(on_confirm), "D", color="C1", ms=5, label="finalists, on confirm")
    if selected in on_confirm:
        _mark(axes, "D", len(selected), on_confirm[selected], color="C1", label="selected mask, on confirm")
    if selected in on_search:
        _mark(axes, "o", len(selected), on_search[selected], color="0.6", label="selected mask, on search")
    axes.axhline(0, color="black", lw=0.8, ls=":", label="baseline of each split")
    _set_limits(axes, on_search, on_confirm)
    axes.set_xlabel("ablated heads")
    axes.set_ylabel(f"change of {objective} in points")
    if share_per_head is not None:
        scale = 100 * share_per_head
        top = axes.secondary_xaxis("top", functions=(lambda heads_X: heads_X * scale, lambda saved_X: saved_X / scale))
        top.set_xlabel("multiply-adds of the tower that pruning them spares, in %")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    save_figure(figure, path)


def _draw_search(axes: Any, changes: Mapping[HeadMask, float]) -> None:
    fewest, most = front(changes), savings(changes)
    axes.plot(*_line(changes), "o", color="0.6", ms=3, alpha=0.6, label="scored masks, on search (optimistic)")
    axes.plot(*_line(most), "--", color="C0", lw=1.2, label="front: best with many heads")
    axes.plot(*_line(fewest), "o-", color="C0", ms=4, label="front: best with few heads")
    if (top := knee(fewest)) is not None:
        axes.plot(top.num_heads, top.value, "o", color="none", ms=13, mec="C3", mew=2, label="knee of that front")


def _mark(axes: Any, marker: str, num_heads: int, change: float, *, color: str, label: str) -> None:
    axes.plot(num_heads, change, marker, color=color, ms=10, mec="black", mew=1.5, label=label)


def changes(values: Mapping[HeadMask, float]) -> dict[HeadMask, float]:
    """Return values as changes against the baseline's, in points; empty without a baseline."""
    baseline = next((value for mask, value in values.items() if mask.is_empty), np.nan)
    return {mask: 100 * (value - baseline) for mask, value in values.items()}


def _line(points: Mapping[HeadMask, float] | Sequence[Point]) -> tuple[list[int], list[float]]:
    """Return sizes and values."""
    if isinstance(points, Mapping):
        return list(map(len, points)), list(points.values())
    return [point.num_heads for point in points], [point.value for point in points]


def _set_limits(axes: Any, on_search: Mapping[HeadMask, float], on_confirm: Mapping[HeadMask, float]) -> None:
    from matplotlib.ticker import MaxNLocator

    widest, (low, high) = limits(on_search, on_confirm)
    axes.set_xlim(-0.5, widest)
    axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def limits(
    on_search: Mapping[HeadMask, float], on_confirm: Mapping[HeadMask, float]
) -> tuple[float, tuple[float, float]]:
    """Return the ranges of heads and changes that are shown: masks that ruin the model would flatten all others."""
    high = max([*on_search.values(), *on_confirm.values(), 0.1])
    low = min([*on_confirm.values(), -0.6 * high])
    widest = max(len(mask) for mask, change in on_search.items() if change >= low)
    return widest + 1.5, (low - 0.08 * high, 1.12 * high)


def write_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    baseline: float,
    labels: tuple[str, str],
    path: Path | IO[bytes],
) -> None:
    """Write the growth of the best value as PNG, with a step at every better mask.

    Args:
        curves: by name, positions and heights of the steps.
        baseline: a dotted line.
        labels: labels of both axes.
        path: path of the picture, or a file object.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(6.5, 4.2))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.11, 0.13, 0.86, 0.84))
    for number, (name, (steps, values)) in enumerate(curves.items()):
        axes.step(
            steps, values, where="post", marker="osD^vPX*"[number % 8], ms=5, lw=2.5 if number == 0 else 1.2, label=name
        )
    axes.axhline(baseline, color="black", lw=0.8, ls=":", label="baseline")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(fontsize="small")
    save_figure(figure, path)


def save_figure(figure: Any, path: Path | IO[bytes]) -> None:
    """Write a figure as a PNG that names headmask as its maker."""
    if isinstance(path, Path):
        with written(path, PICTURE) as scratch:
            figure.savefig(scratch, format="png", dpi=120, metadata=PICTURE_METADATA)
    else:
        figure.savefig(path, format="png", dpi=120, metadata=PICTURE_METADATA)
