"""What a search returns: the result with its files at hand, and how a notebook shows it."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

import headmask
from headmask.errors import StudyError
from headmask.maskfile import MaskFile
from orchestrator.outcome.figures import draw_run
from orchestrator.outcome.run import SearchRun
from orchestrator.outcome.schema import SearchResult
from orchestrator.outcome.tables import sentences


@pytest.fixture(scope="module")
def run(demo_run):
    return headmask.SearchRun.read(demo_run / "runs" / "demo")


def test_a_search_returns_its_result_and_its_files(tiny_files, runs, capsys):
    model, data = tiny_files
    run = headmask.search(
        model=f"local-dir:{model}",
        data=data,
        out=runs / "first",
        pool="inline",
        masks=16,
        precheck=False,
        image_chunk=16,
    )
    assert capsys.readouterr().out == ""
    assert isinstance(run, SearchResult)
    assert run == SearchRun.read(runs / "first")
    assert run.folder == runs / "first"
    assert run.mask == MaskFile.read(run.mask_file)
    assert len(run.trials) == run.num_masks == 16
    assert run.trials["mask"].tolist()[0] == ""
    assert run.mask.verdict == run.verdict == "no reliable improvement"


def test_the_mask_says_what_it_was_searched_on(run):
    (data,) = run.mask.data
    assert data.name == "scenes"
    for name, split in data.splits.items():
        expected = getattr(run.splits, name)
        assert (split.num_images, split.num_captions) == (expected.num_images, expected.num_captions)
        assert len(split.digest) > 15
    assert run.mask.scores["test"].interval == run.splits.test.interval
    assert run.mask.scores["test"].p_value == run.splits.test.p_value


def test_a_run_folder_may_move(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "moved")
    moved = SearchRun.read(tmp_path / "moved")
    assert moved.folder == tmp_path / "moved"
    assert moved.mask == run.mask


def test_it_prints_as_its_verdict(run):
    assert str(run) == "\n".join(sentences(run))
    assert str(run).startswith("Reliable improvement: ablating ")
    assert repr(run).startswith("SearchRun('reliable improvement', ")
    assert repr(run).endswith(str(run))


def test_a_notebook_shows_a_table_and_the_verdict(run):
    page = run._repr_html_()
    assert page.count("<tr>") == 4
    assert f"<td>{100 * run.splits.test.selected['mean_recall']:.2f}</td>" in page
    assert "<p><strong>Reliable improvement: ablating" in page


def test_names_in_a_notebook_are_escaped(run):
    hostile = run.model_copy(update={"mask_file": "<script>alert(1)</script>/mask.json"})
    assert "<script" not in hostile._repr_html_()
    assert "&lt;script&gt;" in hostile._repr_html_()


def picture(figure):
    with Image.open(io.BytesIO(figure._repr_png_())) as image:
        return np.asarray(image.convert("RGB")).copy()


def test_the_figure_shows_the_scan_and_the_sizes(run):
    figure = run.plot()
    scan, sizes = figure.axes[:2]
    (heat_map,) = scan.get_images()
    shown = heat_map.get_array()
    singles = {row.mask: row.mean_recall for row in run.trials.itertuples() if row.num_heads == 1}
    baseline = run.trials.set_index("mask").loc["", "mean_recall"]
    for head, value in singles.items():
        layer, number = map(int, head[1:].split("H"))
        assert shown[layer, number] == pytest.approx(100 * (value - baseline))
    dots = scan.collections[0].get_offsets().tolist()
    assert [f"L{layer:.0f}H{head:.0f}" for head, layer in dots] == run.selected
    assert "change of mean_recall" in scan.get_title()
    assert "reliable improvement" in sizes.get_title()
    assert picture(figure).std() > 10


def test_a_figure_of_what_trials_do_not_hold_shows_what_was_searched_by(run):
    several = run.model_copy(update={"objective": "mean of a/top1, b/top1"}, deep=True)
    for split in ("search", "confirm", "test"):
        part = getattr(several.splits, split)
        for values in (part.baseline, part.selected, part.delta):
            values["mean of a/top1, b/top1"] = values["mean_recall"]
    figure = draw_run(several, run.mask.head_grid, run.trials)
    assert "change of probability" in figure.axes[0].get_title()


def test_a_figure_without_a_gain_is_drawn(run):
    """Nothing selected, nothing on the front but the baseline."""
    nothing = run.model_copy(update={"selected": [], "size": run.size.model_copy(update={"front": run.size.front[:1]})})
    assert picture(draw_run(nothing, run.mask.head_grid, run.trials)).std() > 10


def test_what_is_no_finished_search_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"has no result\.json"):
        SearchRun.read(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(StudyError, match=r"result\.json is malformed"):
        SearchRun.read(tmp_path)
