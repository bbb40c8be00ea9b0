"""The repository's pages, as a reader of Markdown sees them."""

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "deploy/README.md")
PAGES = [*(ROOT / name for name in OUTSIDE), *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def _tokens(page):
    return MarkdownIt("commonmark", {"html": True}).enable("table").parse(page.read_text(encoding="utf-8"))


def links(page):
    """Return where the page's links and pictures lead."""
    inline = [child for token in _tokens(page) for child in token.children or ()]
    return [str(target) for token in inline if (target := token.attrGet("href") or token.attrGet("src"))]


def anchors(page):
    """Return the anchors of the page's headings, as code hosts and MyST make them."""
    tokens = _tokens(page)
    titles = [after.children for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {_slug("".join(child.content for child in children)) for children in titles}


def _slug(title):
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
