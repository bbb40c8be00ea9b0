"""Links between pages lead to a file and a heading; links elsewhere have the form of an address."""

import re
from urllib.parse import urlsplit

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, links


def broken(page, target):
    """Return why a link leads nowhere, or None."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        is_local = parts.scheme == "http" and parts.hostname == "127.0.0.1"
        is_address = parts.scheme == "https" and "." in (parts.hostname or "") and " " not in target
        return None if is_local or is_address else "no address"
    path = (page.parent / parts.path).resolve() if parts.path else page
    if not path.is_relative_to(ROOT):
        return "outside of the repository"
    if not path.is_file():
        return "no file"
    if parts.fragment and (path.suffix != ".md" or parts.fragment not in anchors(path)):
        return "no heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert {target: why for target in links(page) if (why := broken(page, target))} == {}


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("data.md#layout", "no heading"),
        ("missing.md", "no file"),
        ("#nowhere", "no heading"),
        ("https://nowhere", "no address"),
        ("http://example.org", "no address"),
        ("../../../etc/hostname", "outside of the repository"),
    ],
)
def test_broken_links_are_found(target, why):
    assert broken(ROOT / "docs" / "tutorial.md", target) == why


def test_every_page_of_docs_is_in_the_navigation():
    listed = re.findall(r"^(?:.* <)?([\w/.]+)>?$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    pages = [page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")]
    named = [str(page) for page in pages if page.parts[0] != "decisions" or page.name == "README"]
    assert [page for page in named if page not in ("index", *listed)] == []


def test_every_decision_is_listed():
    folder = ROOT / "docs" / "decisions"
    assert set(links(folder / "README.md")) == {page.name for page in folder.glob("0*.md")}
