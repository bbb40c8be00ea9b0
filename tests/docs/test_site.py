"""The site builds without a warning, asks no other host for anything, and its links lead somewhere."""

import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page refers to, what it loads, and what can be referred to in it."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        if tag == "a":
            self.links.append(attrs.get("href") or "")
        else:
            self.loaded += [target for name in ("src", "href") if (target := attrs.get(name))]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: a page by its path."""
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-c", "docs", "."]
    done = subprocess.run([*build, str(out)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return {path: Page(path) for path in out.rglob("*.html")}


def test_every_page_is_built(site):
    names = {path.parent.name + "/" + path.stem for path in site}
    assert names >= {"docs/index", "docs/tutorial", "docs/notebook", "reference/python", "deploy/README"}


def test_nothing_is_loaded_from_other_hosts(site):
    loaded = {target for page in site.values() for target in page.loaded}
    assert {target for target in loaded if urlsplit(target).scheme not in ("", "data")} == set()


def test_links_and_anchors_lead_somewhere(site):
    broken = []
    for path, page in site.items():
        for target in filter(None, page.links):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not to.is_file() or (to in site and parts.fragment and unquote(parts.fragment) not in site[to].ids):
                broken.append((path.name, target))
    assert broken == []


def test_the_python_interface_is_described(site):
    (page,) = [page for path, page in site.items() if path.match("reference/python.html")]
    assert page.ids >= {"headmask.search", "headmask.scan", "headmask.load", "headmask.SearchRun.plot"}
