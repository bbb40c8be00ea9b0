"""The charts of a report: Plotly figures, each with a picture for readers without JavaScript."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from headmask.border.shown import counted
from headmask.mask import Head, HeadGrid, HeadMask
from headmask.scales import LOW
from orchestrator.outcome import pictures as plots
from orchestrator.outcome.schema import ScalesResult, SearchResult
from orchestrator.pages import Figure, figure
from orchestrator.report.content import Study
from orchestrator.statistics.pareto import Point, front, knee, savings
from orchestrator.study.records import TrialRecord

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

# L layers, H heads

DIVERGING = [
    (0.0, "var(--red-end)"), (0.25, "var(--red-mid)"), (0.5, "var(--middle)"), (0.75, "var(--blue-mid)"),
    (1.0, "var(--blue-end)"),
]  # fmt: skip
"""Red and blue can be told apart with all common kinds of colour blindness."""
STYLES = (
    ("var(--blue)", "circle", "solid"), ("var(--orange)", "square", "dash"), ("var(--green)", "diamond", "dot"),
    ("var(--plum)", "triangle-up", "dashdot"), ("var(--amber)", "cross", "longdash"), ("var(--grey)", "x", "dash"),
)  # fmt: skip
"""Colour, symbol and dash: no line is distinguished by its colour alone."""
LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1.01, "xanchor": "left", "x": 0}


def heat_map(study: Study) -> Figure:
    """Return a heat map of the objective's change when one head alone is ablated, with the selected heads marked."""
    from plotly.graph_objects import Figure as PlotlyFigure

    selected = study.selected or HeadMask.empty(study.grid)
    deltas_LH = 100 * scan(study)
    texts = [
        [_tell(Head(layer, head), delta, selected) for head, delta in enumerate(row)]
        for layer, row in enumerate(deltas_LH.tolist())
    ]
    chart = PlotlyFigure(cells(deltas_LH, texts, DIVERGING, plots.scale_of(deltas_LH), "points"))
    _mark(chart, selected)
    head_axes(chart, study.grid)

    def draw(file: io.BytesIO) -> None:
        plots.write_heat_map(
            study.records, selected, str(study.objective), file, lambda each: study.gains.get(each.mask)
        )

    ranked = sorted((delta, head) for head, delta in _finite(deltas_LH))
    best = ", ".join(f"{head} ({delta:+.2f})" for delta, head in ranked[:-4:-1])
    alt = (
        f"Heat map of {study.grid.layers} layers by {study.grid.heads} heads: the change of {study.objective} in "
        f"points when one head is ablated. The most helpful to ablate are {best or 'not known yet'}. "
        f"Marked: {selected or 'no head'}."
    )
    height, width = size_of(study.grid)
    return figure(chart, _drawn(study, "heatmap.png", draw), alt=alt, height=height, width=width)


def scan(study: Study) -> np.ndarray:
    """Return the objective's change when one head alone is ablated, (L, H) in [-1, 1]; NaN if unknown."""
    return plots.scan_deltas(study.records, study.grid, lambda record: study.gains.get(record.mask))


def curves(study: Study, *, by_time: bool) -> Figure:
    """Return curves of the best value on the search split, for all strategies together and for each."""
    from plotly.graph_objects import Figure as PlotlyFigure
    from plotly.graph_objects import Scatter

    baseline = 100 * ((study.baseline and study.baseline.value) or 0.0)
    places = _seconds(study.records) if by_time else [float(number) for number in range(1, len(study.records) + 1)]
    by_name = dict.fromkeys(["all", *(record.strategy for record in study.records if record.value is not None)])
    steps = {name: _steps(study.records, places, None if name == "all" else name) for name in by_name}
    chart = PlotlyFigure()
    for number, (name, found) in enumerate(steps.items()):
        colour, symbol, dash = STYLES[number % len(STYLES)]
        end = [(places[-1], found[-1][1], "")]
        xs, ys, masks = zip(*found, *end, strict=False)
        chart.add_trace(
            Scatter(
                x=xs,
                y=ys,
                customdata=masks,
                name=name,
                mode="lines+markers",
                line={"color": colour, "width": 3 if name == "all" else 1.5, "dash": dash, "shape": "hv"},
                # The end of the line is no better mask.
                marker={"symbol": symbol, "size": [7 if name == "all" else 8] * len(found) + [0], "color": colour},
                hovertemplate=f"{name}: %{{y:.2f}} at %{{x:,.4~g}}<br>%{{customdata}}<extra></extra>",
            )
        )
    best = steps["all"][-1][1]
    room = max(best - baseline, 0.05)
    chart.add_hline(baseline, line={"color": "var(--soft)", "dash": "dot", "width": 1.5})
    chart.add_annotation(
        x=1, xref="paper", y=baseline, text="baseline", showarrow=False, yanchor="top", xanchor="right"
    )
    chart.update_layout(legend=LEGEND, hovermode="closest")
    over = "seconds of scoring, all replicas together" if by_time else "masks scored"
    chart.update_xaxes(title=over, rangemode="tozero")
    chart.update_yaxes(title="points", range=[baseline - 0.25 * room, best + 0.08 * room])

    def draw(file: io.BytesIO) -> None:
        drawn = {name: ([x for x, _, _ in found], [y for _, y, _ in found]) for name, found in steps.items()}
        plots.write_curves(drawn, baseline, (over, f"best {study.guide} on search, in points"), file)

    alt = (
        f"Line chart: the best {study.guide} on the search split rises from {baseline:.2f} to {best:.2f} points over "
        f"{places[-1]:,.0f} {'seconds of scoring' if by_time else 'masks'}."
    )
    return figure(chart, png_of(draw), alt=alt, height=380)


def pareto(study: Study) -> Figure:
    """Return a chart of quality against size: all scored masks, fronts, knee, and masks with known confirm scores."""
    from plotly.graph_objects import Figure as PlotlyFigure

    on_search, confirm = plots.changes(study.gains), known_on_confirm(study)
    on_confirm, selected = plots.changes(confirm), study.selected or HeadMask.empty(study.grid)
    fewest, most = front(on_search), savings(on_search)
    chart = PlotlyFigure()
    _points(chart, on_search, "scored masks, on search", color="grey", size=5, opacity=0.55)
    _points(chart, _by_mask(most), "best with many heads", color="sky", size=6, symbol="triangle-up", dash="dash")
    _points(chart, _by_mask(fewest), "best with few heads", color="blue", size=8, dash="solid")
    if (top := knee(fewest)) is not None:
        _points(chart, {top.mask: top.value}, "knee", color="plum", size=17, symbol="circle-open")
    if on_confirm:
        _points(chart, on_confirm, "finalists, on confirm", color="orange", size=9, symbol="diamond")
    if selected in on_confirm:
        own = {selected: on_confirm[selected]}
        _points(chart, own, "selected, on confirm", color="ink", size=17, symbol="diamond-open")
    widest, (low, high) = plots.limits(on_search, on_confirm)
    chart.add_hline(0, line={"color": "var(--soft)", "dash": "dot", "width": 1.5})
    chart.update_layout(legend=LEGEND, hovermode="closest")
    chart.update_xaxes(title="ablated heads", range=[-0.5, widest])
    chart.update_yaxes(title=f"change of {study.objective}, in points", range=[low, high])

    def draw(file: io.BytesIO) -> None:
        plots.write_pareto(study.gains, confirm, selected, str(study.objective), file)

    alt = (
        f"Scatter chart: change of {study.objective} against the number of ablated heads. The best mask on search "
        f"ablates {counted(fewest[-1].num_heads, 'head')} for {fewest[-1].value:+.2f} points."
    )
    return figure(chart, _drawn(study, "pareto.png", draw), alt=alt, height=460)


def known_on_confirm(study: Study) -> dict[HeadMask, float]:
    """Return the objective on confirm of the masks for which the result has it."""
    result = study.result
    if result is None:
        return {}
    parts = [*result.size.front, *result.size.savings]
    known = {_mask(study.grid, part.heads): part.confirm for part in parts if part.confirm is not None}
    if result.best_single is not None:
        known[_mask(study.grid, [result.best_single.head])] = result.best_single.confirm
    confirm = result.splits.confirm
    known[HeadMask.empty(study.grid)] = confirm.baseline[result.objective]
    known[_mask(study.grid, result.selected)] = confirm.selected[result.objective]
    return known


def scales(study: Study, result: SearchResult, found: ScalesResult) -> list[Figure]:
    """Return charts of the trained scales, by head, and of the loss by step."""
    from plotly.graph_objects import Figure as PlotlyFigure
    from plotly.graph_objects import Scatter

    selected = _mask(study.grid, result.selected)
    scales_LH = np.full((study.grid.layers, study.grid.heads), np.nan)
    for head, scale in found.scales.items():
        scales_LH[Head.parse(head)] = scale
    texts = [
        [
            f"L{layer}H{head}: {'no scale' if np.isnan(scale) else f'scale {scale:.2f}'}"
            for head, scale in enumerate(row)
        ]
        for layer, row in enumerate(scales_LH.tolist())
    ]
    heads = PlotlyFigure(cells(1 - scales_LH, texts, DIVERGING, 1.0, "1 - scale"))
    _mark(heads, selected)
    head_axes(heads, study.grid)
    loss = PlotlyFigure(
        Scatter(
            x=list(range(1, len(found.losses) + 1)),
            y=found.losses,
            mode="lines",
            line={"color": "var(--blue)"},
            hovertemplate="step %{x}: %{y:.4f} nats<extra></extra>",
        )
    )
    loss.update_xaxes(title="step")
    loss.update_yaxes(title="loss, in nats")
    picture = _drawn(study, "scales.png", lambda file: plots.write_scales(found.scales, found.losses, selected, file))
    num_low = sum(scale < LOW for scale in found.scales.values())
    alt = f"Heat map of the trained scale of each head: {num_low} of {len(found.scales)} are below one half."
    height, width = size_of(study.grid)
    alt_loss = f"Line chart: the loss over {counted(found.steps, 'step')} of training."
    return [
        figure(heads, picture, alt=alt, height=height, width=width),
        figure(loss, picture, alt=alt_loss, height=height),
    ]


def size_of(grid: HeadGrid) -> tuple[int, int]:
    """Return height and maximum width of a grid's heat map in pixels."""
    return max(300, 130 + 24 * grid.layers), max(480, 140 + 64 * grid.heads)


def cells(
    values_LH: np.ndarray, texts: list[list[str]], scale: list[tuple[float, str]], limit: float | None, unit: str
) -> Any:
    """Return the trace of a heat map of heads.

    Args:
        values_LH: by head; NaN stays empty.
        texts: what a cell shows when it is pointed at.
        scale: of colours.
        limit: both ends of the scale, if it is around zero; otherwise it goes from 0 to 1.
        unit: of the values.
    """
    from plotly.graph_objects import Heatmap

    return Heatmap(
        z=[[None if np.isnan(value) else round(value, 4) for value in row] for row in values_LH.tolist()],
        customdata=texts,
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        colorscale=scale,
        zmin=0 if limit is None else -limit,
        zmax=1 if limit is None else limit,
        xgap=2,
        ygap=2,
        colorbar={
            "orientation": "h", "thickness": 10, "len": 0.6, "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom",
            "title": {"text": unit, "side": "right"}, "outlinewidth": 0, "nticks": 5,
        },
    )  # fmt: skip


def _mark(chart: PlotlyFigure, mask: HeadMask) -> None:
    """Draw a ring around the heads of a mask, visible on every colour."""
    from plotly.graph_objects import Scatter

    layers, heads = zip(*mask.heads, strict=True) if mask.heads else ((), ())
    marker = {"symbol": "circle", "size": 11, "color": "var(--ink)", "line": {"color": "var(--card)", "width": 2}}
    chart.add_trace(Scatter(x=heads, y=layers, mode="markers", marker=marker, hoverinfo="skip", showlegend=False))


def head_axes(chart: PlotlyFigure, grid: HeadGrid) -> None:
    """Label the axes of a heat map of heads."""
    chart.update_xaxes(title="head", dtick=1 if grid.heads <= 16 else 2, range=[-0.5, grid.heads - 0.5], showgrid=False)
    chart.update_yaxes(
        title="layer", dtick=1 if grid.layers <= 24 else 2, range=[-0.5, grid.layers - 0.5], showgrid=False
    )


def _tell(head: Head, delta: float, selected: HeadMask) -> str:
    change = "no value" if np.isnan(delta) else f"{delta:+.2f} points"
    return f"<b>{head}</b>: {change}" + ("<br>ablated in the selected mask" if head in selected else "")


def _points(
    chart: PlotlyFigure,
    points: Mapping[HeadMask, float],
    name: str,
    *,
    color: str,
    size: int,
    symbol: str = "circle",
    opacity: float = 1.0,
    dash: str | None = None,
) -> None:
    from plotly.graph_objects import Scatter

    color = f"var(--{color})"
    chart.add_trace(
        Scatter(
            x=list(map(len, points)),
            y=[round(value, 4) for value in points.values()],
            customdata=list(map(_wrapped, points)),
            name=name,
            mode="markers" if dash is None else "lines+markers",
            opacity=opacity,
            line={"color": color, "dash": dash, "width": 2} if dash else None,
            marker={"color": color, "size": size, "symbol": symbol, "line": {"width": 3 if "open" in symbol else 0}},
            hovertemplate=f"{name}<br>%{{x}} heads: %{{y:+.2f}} points<br>%{{customdata}}<extra></extra>",
        )
    )


def _by_mask(points: Sequence[Point]) -> dict[HeadMask, float]:
    return {point.mask: point.value for point in points}


def _wrapped(mask: HeadMask) -> str:
    """Return the heads of a mask for a tooltip: six per line, at most 24."""
    heads = list(map(str, mask.heads))
    if not heads:
        return "nothing ablated"
    lines = [", ".join(heads[start : start + 6]) for start in range(0, min(len(heads), 24), 6)]
    return "<br>".join(lines) + (f" and {len(heads) - 24} more" if len(heads) > 24 else "")


def _steps(
    records: Sequence[TrialRecord], places: Sequence[float], strategy: str | None
) -> list[tuple[float, float, str]]:
    """Return the points at which the best value of a strategy, or of all, rose: place, value in points, mask."""
    found: list[tuple[float, float, str]] = []
    for place, record in zip(places, records, strict=True):
        if record.value is None or strategy not in (None, record.strategy):
            continue
        if not found or 100 * record.value > found[-1][1]:
            found.append((place, 100 * record.value, _wrapped(record.mask)))
    return found


def _seconds(records: Sequence[TrialRecord]) -> list[float]:
    return list(accumulate(record.seconds for record in records))


def _finite(values_LH: np.ndarray) -> list[tuple[Head, float]]:
    return [(Head(*map(int, place)), float(values_LH[*place])) for place in np.argwhere(np.isfinite(values_LH))]


def _mask(grid: HeadGrid, heads: Sequence[str]) -> HeadMask:
    return HeadMask.from_heads(grid, map(Head.parse, heads))


def _drawn(study: Study, name: str, draw: Callable[[io.BytesIO], None]) -> bytes:
    """Return the picture that the search drew, or draw it if there is none."""
    path = study.config.folder / name
    return path.read_bytes() if study.result is not None and path.is_file() else png_of(draw)


def png_of(draw: Callable[[io.BytesIO], None]) -> bytes:
    """Return the picture that a function draws into a file."""
    file = io.BytesIO()
    draw(file)
    return file.getvalue()
