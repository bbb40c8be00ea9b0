"""A refinement as one self-contained page."""

from __future__ import annotations

import shlex
from pathlib import Path

from headmask.scales import HeadScales
from orchestrator.outcome.schema import RELIABLE
from orchestrator.pages import Figure, figure, render, write_page
from orchestrator.refine.content import RefineResult
from orchestrator.refine.picture import panels_of, write_held_out, write_panels
from orchestrator.refine.terminal import candidate_rows, sentences, split_rows
from orchestrator.report.charts import DIVERGING, LEGEND, STYLES, cells, head_axes, png_of, size_of


def write_page_of(result: RefineResult, path: Path) -> None:
    """Write the page of a refinement.

    Raises:
        OutputError: the page cannot be written, or something else exists at its place.
    """
    test = result.splits.test
    delta = test.delta[result.objective]
    low, *_, high = sorted((0.0, delta, *(test.interval or ())))
    room = 0.12 * max(high - low, 0.001)
    html = render(
        "refine.html.j2",
        title=f"headmask refinement: {result.study or Path(result.scales_file).parent.name}",
        result=result,
        model=result.settings["model"]["name"],
        data=", ".join(section["path"] for section in result.settings["data"]),
        is_reliable=result.verdict == RELIABLE,
        told=sentences(result),
        axis=(low - room, high + room),
        splits=split_rows(result),
        candidates=candidate_rows(result),
        metrics=_metrics(result),
        charts=[_heat_map(title, scales) for title, scales in panels_of(result).items()],
        held_out=_held_out(result),
        commands=_commands(result),
    )
    write_page(html, path)


def _metrics(result: RefineResult) -> list[list[str]]:
    """Return a row per metric on test: its name, and its values with each side in points."""
    test, over = result.splits.test, result.over_mask
    sides = [test.baseline, *([] if over is None else [over.metrics]), test.selected]
    return [[name, *(f"{100 * side[name]:.2f}" for side in sides)] for name in test.baseline]


def _heat_map(title: str, scales: HeadScales) -> Figure:
    """Return a heat map around 1: blue heads are weakened, red ones strengthened."""
    from plotly.graph_objects import Figure as PlotlyFigure

    grid, scales_LH = scales.grid, scales.to_array()
    picture = png_of(lambda file: write_panels({title: scales}, file))
    texts = [
        [f"<b>L{layer}H{head}</b>: scale {scale:g}" for head, scale in enumerate(row)]
        for layer, row in enumerate(scales_LH.tolist())
    ]
    chart = PlotlyFigure(cells(1 - scales_LH, texts, DIVERGING, 1.0, "1 - scale"))
    head_axes(chart, grid)
    height, width = size_of(grid)
    alt = f"Heat map of {title}: {len(scales)} of {len(grid)} heads are changed."
    return figure(chart, picture, alt=alt, caption=title, height=height, width=width)


def _held_out(result: RefineResult) -> Figure:
    """Return the guide on held-out parts against the number of steps, a line for every way of training."""
    from plotly.graph_objects import Figure as PlotlyFigure
    from plotly.graph_objects import Scatter

    chart = PlotlyFigure()
    for each, (colour, symbol, dash) in zip(result.held_out, STYLES, strict=False):
        values = [None if value is None else 100 * value for value in each.values.values()]
        name = f"from the {each.start}, pull {each.pull:g}"
        chart.add_trace(
            Scatter(
                x=list(map(str, each.values)),
                y=values,
                name=name,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"symbol": symbol, "size": 9},
                hovertemplate=f"{name}<br>%{{x}} steps: %{{y:.2f}}<extra></extra>",
            )
        )
    chart.update_layout(legend=LEGEND)
    chart.update_xaxes(title="steps", type="category")
    chart.update_yaxes(title=f"{result.guide} on held-out parts, in points")
    alt = f"Line chart: {result.guide} on held-out parts of the search split against the number of steps."
    return figure(chart, png_of(lambda file: write_held_out(result, file)), alt=alt, height=380)


def _commands(result: RefineResult) -> list[tuple[str, str]]:
    """Return commands to run, each with its purpose."""
    scales = result.scales_file
    commands = [
        ("the scales on other data", ["eval", "--scales", scales, "--data", "other.parquet"]),
        ("a plain checkpoint", ["export", "--scales", scales, "--out", "refined/"]),
    ]
    if result.keeps_mask:
        commands.append(("without the mask's heads", ["export", "--scales", scales, "--prune", "--out", "pruned/"]))
    return [(what, shlex.join(["headmask", *words])) for what, words in commands]
