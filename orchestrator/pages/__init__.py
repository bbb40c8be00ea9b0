"""Self-contained HTML pages: one look, no network, readable without JavaScript.

    chart = figure(plotly_figure, png, alt="what is seen", caption="what it means")
    html = render("report.html.j2", title="demo", charts=[chart])

Templates extend `base.html.j2` and show a chart with `{{ chart(figure) }}` of `macros.html.j2`. Everything is escaped,
and only scripts that `render` puts in itself may run, by a Content-Security-Policy with their hashes. Colours in
figures are written as the variables of `page.css`, such as `var(--blue)`, and follow the reader's light or dark scheme.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from headmask.border.kinds import PAGE
from headmask.border.shown import shown_lines
from headmask.border.writing import write_text

if TYPE_CHECKING:
    from jinja2 import Environment
    from plotly.graph_objects import Figure as PlotlyFigure

MINUS = "\N{MINUS SIGN}"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Noto Sans', sans-serif"


@dataclass(frozen=True)
class Figure:
    """A chart: interactive with JavaScript, a picture without."""

    json: Markup
    """Plotly's JSON, safe inside a script element."""
    picture: str
    """The picture as a data URI."""
    alt: str
    caption: str
    width: int | None
    """Maximum width in pixels; the page's width if None."""


def figure(
    chart: PlotlyFigure, picture: bytes, *, alt: str, caption: str = "", height: int = 420, width: int | None = None
) -> Figure:
    """Return a Plotly figure with its fallback picture, for the macro `chart`.

    Args:
        chart: figure with its data and axes; fonts, margins and colours of the page are set here.
        picture: PNG of the same.
        alt: what is seen, in words.
        caption: below it.
        height: in pixels.
        width: at most, in pixels; the page's by default.
    """
    axis = {"gridcolor": "var(--line)", "linecolor": "var(--line)", "automargin": True, "zeroline": False}
    chart.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13, "color": "var(--ink)"},
        paper_bgcolor="var(--clear)",
        plot_bgcolor="var(--clear)",
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        hoverlabel={"bgcolor": "var(--card)", "bordercolor": "var(--line)", "font": {"color": "var(--ink)"}},
    )
    chart.update_xaxes(**axis)
    chart.update_yaxes(**axis)
    return Figure(json_block(chart.to_json()), data_uri(picture), alt, caption, width)


def json_block(text: str) -> Markup:
    """Return JSON that cannot end the script element that contains it."""
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """Return a file as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def render(template: str, **context: Any) -> str:
    """Return a page: a template of this package, filled in and escaped."""
    scripts = [_asset("page.js")]
    # Five megabytes that a page without charts does not need.
    if context.pop("has_charts", True):
        from plotly.offline import get_plotlyjs

        scripts.insert(0, get_plotlyjs())
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return (
        _environment()
        .get_template(template)
        .render(**context, style=Markup(_asset("page.css")), scripts=list(map(Markup, scripts)), hashes=hashes)
    )


def write_page(html: str, path: Path) -> None:
    """Write a page, as a whole or not at all.

    Raises:
        OutputError: something else exists there, or nothing can be written there.
    """
    write_text(path, html, PAGE)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("orchestrator.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"points": points, "change": change}
    return environment


def _printable(value: Any) -> Any:
    """Return a foreign text without characters that reverse the direction of writing or hide; HTML is kept."""
    return shown_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def points(value: float) -> str:
    """Return a share in [0, 1] in points."""
    return f"{100 * value:.2f}"


def change(value: float) -> str:
    """Return a difference of shares in points, with its sign."""
    return f"{100 * value:+.2f}".replace("-", MINUS)


def _asset(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")
