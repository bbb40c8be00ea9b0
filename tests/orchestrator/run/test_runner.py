"""What a search leaves behind: files by their schema, MLflow runs, a checkpoint that gives what the report says."""

import json
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.data import get_source
from PIL import Image

import headmask
from headmask.border.home import cache_folder
from headmask.mask import HeadGrid, HeadMask
from headmask.maskfile import MaskFile
from orchestrator.outcome.schema import SearchResult
from orchestrator.outcome.tables import sentences
from orchestrator.run import begin, runner
from orchestrator.run.display import Quiet
from orchestrator.study.looks import count_looks
from orchestrator.study.reopening import stored_config
from orchestrator.study.store import StudyStore
from orchestrator.study.stored import read_stored
from orchestrator.track import mlflowrun
from orchestrator.track import tracker as tracker_module
from orchestrator.verdict.decide import Verdict
from tests.orchestrator.studies import recall_of, resume, start, trials
from workers.scoring.constants import Constants
from workers.scoring.messages import MaskScore
from workers.scoring.scorer import Scorer

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def reliable(monkeypatch):
    """Random weights never improve reliably; take whatever wins on confirm for an improvement."""
    monkeypatch.setattr(Verdict, "is_reliable", True)


@pytest.mark.drawn
def test_the_run_folder_holds_everything(tiny_config):
    config = tiny_config()
    start(config)
    assert {path.name for path in config.folder.iterdir()} >= {
        "study.journal",
        "config.json",
        "trials.parquet",
        "queries.parquet",
        "mask.json",
        "result.json",
        "heatmap.png",
        "pareto.png",
        "scales.png",
    }
    for name in ("heatmap.png", "pareto.png", "scales.png"):
        with Image.open(config.folder / name) as picture:
            assert min(picture.size) > 200
    table = pq.read_table(config.folder / "trials.parquet")
    assert table.num_rows == 40
    masks = [HeadMask(HeadGrid(3, 4), tuple(words)) for words in table["words"].to_pylist()]
    assert table["mask"].to_pylist() == list(map(str, masks))
    assert masks[0].is_empty
    assert [len(mask) for mask in masks[1:8]] == 7 * [1]


def test_the_result_follows_its_schema_and_adds_up(tiny_config):
    config = tiny_config()
    outcome = start(config)
    content = json.loads((config.folder / "result.json").read_text())
    assert SearchResult.model_validate(content) == outcome.result
    assert set(content) >= {
        "verdict", "objective", "splits", "best_single", "random_masks", "num_masks", "seconds", "study",
        "fingerprint", "mlflow_run_id",
    }  # fmt: skip
    for split in content["splits"].values():
        for metric, value in split["delta"].items():
            assert value == split["selected"][metric] - split["baseline"][metric]
    low, high = content["splits"]["test"]["interval"]
    assert low <= content["splits"]["test"]["delta"]["mean_recall"] <= high
    assert content["num_masks"] == 40
    assert (content["verdict"] == "reliable improvement") == (low > 0)


def test_the_result_says_how_good_masks_of_what_size_are(tiny_config):
    """By brute force over the table of trials; a head of this model is 4 T D d + 2 T^2 d multiply-adds."""
    config = tiny_config(budget__masks=60, search__guide="objective")
    size = start(config).result.size
    best: dict[int, float] = {}
    for row in trials(config.folder):
        best[row["num_heads"]] = max(best.get(row["num_heads"], 0.0), row["mean_recall"])
    few = {n: value for n, value in best.items() if all(best[m] < value for m in best if m < n)}
    many = {n: value for n, value in best.items() if all(best[m] < value for m in best if m > n)}
    assert {len(point.heads): point.search for point in size.front} == few
    assert {len(point.heads): point.search for point in size.savings} == many
    assert size.front[0].heads == []
    assert size.front[-1].confirm is not None
    head = 4 * 17 * 32 * 8 + 2 * 17**2 * 8
    plain = 16 * 3 * 49 * 32 + 3 * (12 * 17 * 32**2 + 2 * 17**2 * 32) + 32 * 24
    for point in size.front + size.savings:
        assert point.flops_saved == pytest.approx(len(point.heads) * head / plain)


def test_what_cannot_be_pruned_saves_nothing_that_is_said(tiny_config):
    result = start(tiny_config(search__ablation="uniform", budget__masks=20)).result
    assert {point.flops_saved for point in result.size.front} == {None} == {result.size.flops_saved}
    assert "Pruned" not in " ".join(sentences(result))


def test_a_sentence_says_what_more_masks_would_bring(tiny_config):
    result = start(tiny_config(search__strategy="scan", budget__masks=10)).result

    def said(**changes):
        prospects = result.prospects.model_copy(update={"standard_error": 0.005, "num_more": 40, **changes})
        return " ".join(sentences(result.model_copy(update={"prospects": prospects})))

    assert (
        "Stopped at the budget of masks. Another 40 masks would be expected to add about 0.1 points on the search "
        "split; differences below 0.98 points there are noise." in said(expected=0.0012)
    )
    assert "Another 40 masks would be expected to add less than 0.05 points on" in said(expected=0.0001)
    nothing = "at the budget of masks. On the search split, differences below 0.98 points are noise."
    assert nothing in said(expected=None)
    assert nothing in said(expected=0.0, num_more=0)


def test_random_weights_give_no_reliable_improvement(tiny_config):
    """And then the empty mask is recommended, the candidate kept apart, and the sentence says so."""
    config = tiny_config(search__seed=1)
    outcome = start(config)
    assert outcome.result.verdict == "no reliable improvement"
    assert outcome.result.recommended == []
    assert MaskFile.read(config.folder / "mask.json").mask.is_empty
    assert list(MaskFile.read(config.folder / "candidate.json").heads) == outcome.result.selected
    assert sentences(outcome.result)[0].startswith("No reliable improvement: the best mask on confirm")
    assert "Recommended: the empty mask, the model as it is." in sentences(outcome.result)[0]
    assert outcome.exit_code == 0


def test_the_folded_checkpoint_gives_the_reported_test_recall(tiny_config, reliable):
    """Stock open_clip alone: its loader, its preprocessing, its tokenizer."""
    config = tiny_config(output__fold=True)
    result = start(config).result
    assert result.selected
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{config.folder / 'folded'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{config.folder / 'folded'}")
    assert recall_of(model.eval(), preprocess, tokenizer, Path(config.data[0].path)) == pytest.approx(
        result.splits.test.selected["mean_recall"], abs=1e-9
    )


def test_every_ablation_can_be_searched(tiny_config):
    for ablation in ("mean", "uniform", "cls"):
        config = tiny_config(ablation, search__ablation=ablation, budget__masks=16)
        start(config)
        mask = MaskFile.read(config.folder / "candidate.json")
        assert mask.ablation == ablation
        assert (mask.means is not None) == (ablation == "mean")


def test_failed_masks_end_with_exit_code_1(tiny_config, monkeypatch):
    score = Scorer.score

    def failing(self, masks_MLH, **kept):
        scores = score(self, masks_MLH, **kept)
        bad = [HeadMask.from_bools(mask_LH).words == (1, 0, 0) for mask_LH in masks_MLH]
        return [MaskScore({}, 0.0, "non-finite embeddings") if b else s for b, s in zip(bad, scores, strict=True)]

    monkeypatch.setattr(Scorer, "score", failing)
    config = tiny_config(budget__masks=20)
    outcome = start(config)
    assert outcome.exit_code == 1
    assert outcome.result.num_failed == 1
    assert "1 mask could not be scored; trials.parquet says why." in sentences(outcome.result)
    (row,) = [row for row in trials(config.folder) if row["state"] == "FAIL"]
    assert (row["mask"], row["failure"], row["value"]) == ("L0H0", "non-finite embeddings", None)


def test_looks_at_a_test_split_are_counted_over_a_storage(tiny_config, tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    looks, heads = [], []
    for number in (1, 2, 3):
        # Every one without the heads that were selected before, so that none selects the same mask.
        config = tiny_config(f"s{number}", output__storage=url, search__protect=tuple(heads), search__strategy="scan")
        outcome = start(config)
        heads += map(str, outcome.verdict.selected.heads)
        looks.append(outcome.result.test_looks)
    assert looks == [1, 2, 3]
    outcome = resume(config)
    assert outcome.result.test_looks == 3
    with StudyStore.open(url, "s3") as store:
        assert count_looks(url, store, ["another split"], config.folder) == 0
        away = "sqlite:////no/such/folder/x.db"
        assert count_looks(away, store, outcome.session.test_digests, config.folder) == 3
        (config.folder.parent / "test-looks.jsonl").unlink()
        (cache_folder() / "test-looks.jsonl").unlink()
        assert count_looks(away, store, outcome.session.test_digests, config.folder) == 1
        assert count_looks(url, store, outcome.session.test_digests, config.folder) == 3
    assert "looked at 3 times; every look makes the next claim weaker." in "".join(sentences(outcome.result))


# --- MLflow ---


def test_a_search_whose_tracking_is_refused_finishes_and_says_so(tiny_config):
    config = tiny_config(budget__masks=13, search__strategy="scan")
    database = config.folder.parent / "mlflow.db"
    database.write_bytes(b"this is no database\n" * 500)
    os.utime(database, (1, 1))
    outcome = start(config)
    assert (outcome.exit_code, outcome.result.mlflow_run_id) == (1, None)
    assert (config.folder / "result.json").is_file()


def test_a_search_is_tracked_where_the_environment_says(tiny_config, empty_mlflow, tmp_path, monkeypatch):
    shutil.copyfile(empty_mlflow, tmp_path / "team.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'team.db'}")
    config = tiny_config(budget__masks=13, search__strategy="scan")
    run_id = start(config).result.mlflow_run_id
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'team.db'}")
    assert client.get_run(run_id).info.status == "FINISHED"
    # Where it goes on, whatever the environment says then.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    resumed = stored_config(str(config.folder), None)
    assert resumed.output.tracking_uri == f"sqlite:///{tmp_path / 'team.db'}"


def client(runs):
    return MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")


@pytest.mark.drawn
def test_one_parent_run_per_search_and_one_child_per_finalist(tiny_config, runs):
    config = tiny_config(budget__masks=48)
    outcome = start(config)
    mlflow = client(runs)
    experiment = mlflow.get_experiment_by_name("headmask")
    assert experiment.artifact_location == (runs / "mlartifacts").as_uri()
    everything = mlflow.search_runs([experiment.experiment_id])
    parent = mlflow.get_run(outcome.result.mlflow_run_id)
    children = [run for run in everything if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(everything) == 1 + len(children)
    assert len(children) == len(outcome.verdict.finalists)
    assert {run.info.status for run in everything} == {"FINISHED"}
    assert parent.data.tags["headmask.verdict"] == outcome.result.verdict
    assert parent.data.params["fingerprint"] == outcome.result.fingerprint
    assert parent.data.params["search.strategy"] == parent.data.tags["headmask.strategy"] == "mixture"
    assert parent.data.tags["headmask.stopped_by"] == outcome.result.stopped_by == "masks"
    assert parent.data.metrics["image_forwards"] == outcome.result.image_forwards
    assert parent.data.metrics["search/noise"] == outcome.result.prospects.noise
    assert parent.data.metrics["search/expected"] == outcome.result.prospects.expected
    assert parent.data.metrics["test/delta.mean_recall"] == outcome.result.splits.test.delta["mean_recall"]
    assert {item.path for item in mlflow.list_artifacts(parent.info.run_id)} == {
        "trials.parquet", "queries.parquet", "heatmap.png", "pareto.png", "mask.json", "candidate.json",
        "result.json", "config.json", "report.html", "scales.png",
    }  # fmt: skip
    curve = mlflow.get_metric_history(parent.info.run_id, "best_by_masks")
    assert curve
    assert mlflow.get_metric_history(parent.info.run_id, "best_by_seconds")
    (selected,) = [run for run in children if run.data.tags["headmask.is_selected"] == "true"]
    assert selected.data.tags["headmask.mask"] == ",".join(outcome.result.selected)
    confirm = outcome.result.splits.confirm.selected["mean_recall"]
    assert selected.data.metrics["confirm/mean_recall"] == confirm


def test_the_time_is_that_of_all_runs_of_the_driver(tiny_config):
    first = start(tiny_config(budget__masks=20))
    again = resume(tiny_config(budget__masks=24))
    assert again.result.seconds > first.result.seconds
    with StudyStore.open(again.session.config.storage, "tiny") as store:
        store.set_attr("seconds", 1000.0)
    assert 1000 < resume(tiny_config(budget__masks=28)).result.seconds < 1300


def test_resuming_continues_the_same_runs(tiny_config, runs):
    first = start(tiny_config(budget__masks=20))
    again = resume(tiny_config(budget__masks=40))
    assert again.result.mlflow_run_id == first.result.mlflow_run_id
    mlflow = client(runs)
    everything = mlflow.search_runs([mlflow.get_experiment_by_name("headmask").experiment_id])
    parents = [run for run in everything if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert parents[0].data.metrics["num_masks"] == 40
    words = [run.data.tags[mlflowrun.WORDS_TAG] for run in everything if run not in parents]
    assert len(words) == len(set(words))


def test_a_dead_server_never_stops_a_search(tiny_config, runs, monkeypatch, caplog):
    """Nor does it cost anything: what a sync brings, there or elsewhere, is what a server that is there would have."""
    monkeypatch.setattr(tracker_module, "RUN_S", 0.5)
    monkeypatch.setattr(tracker_module, "CLOSE_S", 3.0)
    config = tiny_config(output__tracking_uri="http://127.0.0.1:9", budget__masks=16)
    with caplog.at_level(logging.WARNING):
        outcome = start(config)
    assert outcome.result.num_masks == 16
    assert outcome.result.mlflow_run_id is None
    assert "tracking at http://127.0.0.1:9 is incomplete: it did not answer" in caplog.text
    assert f"send it with: headmask track sync {config.folder}" in caplog.text
    mlflow, database = client(runs), f"sqlite:///{runs / 'mlflow.db'}"
    synced = tracker_module.sync(config.folder, database)
    run = mlflow.get_run(synced.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/delta.mean_recall"] == outcome.result.splits.test.delta["mean_recall"]
    children = mlflow.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{synced.run_id}'")
    assert len(children) == len(outcome.verdict.finalists)
    again = resume(tiny_config(output__tracking_uri=database, budget__masks=24))
    assert again.result.mlflow_run_id == synced.run_id
    assert mlflow.get_run(synced.run_id).data.metrics["num_masks"] == 24


def test_runs_are_found_by_model_data_strategy_and_verdict(tiny_config, runs):
    outcome = start(tiny_config(budget__masks=16, search__strategy="scan"))
    mlflow = client(runs)
    experiments = [mlflow.get_experiment_by_name("headmask").experiment_id]
    for query in (
        "tags.headmask.kind = 'search'",
        f"tags.headmask.model = '{outcome.session.model.reference.name}' and tags.headmask.kind = 'search'",
        "tags.headmask.data = 'data' and tags.headmask.task = 'retrieval'",
        "tags.headmask.strategy = 'scan' and tags.headmask.tower = 'image'",
        f"tags.headmask.verdict = '{outcome.result.verdict}'",
        "metrics.`test/delta.mean_recall` < 0.5",
        "dataset.name = 'data' and dataset.context = 'test'",
    ):
        assert [run.info.run_id for run in mlflow.search_runs(experiments, query)] == [outcome.result.mlflow_run_id]
    assert list(mlflow.search_runs(experiments, "tags.headmask.strategy = 'genetic'")) == []


def test_data_sets_are_tracked_with_our_digests(tiny_config, runs):
    outcome = start(tiny_config(budget__masks=16))
    run = client(runs).get_run(outcome.result.mlflow_run_id)
    splits = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    assert set(splits) == {"search", "confirm", "test"}
    assert outcome.session.test_digests[0].startswith(splits["test"].digest)
    assert get_source(splits["test"]).load() == outcome.session.config.data[0].path
    assert json.loads(splits["confirm"].profile) == {"task": "retrieval", "num_images": 20, "num_texts": 40}


def test_a_run_describes_itself(tiny_config, runs):
    outcome = start(tiny_config(budget__masks=16))
    note = client(runs).get_run(outcome.result.mlflow_run_id).data.tags["mlflow.note.content"]
    assert note.startswith("**No reliable improvement**: the best mask on confirm (")
    assert "| mean_recall, points | images | baseline | selected | change |" in note
    test = outcome.result.splits.test
    assert f"| test | 30 | {100 * test.baseline['mean_recall']:.2f} | " in note


def test_one_finalist_is_the_selected_one_also_after_a_resume(tiny_config, runs):
    first = start(tiny_config(budget__masks=14, search__guide="objective")).result
    second = resume(tiny_config(budget__masks=60, search__guide="objective")).result
    assert first.selected != second.selected
    mlflow = client(runs)
    query = f"tags.mlflow.parentRunId = '{second.mlflow_run_id}' and tags.headmask.is_selected = 'true'"
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("headmask").experiment_id], query)
    assert run.info.run_name == f"selected: {','.join(second.selected)}"


def test_the_display_is_told_what_goes_on(tiny_config):
    class Listening(Quiet):
        lines: list[str] = []  # noqa: RUF012

        def say(self, text):
            self.lines.append(text)

    config = tiny_config(budget__masks=16)
    outcome = begin.start(config, Listening())
    assert Listening.lines[0].startswith("Loading local-dir:")
    num_finalists = len(outcome.verdict.finalists)
    assert f"re-scoring {num_finalists} finalists on the confirm split" in Listening.lines
    assert Listening.lines[-1] == f"Results are in {config.folder}; report.html there shows them"


def test_a_search_from_python_is_the_search_of_the_command_line(tiny_config, tiny_files, runs):
    result = headmask.search(
        model=f"local-dir:{tiny_files[0]}",
        data=tiny_files[1],
        out=runs / "api",
        pool="inline",
        masks=20,
        precheck=False,
    )
    assert result.num_masks == 20
    assert SearchResult.model_validate_json((runs / "api" / "result.json").read_text()) == result
    with pytest.raises(headmask.HeadmaskError, match="mask: unknown option, did you mean masks"):
        headmask.search(mask=20)


@pytest.mark.parametrize(
    ("began", "scored", "on_cpu"),
    [
        (None, "NVIDIA H200, torch 2.14.1", True),
        ("cpu AVX2, torch 2.14.1", "NVIDIA H200, torch 2.14.1", True),
        ("NVIDIA H200, torch 2.14.1", "NVIDIA H200, torch 2.14.1", False),
        (None, "cpu AVX2, torch 2.14.1", False),
    ],
)
def test_a_study_whose_texts_were_embedded_on_a_cpu_goes_on_so_on_gpus(tiny_session, began, scored, on_cpu):
    store, said = SimpleNamespace(attr={runner.EMBEDDED_ON: began}.get), []
    pool, display = SimpleNamespace(device=scored), SimpleNamespace(say=said.append)
    assert runner._embedded_as_begun(tiny_session, store, pool, display).other.on_cpu is on_cpu
    assert said == (["This study began with texts embedded on a CPU, and goes on so"] if on_cpu else [])


def test_a_study_records_where_its_texts_were_embedded(tiny_config):
    config = tiny_config(budget__masks=20)
    start(config)
    assert read_stored(config.storage, config.study_name).attrs[runner.EMBEDDED_ON].startswith("cpu ")


@pytest.mark.parametrize(
    ("wanted", "settled", "said"),
    [
        ("auto", "float32", "Searching in float32, 16 images at a time"),
        ("float32", "float32", "Searching in float32, 16 images at a time"),
        (
            "auto",
            "bfloat16",
            "Searching in bfloat16, in which this hardware computes, 16 images at a time; finalists in float32",
        ),
        ("bfloat16", "bfloat16", "Searching in bfloat16, 16 images at a time; finalists in float32"),
    ],
)
def test_the_precision_of_a_search_is_said_in_one_line(tiny_session, wanted, settled, said):
    config = tiny_session.config
    config = config.model_copy(update={"search": config.search.model_copy(update={"precision": wanted})})
    session = tiny_session.settled(Constants(settled, 16))
    assert runner._settled_sentence(config, session) == said
