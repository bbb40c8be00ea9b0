"""A comparison as one self-contained page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headmask.border.shown import counted
from headmask.mask import Head, HeadGrid
from orchestrator.compare.content import Comparison, RunFigures
from orchestrator.compare.names import short_names
from orchestrator.compare.terminal import SAME, metric_rows, with_curves
from orchestrator.pages import Figure, figure, render, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CURVES, MAX_OVERLAPS, MAX_METRICS = 10, 20, 20
"""Maximum number of runs in the curves, in the table of shared heads, and in the table of all metrics and settings."""
_COLOURS = ("blue", "orange", "green", "plum", "amber", "sky", "grey")
_DASHES = ("solid", "dash", "dot")
_STILL = {
    "blue": "#0b62a8", "orange": "#c75100", "green": "#0a7d5c", "plum": "#a4518a", "amber": "#b97f00", "sky": "#3d9bd6",
    "grey": "#8a95a1",
}  # fmt: skip
_STILL_DASHES = {"solid": "-", "dash": "--", "dot": ":"}


def write_comparison(found: Comparison, path: Path) -> None:
    """Write the page of a comparison."""
    names, shown = short_names(found.runs), found.runs[:MAX_METRICS]
    chosen = found.recommendation.letter
    settings = [[key, *map(_text, values[:MAX_METRICS])] for key, values in found.settings.items()]
    letters = [run.letter for run in shown]
    html = render(
        "compare.html.j2",
        title=f"Comparison of {counted(len(found.runs), 'mask')}",
        headline="No mask to ship" if chosen is None else f"Ship {chosen}: {names[chosen]}",
        found=found,
        names=names,
        has_several_models=len({run.model for run in found.runs}) > 1,
        axis=_axis(found),
        metrics={"columns": ["metric", *_metric_columns(shown)], "rows": metric_rows(shown)},
        limits=[*(found.warnings or [SAME]), *(f"{run.letter} {run.lacks}." for run in found.runs if run.lacks)],
        settings={"columns": ["setting", *letters], "rows": settings},
        grid=_grid_figure(found) if found.heads else None,
        overlap=_overlap(found),
        curves=_curve_figures(with_curves(found)[:MAX_CURVES]),
    )
    write_page(html, path)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _metric_columns(runs: Sequence[RunFigures]) -> list[str]:
    return [f"{split} {run.letter}" for split in ("confirm", "test") for run in runs if getattr(run, split)]


def _axis(found: Comparison) -> float:
    """Return the largest end of any interval of a difference, for the same scale in all rows."""
    parts = [split.difference for run in found.runs for split in (run.confirm, run.test) if split is not None]
    return max((abs(end) for part in parts if part is not None for end in part.interval or ()), default=0.0) or 1.0


def _overlap(found: Comparison) -> dict[str, list[Any]]:
    runs = found.runs[:MAX_OVERLAPS]
    rows = []
    for run, shares in zip(runs, found.jaccard, strict=False):
        cells = ["" if share is None else f"{share:.2f}" for share in shares[: len(runs)]]
        rows.append([run.letter, *cells, " ".join(map(str, run.layer_counts or []))])
    return {"columns": ["run", *(run.letter for run in runs), "heads by layer"], "rows": rows}


def _grid_figure(found: Comparison) -> Figure:
    """Return a figure of how many runs ablate every head, with their letters."""
    import plotly.graph_objects as go

    reference = next(run for run in found.runs if run.letter == found.reference)
    grid = HeadGrid(*map(int, reference.grid.split("x")))
    letters = [
        [found.heads.get(str(Head(layer, head)), []) for head in range(grid.heads)] for layer in range(grid.layers)
    ]
    counts_LH = np.array([[len(names) for names in row] for row in letters])
    most = max(1, int(counts_LH.max()))
    chart = go.Figure(
        go.Heatmap(
            z=counts_LH.tolist(),
            x=[f"H{head}" for head in range(grid.heads)],
            y=[f"L{layer}" for layer in range(grid.layers)],
            colorscale=[[0, "var(--middle)"], [1, "var(--blue-end)"]],
            zmin=0,
            zmax=most,
            xgap=2,
            ygap=2,
            text=[[_few(names) for names in row] for row in letters],
            texttemplate="%{text}",
            customdata=[[", ".join(names) or "none" for names in row] for row in letters],
            hovertemplate="%{y}%{x}: %{customdata}<extra></extra>",
            showscale=False,
        )
    )
    caption = "Which runs ablate each head, or how many where they are more than four. Rows are layers."
    alt = f"Grid of {grid} heads: {len(found.heads)} are ablated by one run or more"
    return figure(chart, _grid_picture(counts_LH, letters), alt=alt, caption=caption, height=150 + 26 * grid.layers)


def _few(names: Sequence[str]) -> str:
    return "".join(names) if len(names) <= 4 else str(len(names))


def _grid_picture(counts_LH: np.ndarray, letters: Sequence[Sequence[Sequence[str]]]) -> bytes:
    num_layers, num_heads = counts_LH.shape
    drawing, axes = _drawing(1.5 + 0.5 * num_heads, 1.2 + 0.3 * num_layers)
    axes.imshow(counts_LH, cmap="Blues", vmin=0, aspect="auto", origin="lower")
    axes.set_xticks(range(num_heads))
    axes.set_yticks(range(num_layers))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    for layer, row in enumerate(letters):
        for head, names in enumerate(row):
            dark = 2 * counts_LH[layer, head] > counts_LH.max()
            axes.text(
                head, layer, _few(names), ha="center", va="center", color="white" if dark else "black", fontsize=8
            )
    return _png(drawing)


def _curve_figures(drawn: Sequence[RunFigures]) -> list[Figure]:
    """Return the best-so-far curves against masks, and against seconds."""
    if not drawn:
        return []
    axes = {"masks": "masks scored", "seconds": "seconds that replicas scored, added up"}
    return [_curve_figure(drawn, key, title) for key, title in axes.items()]


def _curve_figure(runs: Sequence[RunFigures], key: str, title: str) -> Figure:
    import plotly.graph_objects as go

    chart = go.Figure()
    drawing, axes = _drawing(6.0, 4.0)
    for place, run in enumerate(runs):
        colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place // len(_COLOURS) % len(_DASHES)]
        x, y = [getattr(point, key) for point in run.curve], [100 * point.value for point in run.curve]
        line = {"color": f"var(--{colour})", "dash": dash, "shape": "hv", "width": 2}
        hover = f"{run.letter}: %{{y:.2f}} after %{{x:,.0f}} {key}<extra></extra>"
        chart.add_scatter(x=x, y=y, name=run.letter, mode="lines", line=line, hovertemplate=hover)
        axes.step(x, y, where="post", label=run.letter, color=_STILL[colour], linestyle=_STILL_DASHES[dash])
    chart.update_xaxes(title_text=title, rangemode="tozero")
    chart.update_yaxes(title_text="points")
    chart.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}, showlegend=True)
    axes.set_xlabel(title)
    axes.set_ylabel("points")
    axes.legend(fontsize=8)
    alt = f"Best value so far against {title}, of runs {', '.join(run.letter for run in runs)}"
    return figure(chart, _png(drawing), alt=alt, height=380)


def _drawing(width: float, height: float) -> tuple[Any, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing, drawing.add_subplot()


def _png(drawing: Any) -> bytes:
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
