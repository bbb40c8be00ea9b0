"""The picture of a refinement: the scale of every head, beside the mask that it began from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from headmask.mask import Head, HeadGrid, HeadMask
from headmask.scales import FloatArray, HeadScales
from orchestrator.outcome.pictures import save_figure
from orchestrator.refine.content import RefineResult

# L layers, H heads


def grid_of_result(result: RefineResult) -> HeadGrid:
    """Return the grid of a refinement."""
    layers, heads = map(int, result.grid.split("x"))
    return HeadGrid(layers, heads)


def panels_of(result: RefineResult) -> dict[str, HeadScales]:
    """Return the selected scales, and the mask that was refined, by title."""
    grid = grid_of_result(result)
    panels = {"selected scales": HeadScales.from_texts(grid, result.selected)}
    if result.mask is not None:
        panels["the mask"] = HeadScales.of(HeadMask.from_heads(grid, map(Head.parse, result.mask)))
    return panels


def write_panels(panels: Mapping[str, HeadScales], path: Path | IO[bytes]) -> None:
    """Write scales side by side as PNG: blue heads are weakened, red ones strengthened."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = next(iter(panels.values())).grid
    size = (1.6 + (1.2 + 0.5 * grid.heads) * len(panels), max(4.0, 1.8 + 0.4 * grid.layers))
    figure: Any = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, scales) in zip(all_axes, panels.items(), strict=True):
        image = _draw(axes, title, scales.to_array())
    figure.colorbar(image, ax=all_axes, label="scale", extend="max", ticks=np.linspace(0, 2, 5))
    save_figure(figure, path)


def write_held_out(result: RefineResult, path: IO[bytes]) -> None:
    """Write the guide on held-out parts against the number of steps as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(6.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for each, marker in zip(result.held_out, "osD^", strict=False):
        values = [np.nan if value is None else 100 * value for value in each.values.values()]
        axes.plot(
            list(map(str, each.values)), values, marker=marker, label=f"from the {each.start}, pull {each.pull:g}"
        )
    axes.set(xlabel="steps", ylabel=f"{result.guide} on held-out parts, in points")
    axes.legend(fontsize="small")
    save_figure(figure, path)


def _draw(axes: Any, title: str, scales_LH: FloatArray) -> Any:
    layers, heads = scales_LH.shape
    image = axes.imshow(scales_LH, cmap="RdBu_r", vmin=0, vmax=2, aspect="auto", origin="lower")
    axes.set(xticks=range(heads), yticks=range(layers), xlabel="head", ylabel="layer")
    axes.set_title(f"{title}\nblue: weakened, red: strengthened", fontsize="medium")
    return image
