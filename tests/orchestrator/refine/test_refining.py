"""Refinements from a search and without one: what they write, what they say, what they refuse, and that they go on."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

import headmask
from headmask.errors import ConfigError, HeadmaskError, StudyError
from headmask.mask import Head
from headmask.scalesfile import ScalesFile
from orchestrator.cli import app
from orchestrator.outcome.schema import Guarded, SearchResult, read_result
from orchestrator.refine import refining
from orchestrator.refine.content import read_refinement
from orchestrator.refine.terminal import sentences
from orchestrator.run.display import Quiet
from orchestrator.search.scoring import Interrupted
from orchestrator.search.tasks import KeptTasks
from orchestrator.study.looks import kept_looks
from tests.orchestrator.studies import recall_of, start
from tests.tiny import make_tiny_config, write_tiny_dataset

CLOCKS = ("seconds", "checksum", "mlflow_run_id", "test_looks", "scales_file", "settings")


def told(result):
    """Return what a result says, but for clocks and places."""
    return {key: value for key, value in result.model_dump(mode="json").items() if key not in CLOCKS}


@pytest.fixture
def refined():
    """Refines a run folder, or settings."""

    def run(folder=None, flags=None, **options):
        order = refining.order_of(folder, flags or {}, options.pop("steps", 8), **options)
        return refining.refine(order, Quiet())

    return run


@pytest.fixture(scope="module")
def searched_once(tiny_files, empty_mlflow, tmp_path_factory):
    """A folder of run folders with a finished search that selected heads."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    assert start(make_tiny_config(tiny_files, folder / "searched", budget__masks=40)).result.selected
    return folder


@pytest.fixture
def searched(searched_once, tmp_path):
    """The run folder of a finished search that selected heads."""
    return shutil.copytree(searched_once, tmp_path / "searched_runs") / "searched"


def direct(tiny_files, folder):
    return {
        "model.name": f"local-dir:{tiny_files[0]}",
        "data.path": str(tiny_files[1]),
        "output.folder": str(folder),
        "pool.kind": "inline",
        "search.precheck": False,
        "search.image_chunk": 16,
    }


def test_a_refinement_leaves_its_files_and_a_child_run(searched, refined):
    result = refined(searched)
    search = read_result(searched, SearchResult)
    assert (result.study, result.mask) == ("searched", search.selected)
    assert {each.start for each in result.held_out} == {"model", "mask"}
    assert [each.name for each in result.candidates[:2]] == ["the model as it is", "the mask"]
    assert result.selected_name in {each.name for each in result.candidates}
    assert {each.name for each in searched.iterdir()} >= {"scales.json", "refine.json", "refined.png", "refine.html"}
    assert read_refinement(searched) == result
    content = ScalesFile.read(searched / "scales.json")
    assert content.heads == result.recommended
    assert content.refined == tuple(result.mask)
    assert (
        content.scores["test"].selected["mean_recall"]
        == (result.splits.test.selected if result.recommended == result.selected else result.splits.test.baseline)[
            "mean_recall"
        ]
    )
    client = MlflowClient(tracking_uri=f"sqlite:///{searched.parent / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    children = [
        run
        for run in client.search_runs([experiment.experiment_id])
        if run.data.tags.get("headmask.kind") == "refinement"
    ]
    assert [run.data.tags["mlflow.parentRunId"] for run in children] == [search.mlflow_run_id]
    assert children[0].data.metrics["test/mean_recall"] == result.splits.test.selected["mean_recall"]
    assert "scales.json" in {each.path for each in client.list_artifacts(search.mlflow_run_id)}


def test_the_same_refinement_again_says_the_same_and_is_the_same_run(searched, refined):
    first = refined(searched)
    assert told(refined(searched)) == told(first)
    client = MlflowClient(tracking_uri=f"sqlite:///{searched.parent / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    kinds = [run.data.tags["headmask.kind"] for run in client.search_runs([experiment.experiment_id])]
    assert kinds.count("refinement") == 1


def test_one_that_was_stopped_on_the_way_goes_on_to_the_same_result(searched, refined, monkeypatch, tmp_path):
    whole = refined(searched)
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "other"))
    for method, number in (("gradients", 3), ("gradients", 11), ("scores", 2), ("scores", 4)):
        calls, done = iter(range(number)), getattr(KeptTasks, method)

        def stopping(tasks, *arguments, done=done, calls=calls):
            if next(calls, None) is None:
                raise Interrupted
            return done(tasks, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(KeptTasks, method, stopping)
            with pytest.raises(Interrupted):
                refined(searched)
    assert told(refined(searched)) == told(whole)


def test_looks_at_the_test_split_are_counted(searched, refined):
    before = read_result(searched, SearchResult).test_looks
    result = refined(searched)
    looks = {(look.words, look.scales) for look in kept_looks(searched)}
    is_new = result.selected and result.selected_name != "the mask"
    assert result.test_looks == before + bool(is_new) == len(looks)


def test_the_folded_model_has_the_recall_that_the_result_states(searched, refined, tmp_path, monkeypatch):
    monkeypatch.setattr(refining.Choice, "is_reliable", True)
    result = refined(searched)
    content = ScalesFile.read(searched / "scales.json")
    model = headmask.load_model(content.model.name)
    headmask.export(model, content, tmp_path / "folded")
    stock, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'folded'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'folded'}")
    data = Path(result.settings["data"][0]["path"])
    assert recall_of(stock.eval(), preprocess, tokenizer, data) == pytest.approx(
        result.splits.test.selected["mean_recall"], abs=1e-9
    )


def test_a_kept_mask_is_ablated_in_all_that_is_chosen_from(searched, refined):
    result = refined(searched, keeps_mask=True)
    assert {each.start for each in result.held_out} == {"mask"}
    assert result.keeps_mask
    if result.selected:
        assert {head for head, scale in result.selected.items() if scale == 0} >= set(result.mask)


def test_a_model_is_refined_without_a_search(tiny_files, runs, refined, monkeypatch):
    monkeypatch.setattr(refining.Choice, "is_reliable", False)
    folder = runs / "direct"
    result = refined(flags=direct(tiny_files, folder))
    assert (result.study, result.mask, result.over_mask) == (None, None, None)
    assert {each.start for each in result.held_out} == {"model"}
    assert ScalesFile.read(folder / "scales.json").heads == {}
    assert (folder / "candidate-scales.json").exists() == bool(result.selected)
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "direct")
    assert run.data.tags["headmask.kind"] == "refinement"
    assert "refine.json" in {each.path for each in client.list_artifacts(run.info.run_id)}
    assert told(refined(flags=direct(tiny_files, folder))) == told(result)


@pytest.mark.parametrize("changes", [{"search.tower": "text"}, {"search.ablation": "mean"}, {"search.ablation": "cls"}])
def test_towers_and_ablations_are_refined(tiny_files, runs, refined, changes, monkeypatch):
    monkeypatch.setattr(refining.Choice, "is_reliable", True)
    result = refined(flags={**direct(tiny_files, runs / "direct"), **changes})
    content = ScalesFile.read(runs / "direct" / "scales.json")
    assert content.heads == result.selected
    if changes.get("search.ablation") == "mean" and result.selected:
        assert set(content.means) == set(result.selected)


def test_scales_that_improve_nothing_are_not_recommended(searched, refined, monkeypatch):
    monkeypatch.setattr(refining.Choice, "is_reliable", False)
    result = refined(searched)
    assert result.verdict == "no reliable improvement"
    assert (result.recommended, ScalesFile.read(searched / "scales.json").heads) == ({}, {})
    if result.selected:
        assert ScalesFile.read(searched / "candidate-scales.json").heads == result.selected


def test_clusters_of_guarded_data_sets_are_not_counted_among_few(searched, refined):
    result = refined(searched)
    (own,) = result.splits.test.clusters
    guarded = Guarded(data="other", objective="mean_recall", max_loss=0.01, delta=0.0, interval=None, holds=True)
    few = own.model_copy(update={"data": "other", "number": 7, "effective": 7.0})
    test = result.splits.test.model_copy(update={"clusters": [own, few]})
    both = result.model_copy(update={"splits": result.splits.model_copy(update={"test": test}), "guarded": [guarded]})
    first, *others = sentences(both)
    assert first == sentences(result)[0]
    assert any(line.startswith("other: ") and "only 7 independent groups" in line for line in others)


def test_data_that_have_changed_since_the_search_are_refused(searched, refined, tmp_path):
    config = json.loads((searched / "config.json").read_text())
    other = tmp_path / "other.parquet"
    write_tiny_dataset(other, search=20, confirm=20, test=30)
    config["data"][0] = {"path": str(other)}
    (searched / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        StudyError, match="cannot be refined, because its data have changed since the search: confirm, search"
    ):
        refined(searched)


@pytest.mark.parametrize(
    ("flags", "options", "message"),
    [
        ({"model.name": "ViT-B-32"}, {}, "a search brings its model, its data and its settings: leave out --model"),
        ({"search.tower": "text"}, {}, "leave out --tower"),
    ],
)
def test_settings_that_a_search_brings_are_refused(searched, refined, flags, options, message):
    with pytest.raises(ConfigError, match=message):
        refined(searched, flags, **options)


def test_a_mask_is_kept_only_where_there_is_one(runs, refined, tiny_config, monkeypatch):
    with pytest.raises(ConfigError, match="name the run folder of a search"):
        refined(keeps_mask=True)
    config = tiny_config("none")
    start(config)
    result = json.loads((config.folder / "result.json").read_text())
    empty = {**result, "selected": [], "recommended": [], "checksum": ""}
    (config.folder / "result.json").write_text(json.dumps(empty))
    mask = json.loads((config.folder / "mask.json").read_text())
    (config.folder / "mask.json").write_text(json.dumps({**mask, "heads": []}))
    with pytest.raises(ConfigError, match=r"--prune keeps the heads of a mask ablated, and the search in .* selected"):
        refined(config.folder, keeps_mask=True)


def test_a_folder_without_a_result_is_refused(tmp_path, refined):
    with pytest.raises(HeadmaskError, match="there is no run folder at"):
        refined(tmp_path / "nothing")


def test_a_refinement_that_was_changed_is_not_read(searched, refined):
    refined(searched)
    path = searched / "refine.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "test_looks": 0}))
    with pytest.raises(StudyError, match="is not what headmask wrote"):
        read_refinement(searched)


@pytest.fixture
def command():
    runner = CliRunner()

    def run(*arguments):
        result = runner.invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_the_command_says_what_was_found(searched, command):
    plan = command("refine", searched, "--steps", 8, "--plan")
    assert "begins from: the model and the mask" in plan
    assert "steps at most: 112" in plan
    text = command("refine", searched, "--steps", 8)
    assert "compared on confirm" in text
    assert "eliable improvement" in text
    found = json.loads((searched / "refine.json").read_text())
    assert found["format"] == "headmask-refine/1"
    page = (searched / "refine.html").read_text()
    assert "The scale of every head" in page
    assert "How they were chosen" in page
    run = headmask.RefineRun.read(searched)
    assert run.scales.heads == run.recommended
    assert "<table>" in run._repr_html_()


def test_scales_are_evaluated_compared_and_explained(searched, command, tiny_files, tmp_path, refined, monkeypatch):
    monkeypatch.setattr(refining.Choice, "is_reliable", True)
    result = refined(searched)
    scales = searched / "scales.json"
    found = json.loads(command("eval", "--scales", scales, "--data", tiny_files[1], "--split", "test", "--json"))
    assert found["masked"]["mean_recall"] == pytest.approx(result.splits.test.selected["mean_recall"], abs=0.02)
    assert found["test_looks"] == result.test_looks
    table = command("eval", "--scales", scales, "--mask", searched / "mask.json", "--data", tiny_files[1])
    assert "change in points" in table
    compared = json.loads(command("compare", searched, scales, "--json"))
    kinds = {run["kind"]: run for run in compared["runs"]}
    assert kinds["scales file"]["scales"] == result.selected
    low = [
        str(head)
        for head, scale in ((Head.parse(each), value) for each, value in result.selected.items())
        if scale < 0.5
    ]
    assert kinds["scales file"]["heads"] == sorted(low, key=lambda text: Head.parse(text))
    out = tmp_path / "explained"
    command("explain", "--scales", scales, "--data", tiny_files[1], "--out", out, "--images", 1)
    assert len(json.loads((out / "explain.json").read_text())["heads"]) == min(12, len(result.selected))


def test_python_refines_a_run(searched, monkeypatch):
    run = headmask.SearchRun.read(searched)
    found = run.refine(steps=8)
    assert isinstance(found, headmask.RefineRun)
    assert found.folder == searched
    assert np.isfinite(found.splits.test.delta["mean_recall"])
