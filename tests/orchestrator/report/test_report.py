"""The report: what the page says, read by an HTML parser."""

import json
import re
import shutil
import tomllib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from headmask.mask import HeadGrid, HeadMask
from orchestrator.outcome.schema import SearchResult
from orchestrator.outcome.tables import read_trials, sentences, write_trials
from orchestrator.report.content import read_study
from orchestrator.report.examples import changed
from orchestrator.report.page import report_html, toml_of, write_report
from orchestrator.run import begin, runner
from orchestrator.settings.config import parse_config
from orchestrator.study.records import TrialRecord
from orchestrator.study.reopening import stored_config
from orchestrator.study.store import StudyStore
from tests.orchestrator.studies import move_folder, start
from tests.tiny import CLASSES, make_tiny_config, tiny_rows
from workers.data.dataset import write_dataset

ATTACK = "</script><img src=x onerror=alert(1)>"
VOID = {"img", "meta", "link", "br", "line", "circle"}


class Page(HTMLParser):
    """A page's sections by heading, with their text, tags and charts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.texts, self.charts = [], [], {}, []
        self.section = "head"
        self.feed(html)
        assert self.open == [], "tags that are not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), self.section))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "h2":
            self.section = dict(attrs)["id"]

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), self.section))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            if self.tags[-1][1].get("type") == "application/json":
                self.charts.append(json.loads(data))
        elif self.open and self.open[-1] != "style":
            self.texts[self.section] = f"{self.texts.get(self.section, '')} {data}"

    def text(self, section):
        return " ".join(self.texts[section].split())

    def pictures(self, section):
        return [attrs for tag, attrs, where in self.tags if tag == "img" and where == section]


def page_of(config):
    return Page((config.folder / "report.html").read_text(encoding="utf-8"))


CAPTIONS = [
    captions
    for row in tiny_rows({"search": 24, "confirm": 20, "test": 30})
    for captions in [(f"{ATTACK} {row.captions[0]}", row.captions[1])]
]


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_files, empty_mlflow, pixel_cache):
    """The configuration of a finished tiny search, on captions that attack the page."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    rows = tiny_rows({"search": 24, "confirm": 20, "test": 30})
    rows = [replace(row, captions=captions) for row, captions in zip(rows, CAPTIONS, strict=True)]
    write_dataset(folder / "attack.parquet", rows)
    files = tiny_files[0], folder / "attack.parquet"
    config = make_tiny_config(files, folder / "tiny", output__study="<b>bold</b> & co", budget__masks=24)
    start(config)
    return config


@pytest.fixture
def finished(done, tmp_path):
    """A copy of that search: its configuration and result."""
    shutil.copytree(done.folder, tmp_path / "tiny")
    config = stored_config(str(tmp_path / "tiny"), None)
    return config, SearchResult.model_validate_json((config.folder / "result.json").read_text())


def changed_page(config, **update):
    """Return the page of a study whose result is changed."""
    study = read_study(config)
    return Page(report_html(replace(study, result=study.result.model_copy(update=update))))


def test_a_search_leaves_its_report(finished):
    config, result = finished
    page = page_of(config)
    verdict = page.text("verdict")
    assert sentences(result)[0] in verdict
    assert verdict.lower().startswith(("✓ " if result.selected == result.recommended else "○ ") + result.verdict)
    for line in sentences(result)[1:]:
        assert line in page.text("splits")
    assert "This test split has been looked at once" in page.text("splits")
    for split in ("search", "confirm", "test"):
        part = getattr(result.splits, split)
        assert f"{100 * part.baseline[result.objective]:.2f}" in page.text("splits")
    about = page.text("about")
    mask = json.loads((config.folder / "mask.json").read_text())
    for fact in (
        mask["model"]["weights_sha256"],
        result.fingerprint,
        "4 heads = 12 heads",
        "mixture, seed 0",
    ):
        assert fact in about
    assert re.search(r"headmask resume \S+/tiny --masks 48", page.text("again"))


def test_trials_are_read_as_they_were_written(finished, tmp_path):
    config, _ = finished
    records = read_study(config).records
    failed = replace(records[3], value=None, metrics={}, failure="it broke")
    write_trials([*records, failed], tmp_path / "again.parquet")
    assert read_trials(tmp_path / "again.parquet", records[0].mask.grid) == [*records, failed]


def test_every_picture_has_words_and_every_table_a_caption(finished):
    tags = page_of(finished[0]).tags
    assert all(attrs["alt"] for tag, attrs, _ in tags if tag == "img")
    names = [tag for tag, *_ in tags]
    assert names.count("table") == names.count("caption") > 5
    assert names.count("h1") == 1
    ids = [attrs["id"] for _, attrs, _ in tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_the_page_refers_to_nothing_outside_it(finished):
    for _, attrs, _ in page_of(finished[0]).tags:
        for key in ("src", "href", "srcset", "action"):
            assert attrs.get(key, "#").startswith(("#", "data:"))


def test_the_charts_hold_the_trials(finished):
    config, result = finished
    page, study = page_of(config), read_study(config)
    heat, pareto, by_masks, by_seconds, *_ = page.charts
    cells = np.array(heat["data"][0]["z"], dtype=float)
    singles = {record.mask.heads[0]: record for record in study.records if len(record.mask) == 1}
    baseline = next(record for record in study.records if record.mask.is_empty)
    for (layer, head), record in singles.items():
        expected = 100 * (record.metrics["mean_recall"] - baseline.metrics["mean_recall"])
        assert cells[layer, head] == pytest.approx(expected, abs=1e-4)
    rings = heat["data"][1]
    assert [f"L{layer}H{head}" for layer, head in zip(rings["y"], rings["x"], strict=True)] == result.selected
    best = 100 * max(record.value for record in study.records if record.value is not None)
    for curve in (by_masks, by_seconds):
        assert curve["data"][0]["y"][-1] == best
        assert {each["name"] for each in curve["data"]} == {"all", *(record.strategy for record in study.records)}
    assert by_masks["data"][0]["x"][-1] == len(study.records)
    assert by_seconds["data"][0]["x"][-1] == pytest.approx(sum(record.seconds for record in study.records))
    assert len(pareto["data"][0]["x"]) == len(study.records)


def test_captions_and_names_cannot_become_elements(finished):
    page = page_of(finished[0])
    assert ATTACK in page.text("queries")
    assert "<b>bold</b> & co" in page.text("head")
    assert not any(attrs.get("src") == "x" or "onerror" in attrs for _, attrs, _ in page.tags)
    assert not any(tag == "b" for tag, *_ in page.tags)


def test_queries_are_those_that_changed_most_with_their_captions_and_ranks(finished):
    """Against the data file and the ranks, by brute force."""
    study = read_study(finished[0])
    (test,) = (part for part in study.queries if part.split == "test")
    texts, images = changed(test, study.config.data[0]).kinds
    assert (texts.title, images.title) == ("Captions looking for their image", "Images looking for their caption")
    before, after = (test.ranks[side]["t2i"].astype(int) for side in ("baseline", "selected"))
    assert (texts.num_better, texts.num_worse) == ((after < before).sum(), (after > before).sum())
    assert texts.num_better + texts.num_worse + texts.num_same == 60
    captions = [caption for of_image in CAPTIONS[44:] for caption in of_image]
    for each in (*texts.better, *texts.worse):
        query = captions.index(*each.texts)
        assert each.row == 44 + query // 2
        assert each.name == f"test{query // 2}.png"
        assert (each.before, each.after) == (str(before[query] + 1), str(after[query] + 1))
        assert [picture[:22] for picture in each.pictures] == ["data:image/webp;base64"]
    ratios_Q = (1 + before) / (1 + after)
    best_of_images = np.sort(ratios_Q.reshape(30, 2).max(1))[::-1]
    shown = [int(each.before) / int(each.after) for each in texts.better]
    assert shown == pytest.approx([ratio for ratio in best_of_images[:6] if ratio > 1])
    for each in images.better:
        assert each.texts == CAPTIONS[each.row]


@pytest.mark.parametrize("tower", ["image", "text"])
def test_classes_are_shown_by_name(tiny_config, task_files, tower):
    config = tiny_config(data__path=str(task_files / "labels.parquet"), search__tower=tower, budget__masks=20)
    start(config)
    page = page_of(config)
    assert "Images and their class" in page.text("queries")
    assert f"{tower}, " in page.text("about")
    shown = [attrs["alt"].split(": ")[1] for attrs in page.pictures("queries")]
    assert set(shown) <= set(CLASSES)
    assert shown == [] or "%)" in page.text("queries")


def test_pairs_are_shown_with_both_images(tiny_config, task_files):
    config = tiny_config(data__path=str(task_files / "pairs.parquet"), budget__masks=20)
    start(config)
    page = page_of(config)
    assert "Pairs of images and captions" in page.text("queries")
    assert "matching improved 20 30" in page.text("about")
    assert len(page.pictures("queries")) % 2 == 0


def test_several_data_sets_have_their_own_part(tiny_config, tiny_files, task_files):
    paths = [str(tiny_files[1]), str(task_files / "labels.parquet")]
    config = tiny_config(data__path=paths, data__max_loss={"labels": 100}, budget__masks=20)
    result = start(config).result
    page = page_of(config)
    assert "may lose 100 points" in page.text("about")
    assert {"t2i", "class"} <= {kind for part in read_study(config).queries for kind in part.ranks["baseline"]}
    assert result.objective == "data/mean_recall"
    assert "labels: top1 changes by" in page.text("splits")
    assert len(page.charts) == 6


def test_scales_are_shown_where_they_were_trained(tiny_config):
    config = tiny_config(budget__masks=60)
    result = start(config).result
    page = page_of(config)
    assert f"over {result.scales.steps} steps" in page.text("scales")
    assert f"changes of single heads above: {result.scales.agreement:.2f}" in page.text("scales")
    fallen = [value for row in page.charts[-2]["data"][0]["z"] for value in row if value is not None]
    assert fallen == pytest.approx([1 - scale for scale in result.scales.scales.values()], abs=1e-4)


def test_a_search_that_trains_no_scales_shows_none(tiny_config):
    config = tiny_config(search__strategy="genetic", budget__masks=20)
    start(config)
    assert "Trained scales" not in report_html(read_study(config))


def test_where_agreement_is_undefined_the_report_says_nothing_of_it(tiny_config):
    config = tiny_config(search__strategy="scales", budget__masks=6)
    start(config)
    text = page_of(config).text("scales")
    assert "of training" not in text
    assert "single heads above" not in text
    assert "steps" in text


def test_a_data_file_that_is_away_is_said(finished):
    config, _ = finished
    section = config.data[0].model_copy(update={"path": "away.parquet", "name": "attack"})
    config = config.model_copy(update={"data": (section,)})
    page = Page(report_html(read_study(config)))
    assert "there is no data file at away.parquet" in page.text("queries")
    assert page.pictures("queries") == []
    assert "improved" in page.text("queries")


def test_an_older_run_folder_says_what_it_lacks(finished):
    config, _ = finished
    (config.folder / "queries.parquet").unlink()
    (config.folder / "trials.parquet").unlink()
    write_report(config, config.folder / "report.html")
    page = page_of(config)
    assert "no queries.parquet" in page.text("missing")
    assert "no trials.parquet" in page.text("missing")
    assert len(page.charts) == 2  # Those of trained scales, which are in result.json.
    assert "points of mean_recall on test" in page.text("verdict")


def test_masks_that_failed_are_counted_with_their_reason(finished):
    config, result = finished
    study = read_study(config)
    bad = TrialRecord(99, HeadMask.from_text(study.grid, "L0H0,L1H1,L2H2"), None, failure="embeddings are not finite")
    result = result.model_copy(update={"num_failed": 1})
    page = Page(report_html(replace(study, records=[*study.records, bad], result=result)))
    assert "embeddings are not finite" in page.text("cost")
    assert "1 mask could not be scored" in page.text("splits")


def test_a_search_without_reliable_improvement_recommends_the_model_as_it_is(finished):
    config, _ = finished
    page = changed_page(config, verdict="no reliable improvement")
    assert page.text("verdict").startswith("○ No reliable improvement")
    assert "Ship the model as it is." in page.text("verdict")


def test_looks_at_the_test_split_are_counted(finished):
    config, _ = finished
    page = changed_page(config, test_looks=3)
    assert "This test split has been looked at 3 times" in page.text("splits")


def explain(folder, heads):
    """Write what `headmask explain` leaves."""
    (folder / "explain").mkdir()
    Image.new("RGB", (300, 200), "red").save(folder / "explain" / "L0H1.png")
    change = {"baseline": 0.5, "head": 0.52, "mask": 0.55}
    head = {
        "head": "L0H1", "in_mask": True, "size": 0.1, "texts": [{"text": ATTACK, "share": 0.25, "cumulative": 0.25}],
        "guide": change, "objective": change, "num_hurt": 12, "num_helped": 5, "images": [], "picture": "L0H1.png",
        "alt": "what it looks at",
    }  # fmt: skip
    content = {
        "format": "headmask-explain/1", "mask": heads, "data": "tiny.parquet", "split": "search", "num_images": 24,
        "guide": "probability", "no_texts": None, "heads": [head],
    }  # fmt: skip
    (folder / "explain" / "explain.json").write_text(json.dumps(content))


def test_what_heads_do_is_shown_where_it_was_explained(finished):
    config, result = finished
    explain(config.folder, result.selected)
    write_report(config, config.folder / "report.html")
    page = page_of(config)
    text = page.text("explain")
    assert f"{ATTACK} (25 %)" in text
    assert "changes by +2.00 points. It hurts on 12 images and helps on 5." in text
    assert "another mask" not in text
    (picture,) = page.pictures("explain")
    assert picture["src"].startswith("data:image/webp;base64,")
    assert picture["alt"] == "what it looks at"


def test_an_explanation_of_another_mask_is_called_so(finished):
    config, _ = finished
    explain(config.folder, ["L2H3", "L2H2", "L2H1", "L2H0"])
    write_report(config, config.folder / "report.html")
    assert "heads belong to another mask" in page_of(config).text("explain")


def test_a_broken_explanation_is_said(finished):
    config, _ = finished
    (config.folder / "explain").mkdir()
    (config.folder / "explain" / "explain.json").write_text("{}")
    write_report(config, config.folder / "report.html")
    assert "explain.json cannot be read" in page_of(config).text("missing")


def test_a_study_whose_run_folder_is_away_has_a_page(finished, headmask, tmp_path):
    config, result = finished
    storage, out = tmp_path / "copy.journal", tmp_path / "page.html"
    shutil.copyfile(config.folder / "study.journal", storage)
    move_folder(storage, config.study_name, "nowhere")
    code, said, _ = headmask("report", config.study_name, "--storage", storage, "--out", out)
    assert (code, said) == (0, f"The report is in {out}\n")
    page = Page(out.read_text(encoding="utf-8"))
    assert page.text("verdict").startswith("… No verdict yet")
    assert "its run folder nowhere is not here" in page.text("verdict")
    assert len(page.charts) == 4
    assert len(page.charts[0]["data"][1]["x"]) == len(result.selected)
    assert result.fingerprint in page.text("about")


def test_a_run_folder_without_a_result_has_a_page(finished, headmask):
    config, _ = finished
    (config.folder / "result.json").unlink()
    code, said, _ = headmask("report", config.folder, "--json")
    assert (code, json.loads(said)) == (0, {"report": str(config.folder / "report.html")})
    assert "24 of 24 masks scored" in page_of(config).text("verdict")
    assert f"headmask resume {config.folder} --masks 48 continues it." in page_of(config).text("verdict")


def test_a_running_search_is_not_told_to_go_on(finished):
    config, _ = finished
    (config.folder / "result.json").unlink()
    with StudyStore.open(config.storage, config.study_name):
        write_report(config, config.folder / "report.html")
    verdict = page_of(config).text("verdict")
    assert "The search is running: write this page again to see how far it is." in verdict
    assert "headmask resume" not in verdict


def test_what_is_no_run_folder_is_refused(headmask, tmp_path):
    code, _, error = headmask("report", tmp_path)
    assert code == 2
    assert re.search(r"there is no run folder at .*: name one, or a study with --storage URL", error)


def test_a_result_that_cannot_be_read_is_refused(finished, headmask):
    config, _ = finished
    (config.folder / "result.json").write_text("{}")
    code, _, error = headmask("report", config.folder)
    assert code == 2
    assert re.search(r"result\.json is malformed:\n  verdict: is missing", error)


def test_a_report_that_fails_does_not_spoil_the_search(tiny_config, monkeypatch):
    said = []

    class Display(runner.Display):
        def say(self, text):
            # What is in the way before the search begins, the search refuses.
            (config.folder / "report.html").mkdir(parents=True, exist_ok=True)
            said.append(text)

        def update(self, progress, pool_status):
            pass

        def stop(self):
            pass

    config = tiny_config(budget__masks=20)
    outcome = begin.start(config, Display())
    assert outcome.exit_code == 0
    assert any(re.match(r"The report could not be written \(.*\); everything else is there", line) for line in said)
    assert (config.folder / "result.json").is_file()


def test_the_toml_is_the_configuration(tiny_config, tiny_files, task_files, tmp_path):
    paths = [str(tiny_files[1]), str(task_files / "labels.parquet")]
    config = tiny_config(
        data__path=paths, data__max_loss={"labels": 0.5}, search__protect=["L0H1"], output__study='a "quoted" näme'
    )
    assert parse_config(tomllib.loads(toml_of(config)), "toml") == config


def large_study(study, result, num_trials=5000):
    """Return a study as large as they come: 24 layers of 16 heads."""
    grid, rng = HeadGrid(24, 16), np.random.default_rng(0)
    masks = dict.fromkeys([HeadMask.empty(grid), *HeadMask.singles(grid)])
    while len(masks) < num_trials:
        heads = rng.choice(len(grid), size=rng.integers(2, 40), replace=False)
        masks[HeadMask.from_heads(grid, [divmod(int(head), 16) for head in heads])] = None
    values = 0.5 + rng.normal(0, 0.02, num_trials) - np.array([len(mask) / 500 for mask in masks])
    records = [
        TrialRecord(number, mask, value, {"mean_recall": value}, "genetic" if len(mask) > 1 else "scan", 0.5)
        for number, (mask, value) in enumerate(zip(masks, values.tolist(), strict=True))
    ]
    selected = [f"L{layer}H{layer % 16}" for layer in range(24)]
    size = result.size.model_copy(update={"front": [], "savings": [], "knee": None})
    update = {"selected": selected, "size": size, "num_masks": num_trials, "best_single": None}
    found = result.model_copy(update=update)
    mask = HeadMask.from_text(grid, ",".join(selected))
    return replace(study, grid=grid, records=records, result=found, guide="mean_recall", selected=mask)


def test_a_large_study_keeps_to_15_megabytes(finished):
    config, result = finished
    html = report_html(large_study(read_study(config), result))
    assert len(Page(html).charts[1]["data"][0]["x"]) == 5000
    assert len(html.encode()) < 15e6


def test_in_a_browser(finished, browser, tmp_path):
    """No error, no request, tooltips, no sideways scrolling on a phone, both schemes, and without JavaScript."""
    config, result = finished
    study = large_study(read_study(config), result)
    path = tmp_path / "report.html"
    path.write_text(report_html(study), encoding="utf-8")
    backgrounds = set()
    for width, scheme in ((1280, "light"), (390, "dark")):
        with browser.opened(path, width=width, scheme=scheme) as page:
            assert page.locator(".live").count() == page.locator("[data-chart]").count() == 6
            assert page.evaluate("document.documentElement.scrollWidth") == width
            heat = page.locator("[data-chart]").first
            heat.locator(".nsewdrag").hover()
            assert "points" in heat.locator(".hovertext").text_content()
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            backgrounds.add(page.locator("[data-chart] .xtitle").first.evaluate("each => getComputedStyle(each).fill"))
            assert page.complaints == []
            assert all(url.startswith(("file:", "data:")) for url in page.requests)
    assert len(backgrounds) == 4
    with browser.opened(path, width=390, javascript=False) as page:
        assert page.locator("#verdict").is_visible()
        stills = page.locator(".still")
        assert stills.count() == 6
        assert all(stills.nth(number).is_visible() for number in range(4))
