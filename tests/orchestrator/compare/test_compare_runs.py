"""Comparing what searches left: every kind of reference, mixtures of them, and what may not be compared."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from headmask.errors import DataError, HeadmaskError, MaskFileError, StudyError
from headmask.mask import HeadMask
from headmask.maskfile import MaskFile
from orchestrator.compare.comparison import compare
from orchestrator.compare.content import Comparison
from orchestrator.compare.panel import Panel, Ranked
from orchestrator.compare.server import connected
from orchestrator.compare.sources import Sources
from orchestrator.settings.config import read_config
from orchestrator.settings.objective import Objective
from orchestrator.statistics.paired import paired_standard_error
from orchestrator.statistics.selection import as_good
from orchestrator.verdict.outcomes import outcomes_of
from orchestrator.verdict.queries import read_queries
from tests.orchestrator.studies import move_folder, start


@pytest.fixture(scope="module")
def left(tmp_path_factory, tiny_files, task_files, empty_mlflow, pixel_cache):
    """A folder with what some tiny searches left; the names of run folders say how they differ from `one`."""
    folder = tmp_path_factory.mktemp("left")
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    model, captions = tiny_files
    changes = {
        "one": {},
        "seed": {"search.seed": 1, "search.strategy": "genetic"},
        "ablation": {"search.ablation": "mean"},
        "data": {"data.path": str(task_files / "other.parquet")},
        "labels": {"data.path": str(task_files / "labels.parquet")},
        "several": {"data.path": [str(captions), str(task_files / "labels.parquet")]},
        "several_seed": {"data.path": [str(captions), str(task_files / "labels.parquet")], "search.seed": 1},
    }
    for name, change in changes.items():
        flags = {
            "model.name": f"local-dir:{model}",
            "data.path": str(captions),
            "output.folder": str(folder / name),
            "search.precheck": False,
            "search.image_chunk": 16,
            "search.random_masks": 0,
            "search.finalists": 4,
            "search.block_size": 8,
            "budget.masks": 24,
            "pool.kind": "inline",
        }
        start(read_config(None, flags | change))
    return folder


def compared(*paths, **sources):
    return compare(Sources(**sources).find(list(map(str, paths))))


def by_name(comparison):
    return {run.name.rsplit("/", 1)[-1]: run for run in comparison.runs}


@pytest.mark.parametrize("name", ["one", "labels", "several"])
def test_intervals_of_the_baseline_and_the_selected_mask_are_the_results_own(left, name):
    result = json.loads((left / name / "result.json").read_text())
    (entrant,) = Sources().find([str(left / name), str(left / "one" / "mask.json")])[:1]
    ranked = Ranked.read(entrant.queries, entrant.digests)
    panel = Panel("test", read_queries(entrant.queries), Objective.parse(entrant.objective), [ranked])
    assert panel.interval(0, 1) == pytest.approx(result["splits"]["test"]["interval"])
    assert panel.p_values(0, [1]) == pytest.approx([result["splits"]["test"]["p_value"]])


def test_runs_of_the_same_data_are_compared_query_by_query(left):
    found = compared(left / "one", left / "seed", left / "ablation")
    runs = by_name(found)
    assert found.reference == runs["one"].letter
    confirm = [run.confirm.selected["mean_recall"] for run in found.runs]
    assert confirm == sorted(confirm, reverse=True)
    assert [run.rank for run in found.runs] == [1, 2, 3]
    assert runs["one"].test.difference is None
    for name in ("seed", "ablation"):
        for split in ("confirm", "test"):
            figures, before = getattr(runs[name], split), getattr(runs["one"], split)
            low, high = figures.difference.interval
            delta = figures.difference.metrics["mean_recall"]
            assert delta == pytest.approx(figures.selected["mean_recall"] - before.selected["mean_recall"])
            assert low <= delta + 1e-9
            assert high >= delta - 1e-9
        assert 0 < runs[name].reference_p_value <= runs[name].reference_p_adjusted <= 1
    who = f"Against {runs['one'].letter}: {runs['ablation'].letter}"
    rule = "scores may be compared, but the same head ablated is another change"
    assert found.warnings == [f"{who} has another ablation: {rule}."]
    assert set(found.settings) == {"search.seed", "search.strategy", "search.ablation"}
    assert found.settings["search.seed"] == [1 if run is runs["seed"] else 0 for run in found.runs]


def test_as_good_as_the_best_is_what_it_is_in_a_search(left):
    entrants = [replace(each, is_reliable=True) for each in Sources().find([str(left / "one"), str(left / "seed")])]
    best, other = compare(entrants).runs
    assert (best.is_as_good, best.best_interval) == (None, None)
    objective = Objective.parse("mean_recall")
    queries = {part.split: part for part in read_queries(entrants[0].queries)}["confirm"]
    earned = {each.name: Ranked.read(each.queries, each.digests).of("confirm")[0].ranks for each in entrants}
    sides = [outcomes_of(queries, earned[run.name], objective.goals[0].mix) for run in (best, other)]
    error = paired_standard_error(*sides, combine=objective.over_draws, draws=10_000)
    values = [run.confirm.selected["mean_recall"] for run in (other, best)]
    assert other.is_as_good == as_good(*values, error)


def test_comparing_runs_imports_nothing_heavy(left):
    program = (
        "import atexit, sys; from orchestrator.cli import main;"
        "atexit.register(lambda: print({'torch', 'ray', 'mlflow', 'matplotlib', 'scipy.stats'} & {*sys.modules}));"
        "main()"
    )
    command = [sys.executable, "-c", program, "compare", str(left / "one"), str(left / "seed")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_a_run_compared_with_itself_moved_elsewhere_differs_in_nothing(left, tmp_path):
    shutil.copytree(left / "one", tmp_path / "copy")
    found = compared(left / "one", tmp_path / "copy")
    copy = by_name(found)["copy"]
    assert copy.test.difference.interval == (0, 0)
    assert copy.reference_p_value == 1
    assert found.jaccard == [[1, 1], [1, 1]]
    assert found.warnings == []
    assert found.settings == {}


def test_other_test_splits_are_not_compared(left):
    found = compared(left / "one", left / "data")
    other = by_name(found)["data"]
    assert other.rank is None
    assert other.test.difference is None
    assert [line.split(": ", 1)[1] for line in found.warnings] == [
        "B has another search split: search scores and curves may not be compared.",
        "B has another confirm split: no differences on confirm are given, and no rank.",
        "B has another test split: no differences on test are given.",
    ]
    # The model is the same, so its heads are.
    assert None not in found.jaccard[0]


def test_another_task_is_shown_and_not_compared(left):
    found = compared(left / "one", left / "labels")
    labels = by_name(found)["labels"]
    assert labels.objective == "top1"
    assert labels.test.selected["top1"] >= 0
    assert labels.test.difference is None
    assert any("B improves another objective" in line for line in found.warnings)


def test_several_data_sets_are_compared_by_their_objective(left):
    found = compared(left / "several", left / "several_seed")
    seed = by_name(found)["several_seed"]
    assert found.objective == "mean of data/mean_recall, labels/top1"
    low, high = seed.confirm.difference.interval
    assert low <= seed.confirm.difference.metrics[found.objective] + 1e-9 <= high + 2e-9
    assert [run.curve[-1].masks for run in found.runs] == [24, 24]


def test_curves_end_at_the_best_mask_of_the_trials(left):
    found = compared(left / "one", left / "several")
    import pyarrow.parquet as pq

    trials = pq.read_table(left / "one" / "trials.parquet")
    points = by_name(found)["one"].curve
    best, values = [], trials["mean_recall"].to_pylist()
    for place, value in enumerate(values):
        if value > max(values[:place], default=-1):
            best.append((place + 1, value))
    assert [(point.masks, point.value) for point in points][: len(best)] == best
    assert points[-1].masks == len(values)
    assert points[-1].seconds == pytest.approx(sum(trials["seconds"].to_pylist()), abs=1e-3)


def test_mask_files_are_compared_as_far_as_they_say_what_they_scored(left, tmp_path):
    """An unreliable search's mask.json is empty; what it selected is in candidate.json."""
    names = ["candidate.json" if (left / name / "candidate.json").exists() else "mask.json" for name in ("one", "seed")]
    shutil.copyfile(left / "one" / names[0], tmp_path / "first.json")
    found = compared(tmp_path / "first.json", left / "seed" / names[1], left / "seed")
    first, run = by_name(found)["first.json"], by_name(found)["seed"]
    assert first.heads == json.loads((left / "one" / "result.json").read_text())["selected"]
    assert run.test.difference.metrics["mean_recall"] == pytest.approx(
        run.test.selected["mean_recall"] - first.test.selected["mean_recall"]
    )
    assert run.test.difference.interval is None
    assert found.warnings == []
    assert "headmask eval --mask ONE --mask OTHER --data DATA" in first.lacks
    assert f"name {left / 'seed'} for them" in by_name(found)[names[1]].lacks


def test_mask_files_of_other_data_are_given_no_differences(left):
    found = compared(left / "one" / "mask.json", left / "data" / "mask.json")
    assert [run.rank for run in found.runs] == [1, None]
    assert any("B has another test split" in line for line in found.warnings)


def test_mask_files_without_digests_are_told_apart_by_the_empty_mask(left, tmp_path):
    for name in ("one", "seed", "data"):
        MaskFile.read(left / name / "mask.json").model_copy(update={"data": ()}).write(tmp_path / f"{name}.json")
    found = compared(tmp_path / "one.json", tmp_path / "seed.json")
    assert [run.rank for run in found.runs] == [1, 2]
    assert "keeps no digest of the data; the empty mask scores the same to the last digit" in found.warnings[0]
    found = compared(tmp_path / "one.json", tmp_path / "data.json")
    assert [run.rank for run in found.runs] == [1, None]
    assert any("the empty mask scores otherwise: no differences are given" in line for line in found.warnings)


def test_a_bare_mask_has_heads_and_nothing_else(left, tmp_path):
    bare = MaskFile.read(left / "one" / "mask.json").model_copy(
        update={"scores": {}, "objective": None, "verdict": None}
    )
    bare.write(tmp_path / "bare.json")
    found = compared(left / "one", tmp_path / "bare.json")
    run = by_name(found)["bare.json"]
    assert (run.rank, run.confirm, run.is_reliable, run.curve) == (None, None, None, [])
    assert found.jaccard[0][1] is not None


def test_a_study_stands_for_its_run_folder(left):
    found = compared("one", left / "seed", storage=str(left / "one" / "study.journal"))
    assert found.runs == [
        run.model_copy(update={"name": "one", "kind": "study"}) if run.name.endswith("/one") else run
        for run in compared(left / "one", left / "seed").runs
    ]


def test_a_study_without_its_run_folder_has_settings_heads_and_a_curve(left, tmp_path):
    shutil.copytree(left / "one", tmp_path / "kept")
    journal = tmp_path / "kept" / "study.journal"
    move_folder(journal, "one", tmp_path / "gone")
    found = compared(left / "seed", "one", storage=str(journal))
    whole, alone = by_name(compared(left / "one", left / "seed"))["one"], by_name(found)["one"]
    assert (alone.kind, alone.rank, alone.test) == ("study", None, None)
    assert alone.heads == whole.heads
    assert alone.curve == whole.curve
    assert alone.lacks.startswith("keeps no confirm and test scores; `headmask resume one --storage")
    assert "search.seed" in found.settings


def test_a_run_folder_without_a_result_is_read_from_its_study(left, tmp_path):
    shutil.copytree(left / "one", tmp_path / "stopped")
    (tmp_path / "stopped" / "result.json").unlink()
    found = compared(tmp_path / "stopped", left / "seed")
    stopped = by_name(found)["stopped"]
    assert stopped.rank is None
    assert f"`headmask resume {tmp_path / 'stopped'}` goes on" in stopped.lacks
    assert found.recommendation.letter is None
    assert "nothing here has confirm scores" in found.recommendation.sentence


def test_tracked_runs_are_read_from_their_server(left):
    uri = f"sqlite:///{left / 'mlflow.db'}"
    ids = {name: json.loads((left / name / "result.json").read_text())["mlflow_run_id"] for name in ("one", "seed")}
    with connected(uri) as server:
        found = compared(ids["one"], left / "seed", server=server)
        tracked = found.runs[[run.kind for run in found.runs].index("tracked run")]
        assert tracked.name == f"one ({ids['one'][:8]})"
        whole = by_name(compared(left / "one", left / "seed"))["one"]
        assert tracked.model_copy(update={"name": whole.name, "kind": whole.kind}) == whole
        with pytest.raises(HeadmaskError, match=f"there is no run {'0' * 32} in sqlite"):
            server.run("0" * 32)
        child = server._client.search_runs(
            [server._client.get_experiment_by_name("headmask").experiment_id],
            f"tags.`mlflow.parentRunId` = '{ids['one']}'",
        )[0]
        with pytest.raises(HeadmaskError, match=f"one finalist of a search; name the search's run, {ids['one']}"):
            server.run(child.info.run_id)
        with pytest.raises(HeadmaskError, match=r"A run of sqlite.* is named by its id of 32 digits"):
            compared("one", ids["seed"], server=server)


def test_an_experiment_is_compared_with_its_best_on_confirm(left, headmask):
    uri = f"sqlite:///{left / 'mlflow.db'}"
    code, out, err = headmask("compare", "--experiment", "headmask", "--tracking-uri", uri, "--top", "7", "--json")
    assert (code, err) == (0, "")
    found = Comparison.model_validate_json(out)
    assert len(found.runs) == 7
    assert found.reference_by == "best on confirm"
    assert found.runs[0].letter == found.reference == "A"
    assert {run.name.split(" ")[0] for run in found.runs if run.rank} == {"one", "seed", "ablation"}
    code, out, _ = headmask("compare", "--experiment", "headmask", "--tracking-uri", uri, "--top", "2", "--json")
    gains = [run.confirm.selected[run.objective] - run.confirm.baseline[run.objective] for run in found.runs]
    chosen = Comparison.model_validate_json(out).runs
    assert sorted(
        (run.confirm.selected[run.objective] - run.confirm.baseline[run.objective] for run in chosen), reverse=True
    ) == pytest.approx(sorted(gains, reverse=True)[:2])
    code, _, err = headmask("compare", "--experiment", "headmsk", "--tracking-uri", uri)
    assert code == 2
    assert "there is no experiment 'headmsk'" in err
    assert "did you mean headmask?" in err


def test_the_terminal_says_which_mask_and_what_may_not_be_compared(left, headmask):
    code, out, err = headmask("compare", left / "one", left / "seed", left / "ablation", left / "labels")
    assert (code, err) == (0, "")
    first, *_ = out.splitlines()
    assert first.startswith(("Ship ", "No recommendation"))
    for text in (
        "another ablation",
        "which runs ablate each head",
        "search.strategy",
        "best on search after this many",
    ):
        assert text in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name what to compare: run folders, mask files, studies or runs; or an --experiment"),
        (["one"], "there is nothing to compare one with; name at least two"),
        (["one", "one"], "there is nothing to compare one with; name at least two"),
        (["one", "./one/"], "there is nothing to compare one with; name at least two"),
        (
            ["one", "ones"],
            "ones is neither a run folder nor a mask file, did you mean one? A study needs --storage URL",
        ),
        (["one", "one/config.json"], "must be a JSON object with format 'headmask/1'"),
        (["one", "empty"], "empty is not a run folder: it has no result.json, and no config.json of a search"),
        (["one", "x", "--storage", "one/study.journal"], "there is no study 'x' in one/study.journal: it has one"),
        (["one", "x", "--storage", "none.journal"], "there is no study at none.journal"),
        (["one", "seed", "--top", "3"], "--top chooses among the searches of an --experiment"),
        (
            ["--experiment", "e"],
            "--experiment needs --tracking-uri URL, or MLFLOW_TRACKING_URI, such as sqlite:///runs/mlflow.db",
        ),
        (["one", "--experiment", "e"], "--experiment chooses what is compared; leave one out"),
        (["one", "seed", "--tracking-uri", "sqlite:///none.db"], "there is no tracking store sqlite:///none.db"),
    ],
)
def test_bad_input_is_one_message(left, headmask, monkeypatch, arguments, message):
    monkeypatch.chdir(left)
    (left / "empty").mkdir(exist_ok=True)
    code, out, err = headmask("compare", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_files_that_are_not_a_runs_are_refused(left, tmp_path):
    def broken(name, content):
        folder = tmp_path / name.replace(".", "_")
        shutil.copytree(left / "one", folder)
        (folder / name).write_text(content)
        return folder

    with pytest.raises(StudyError, match=r"result.json is malformed:\n  verdict: is missing"):
        compared(left / "one", broken("result.json", "{}"))
    with pytest.raises(MaskFileError, match=r"mask.json is not JSON"):
        compared(left / "one", broken("mask.json", "{"))
    with pytest.raises(DataError, match=r"queries.parquet cannot be read as queries.parquet"):
        compared(left / "one", broken("queries.parquet", "none"))
    with pytest.raises(DataError, match=r"trials.parquet cannot be read as trials.parquet"):
        compared(left / "one", broken("trials.parquet", "none"))
    mixed = tmp_path / "mixed"
    shutil.copytree(left / "one", mixed)
    shutil.copyfile(left / "data" / "queries.parquet", mixed / "queries.parquet")
    with pytest.raises(DataError, match=r"is of another confirm split than the result.json beside it; resume the run"):
        compared(left / "one", mixed)


def test_shared_heads_are_those_of_the_masks(left):
    found = compared(left / "one", left / "seed")
    one, seed = (set(by_name(found)[name].heads) for name in ("one", "seed"))
    expected = len(one & seed) / len(one | seed) if one | seed else 1.0
    assert found.jaccard[0][1] == found.jaccard[1][0] == expected
    for run in found.runs:
        assert {head for head, letters in found.heads.items() if run.letter in letters} == set(run.heads)
        grid = MaskFile.read(left / "one" / "mask.json").head_grid
        assert tuple(run.layer_counts) == HeadMask.from_text(grid, ",".join(run.heads)).layer_counts
