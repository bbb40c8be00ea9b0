"""What a comparison says of runs that are made up: whom it recommends, what may be compared, tables and the page."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmask.errors import HeadmaskError
from headmask.mask import HeadGrid, HeadMask
from orchestrator.compare.comparison import compare, differing, jaccard, letters
from orchestrator.compare.content import Comparison, CurvePoint, Recommendation, RunFigures, SplitFigures
from orchestrator.compare.entrant import Entrant, Scores
from orchestrator.compare.names import short_names
from orchestrator.compare.page import write_comparison
from orchestrator.compare.recommend import recommend
from orchestrator.compare.relation import relate
from orchestrator.compare.terminal import MAX_ROWS, checkpoints

GRID = HeadGrid(3, 4)
ATTACK = "</script><img src=x onerror=alert(1)>"
ABOUT = {
    "model": "w",
    "tower": "image",
    "grid": "3x4",
    "data": {"search": "s", "confirm": "c", "test": "t"},
    "task": "retrieval",
    "objective": "mean_recall",
    "guide": "probability",
    "ablation": "zero",
    "precision": "float32",
    "seed": 0,
}


def entrant(name="run", confirm=0.6, heads="L0H1", *, about=None, reliable=True, p_value=0.01, queries=None):
    scores = {split: Scores({"mean_recall": 0.5}, {"mean_recall": confirm}) for split in ("confirm", "test")}
    return Entrant(
        name=name,
        kind="run folder",
        about={**ABOUT, **(about or {})},
        grid=GRID,
        mask=HeadMask.from_text(GRID, heads),
        objective="mean_recall",
        scores=scores,
        interval=(0.01, 0.1),
        p_value=p_value,
        is_reliable=reliable,
        queries=queries,
    )


def run(letter, rank=1, heads=3, *, reliable=True, p_adjusted=0.01, **to_best):
    figures = SplitFigures(baseline={"mean_recall": 0.5}, selected={"mean_recall": 0.6}, difference=None)
    return RunFigures(
        letter=letter,
        name=f"runs/{letter}",
        kind="run folder",
        rank=rank,
        model="m",
        tower="image",
        grid="3x4",
        ablation="zero",
        objective="mean_recall",
        heads=[f"L0H{head}" for head in range(heads)],
        layer_counts=[heads, 0, 0],
        is_reliable=reliable,
        interval=(0.05, 0.15),
        p_value=0.01,
        p_adjusted=p_adjusted,
        reference_p_value=None,
        reference_p_adjusted=None,
        **{"best_interval": None, "best_test_interval": None, "is_as_good": None, **to_best},
        search=None,
        confirm=figures,
        test=figures,
        num_masks=9,
        image_forwards=None,
        seconds=1.0,
        curve=[CurvePoint(masks=9, seconds=1.0, value=0.6)],
        lacks="",
    )


def test_the_best_on_confirm_of_those_that_improve_reliably_is_recommended():
    found = recommend([run("A", reliable=False), run("B", 2), run("C", 3, is_as_good=False, heads=1)])
    assert (found.letter, found.heads) == ("B", ["L0H0", "L0H1", "L0H2"])
    assert found.sentence.startswith("Ship B (runs/B): it is the best on confirm of the 2 of 3 that improve reliably.")
    assert "changes mean_recall by +10.00 points on test" in found.sentence
    assert "95 % interval +5.00 to +15.00" in found.sentence


def test_ties_go_to_fewer_heads():
    tied = {"best_interval": (-0.02, 0.0), "is_as_good": True}
    found = recommend([run("A"), run("B", 2, 2, **tied), run("C", 3, 1, **tied), run("D", 4, 1, **tied)])
    assert found.letter == "C"
    assert "with 1 head it is as good on confirm as A with 3" in found.sentence
    assert "-2.00 to +0.00 points" in found.sentence
    assert "On test" not in found.sentence
    assert recommend([run("A"), run("B", 2, 3, **tied)]).letter == "A"


def test_who_ships_fewer_heads_is_told_what_they_cost_on_test():
    worse = run("B", 2, 1, best_interval=(-0.02, 0.01), is_as_good=True, best_test_interval=(-0.03, -0.01))
    found = recommend([run("A"), worse])
    assert found.letter == "B"
    assert (
        "it is worse than A (95 % interval -3.00 to -1.00 points): take A if the number of heads does not matter."
        in found.sentence
    )


def test_nothing_is_recommended_where_nothing_improves_reliably():
    found = recommend([run("A", reliable=False), run("B", 2, reliable=False), run("C", None)])
    assert (found.letter, found.heads) == (None, [])
    assert found.sentence == (
        "Ship none: no mask improves reliably on test; keep the model as it is. Not part of this choice: C."
    )
    assert "whether A, B improve" in recommend([run("A", reliable=None), run("B", 2, reliable=None)]).sentence
    assert "nothing here has confirm scores" in recommend([run("A", None)]).sentence


def test_doubts_are_said():
    sentence = recommend([run("A", p_adjusted=0.06), run("B", 2)]).sentence
    assert "no longer significant (Holm, p = 0.0600): confirm it on new data" in sentence
    assert "Whether B are as good cannot be said without paired results." in sentence


def test_p_values_are_adjusted_over_the_runs_compared():
    found = compare([entrant("a", 0.9, p_value=0.01), entrant("b", 0.8, p_value=0.04), entrant("c", 0.7, p_value=0.03)])
    assert [each.p_adjusted for each in found.runs] == pytest.approx([0.03, 0.06, 0.06])


def test_p_values_are_not_adjusted_for_runs_on_other_data():
    other = {"data": {"search": "s2", "confirm": "c2", "test": "t2"}}
    runs = [
        entrant("a", 0.9, p_value=0.01),
        entrant("b", 0.8, p_value=0.04),
        entrant("other data", p_value=0.03, about=other),
    ]
    found = {each.name: each.p_adjusted for each in compare(runs).runs}
    assert found == pytest.approx({"a": 0.02, "b": 0.04, "other data": 0.03})


def test_p_values_are_adjusted_for_other_models_and_mixes_that_share_a_test_split():
    mixed = {"data": {"one/test": "t", "two/test": "t2", "one/confirm": "c", "two/confirm": "c2"}}
    runs = [
        entrant("a", p_value=0.01),
        entrant("model", p_value=0.04, about={"model": "v"}),
        entrant("mixed", p_value=0.03, about=mixed),
    ]
    found = {each.name: each.p_adjusted for each in compare(runs).runs}
    assert found == pytest.approx({"a": 0.03, "model": 0.06, "mixed": 0.06})


def test_without_digests_the_same_baseline_makes_the_same_data():
    runs = [entrant("a", p_value=0.01), entrant("b", p_value=0.03, about={"data": {}})]
    assert [each.p_adjusted for each in compare(runs).runs] == pytest.approx([0.02, 0.03])


def test_ranks_are_by_confirm_and_of_equal_ones_by_fewer_heads():
    runs = [entrant("a", 0.6, "L0H1,L1H1"), entrant("b", 0.7), entrant("c", 0.6)]
    found = compare(runs)
    assert [(each.name, each.rank, each.letter) for each in found.runs] == [("b", 1, "A"), ("c", 2, "B"), ("a", 3, "C")]
    assert (found.reference, found.reference_by) == ("C", "named first")
    by_best = compare(runs, "best on confirm")
    assert by_best.reference == "A"


def test_the_best_on_confirm_is_of_most_runs_that_may_be_compared():
    other = {"model": "other"}
    found = compare([entrant("x", 0.99, about=other), entrant("a", 0.6), entrant("b", 0.7)], "best on confirm")
    assert [each.name for each in found.runs] == ["b", "a", "x"]
    assert found.reference == "A"
    assert found.runs[2].rank is None


def test_one_run_is_nothing_to_compare():
    with pytest.raises(HeadmaskError, match="there is nothing to compare; name at least two, got 1"):
        compare([entrant()])


@pytest.mark.parametrize(
    ("about", "scores", "same_heads", "words"),
    [
        ({}, "unpaired", True, []),
        ({"seed": 1, "strategy": "genetic"}, "unpaired", True, []),
        ({"model": "v"}, "no", False, ["other weights"]),
        ({"tower": "text"}, "unpaired", False, ["heads of the other tower: scores may be compared"]),
        ({"objective": "t2i_r1"}, "no", True, ["another objective"]),
        ({"objective": "top1", "task": "classification"}, "no", True, ["another objective"]),
        ({"guide": "mrr"}, "unpaired", True, ["searched by another guide"]),
        ({"ablation": "mean"}, "unpaired", True, ["another ablation"]),
        ({"precision": "bfloat16"}, "unpaired", True, ["searched at another precision"]),
        ({"engine": 0}, "unpaired", True, []),
        ({"data": {**ABOUT["data"], "search": "x"}}, "unpaired", True, ["another search split"]),
    ],
)
def test_what_may_not_be_compared_is_said(about, scores, same_heads, words):
    relation = relate(entrant(), entrant(about=about))
    assert dict(relation.scores) == {"confirm": scores, "test": scores}
    assert relation.same_heads is same_heads
    assert len(relation.warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, relation.warnings, strict=True))


def test_older_words_for_a_preprocessing_are_no_difference():
    now, older = "Resize(28); MaybeConvertMode(); MaybeToTensor()", "Resize(28); <function _convert_to_rgb>; ToTensor()"
    for other, warnings in ((older, 0), (older.replace("28", "30"), 1)):
        relation = relate(entrant(about={"preprocess": now}), entrant(about={"preprocess": other}))
        assert len(relation.warnings) == warnings


def test_one_split_may_differ_alone():
    relation = relate(
        entrant(queries=Path("a")), entrant(about={"data": {**ABOUT["data"], "test": "x"}}, queries=Path("b"))
    )
    assert dict(relation.scores) == {"confirm": "paired", "test": "no"}


def test_scores_of_another_device_are_compared_with_a_warning():
    other = entrant()
    drifted = {split: Scores({"mean_recall": 0.51}, {"mean_recall": 0.6}) for split in ("confirm", "test")}
    other = Entrant(**{**vars(other), "scores": drifted})
    relation = relate(entrant(), other)
    assert dict(relation.scores) == {"confirm": "unpaired", "test": "unpaired"}
    assert "on another device or by other versions" in relation.warnings[0]


@given(st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_jaccard_is_counted_cell_by_cell(one, other):
    in_both = sum(cell in one and cell in other for cell in range(12))
    in_either = sum(cell in one or cell in other for cell in range(12))
    assert jaccard(frozenset(one), frozenset(other)) == (in_both / in_either if in_either else 1)


def test_only_differing_settings_are_told_apart():
    assert differing(
        [{"a.x": 1, "a.y": 2, "output.folder": "f"}, {"a.x": 1, "a.y": None, "output.folder": "g"}, {}]
    ) == {"a.y": [2, None, None]}


def test_letters_go_on_after_z():
    names = letters(703)
    assert [names[place] for place in (0, 25, 26, 27, 51, 52, 701, 702)] == [
        "A",
        "Z",
        "AA",
        "AB",
        "AZ",
        "BA",
        "ZZ",
        "AAA",
    ]
    assert len(set(names)) == 703


def test_names_lose_the_folder_that_they_share():
    runs = [
        run("A"),
        run("B").model_copy(update={"name": "runs/deep/B"}),
        run("C").model_copy(update={"kind": "study"}),
    ]
    assert short_names(runs) == {"A": "A", "B": "deep/B", "C": "runs/C"}


def test_curves_are_read_at_their_ends_and_at_halves_of_the_longest():
    assert checkpoints([1000, 300]) == [125, 250, 300, 500, 1000]
    assert checkpoints([1]) == [1]


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def content(runs, **changes):
    found = {
        "objective": "mean_recall", "reference": "A", "reference_by": "named first",
        "recommendation": Recommendation(letter="A", heads=["L0H0"], sentence=f"Ship {ATTACK}"), "runs": runs,
        "jaccard": np.ones((len(runs), len(runs))).tolist(), "heads": {"L0H0": [each.letter for each in runs]},
        "settings": {ATTACK: [ATTACK] * len(runs)}, "warnings": [ATTACK],
    }  # fmt: skip
    return Comparison(**{**found, **changes})


def test_names_and_settings_are_escaped_on_the_page(tmp_path):
    runs = [
        run("A").model_copy(update={"name": ATTACK, "kind": "study", "model": ATTACK, "lacks": ATTACK}),
        run("B", 2),
    ]
    write_comparison(content(runs), tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    images = [attrs for tag, attrs in Tags(html).tags if tag == "img"]
    assert len(images) == 3
    assert all(attrs["src"].startswith("data:image/png;base64,") and attrs["alt"] for attrs in images)
    assert "onerror=alert" not in html.replace("onerror=alert(1)&gt;", "")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_opens_in_a_browser_without_a_complaint(tmp_path, browser, width, scheme):
    write_comparison(content([run("A"), run("B", 2)]), tmp_path / "page.html")
    with browser.opened(tmp_path / "page.html", width=width, scheme=scheme) as page:
        page.wait_for_selector("[data-chart].live:last-of-type .main-svg")
        page.wait_for_selector("html[data-drawn=yes]")
        assert page.locator("[data-chart].live").count() == 3
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cell = page.locator("[data-chart] .nsewdrag").first
        cell.hover(position={"x": 10, "y": cell.bounding_box()["height"] - 10})
        page.wait_for_selector(".hoverlayer .hovertext")
        assert page.locator(".hoverlayer .hovertext").first.text_content() == "L0H0: A, B"
        assert page.complaints == []


def test_a_comparison_without_heads_and_curves_is_a_page_too(tmp_path):
    runs = [run(letter).model_copy(update={"curve": [], "heads": None, "layer_counts": None}) for letter in "AB"]
    nothing = Recommendation(letter=None, heads=[], sentence="No recommendation.")
    found = content(runs, heads={}, settings={}, warnings=[], recommendation=nothing)
    write_comparison(found, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No mask to ship" in html
    assert not [tag for tag, _ in Tags(html).tags if tag == "img"]


def test_many_runs_are_cut_short_on_the_terminal_only(capsys):
    from orchestrator.compare.terminal import show
    from orchestrator.screen.terminal import Terminal

    names = letters(MAX_ROWS + 5)
    found = content([run(letter, place + 1) for place, letter in enumerate(names)])
    show(Terminal(width=120), found)
    assert "5 more are not shown; --json and --out have all of them." in capsys.readouterr().out
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_the_schema_is_printed(headmask):
    code, out, _ = headmask("schema", "compare")
    assert code == 0
    properties = json.loads(out)["properties"]
    assert properties["format"]["const"] == "headmask-compare/1"
    assert all(
        "description" in properties[name] for name in ("reference", "runs", "jaccard", "heads", "settings", "warnings")
    )
    assert json.loads(headmask("schema")[1])["properties"]["format"]["const"] == "headmask-result/1"
