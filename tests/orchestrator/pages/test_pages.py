from html.parser import HTMLParser

import plotly.graph_objects as go

from orchestrator.pages import MINUS, change, data_uri, figure, json_block, points, render, write_page

ATTACK = "</script><img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text of its scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem:
            self.scripts[-1] += data


def test_title_is_escaped():
    page = Tags(render("base.html.j2", title=ATTACK, has_charts=False))
    assert "img" not in {tag for tag, _ in page.tags}


def test_what_a_reader_would_not_see_is_written_out():
    page = render("base.html.j2", title="a\u202eb\x1b[31m", has_charts=False)
    assert r"a\u202eb\x1b[31m" in page


def test_json_cannot_end_its_script():
    block = json_block('{"text": "</script>&\u2028"}')
    assert not set("<>&\u2028") & set(block)


def test_chart_with_an_attack_is_one_script():
    chart = go.Figure(go.Scatter(x=[1], y=[1], text=[ATTACK]))
    shown = figure(chart, b"png", alt=ATTACK)
    assert ATTACK.encode() not in shown.json.encode()


def test_plotly_is_there_once_and_only_with_charts():
    assert render("base.html.j2", title="t").count("plotly.js v") == 1
    assert "plotly.js v" not in render("base.html.j2", title="t", has_charts=False)


def test_only_scripts_of_the_page_may_run():
    html = render("base.html.j2", title="t", has_charts=False)
    policy = next(attrs["content"] for tag, attrs in Tags(html).tags if attrs.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].startswith("'sha256-")
    assert "unsafe" not in rules["script-src"]


def test_data_uri_holds_the_bytes():
    assert data_uri(b"\x00\xff", "image/webp") == "data:image/webp;base64,AP8="


def test_page_appears_whole(tmp_path):
    write_page("<p>ä", tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == "<p>ä"
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_numbers_are_shown_in_points():
    assert (points(0.5), change(0.5), change(-0.01234)) == ("50.00", "+50.00", f"{MINUS}1.23")
