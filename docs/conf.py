"""How `make docs` builds the site. Its source is the repository's root, so that pages of other folders belong to it."""

from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

project = "headmask"
author = "The headmask authors"
version = release = version_of("headmask")

root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "docs/notebook.ipynb",
    "deploy/README.md",
    "benchmarks/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
exclude_patterns = [".venv", "build", "runs"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
myst_heading_anchors = 4
myst_enable_extensions = []
nb_execution_mode = "off"  # The notebook is kept executed; tests/docs runs it.

default_role = "code"  # Docstrings have one backtick, as Markdown does.
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "headmask"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
copybutton_exclude = ".linenos, .gp, .go"


def _mark_code(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Mark the indented examples of docstrings as code."""
    marked: list[str] = []
    in_code = False
    for before, line in zip(["", *lines], lines, strict=False):
        begins = line.startswith("    ") and not before.strip() and not in_code
        if begins and any(marked):
            marked += ["::", ""]
        in_code = begins or (in_code and (line.startswith("    ") or not line.strip()))
        marked.append(line)
    lines[:] = marked


def _redirect(app: Any, exception: Exception | None) -> None:
    """Lead from the site's root to its first page."""
    if exception is None and app.builder.name == "html":
        to = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=docs/index.html">'
        link = '<title>headmask</title><a href="docs/index.html">headmask</a>\n'
        (Path(app.outdir) / "index.html").write_text(to + link, encoding="utf-8")


def setup(app: Any) -> None:
    """Register what Sphinx does not do by itself; before Napoleon, which reads sections by their indentation."""
    app.connect("autodoc-process-docstring", _mark_code, priority=400)
    app.connect("build-finished", _redirect)
