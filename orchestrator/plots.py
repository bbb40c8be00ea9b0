"""Pictures of a search. matplotlib, without a screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from headmask.mask import HeadGrid, HeadMask
from orchestrator.store import TrialRecord


def scan_deltas(
    records: Sequence[TrialRecord],
    grid: HeadGrid,
    value: Callable[[TrialRecord], float | None] = lambda record: record.value,
) -> np.ndarray:
    """Return (layers, heads): the objective's change when that head alone is ablated; NaN where it was not scored.

    Args:
        records: of a search.
        grid: of the tower.
        value: the objective of a trial, before limits of loss.
    """
    deltas_LH = np.full((grid.layers, grid.heads), np.nan)
    baseline = next((value(record) for record in records if record.mask.is_empty), None)
    for record in records:
        own = value(record) if len(record.mask) == 1 else None
        if own is not None and baseline is not None:
            deltas_LH[record.mask.heads[0]] = own - baseline
    return deltas_LH


def write_heat_map(
    records: Sequence[TrialRecord],
    selected: HeadMask,
    objective: str,
    path: Path,
    value: Callable[[TrialRecord], float | None] = lambda record: record.value,
) -> None:
    """Write the scan's heat map as PNG: blue heads help when ablated, red ones hurt; selected ones are marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = selected.grid
    deltas_LH = 100 * scan_deltas(records, grid, value)
    scored = deltas_LH[np.isfinite(deltas_LH)]
    # A head whose removal ruins the model would wash out all others, so the scale ends at the 90th percentile.
    limit = max(float(np.quantile(np.abs(scored), 0.9)) if scored.size else 0.0, 1e-6)
    figure = Figure(figsize=(2.2 + 0.5 * grid.heads, 1.8 + 0.4 * grid.layers), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(deltas_LH, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", origin="lower")
    axes.set_xticks(range(grid.heads))
    axes.set_yticks(range(grid.layers))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title(
        f"change of {objective} when one head is ablated\nsearch split; dots: selected mask", fontsize="medium"
    )
    if selected.heads:
        layers, heads = zip(*selected.heads, strict=True)
        axes.scatter(heads, layers, marker="o", s=60, facecolor="black", edgecolor="white")
    figure.colorbar(image, ax=axes, label="points", extend="both")
    figure.savefig(path, dpi=120)
