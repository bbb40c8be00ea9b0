"""The same study from one replica or two, in one go or in pieces, killed at any moment and resumed.

Compared are proposal number, words, values and state of every trial, on matrix shapes as real models have them.
"""

import json
import os
import re
import signal

import pytest

from headmask.errors import ConfigError, StudyError
from orchestrator.run import runner
from orchestrator.search.scoring import Interrupted
from orchestrator.settings.config import SearchConfig
from orchestrator.study.catalogue import list_studies
from orchestrator.study.reopening import stored_config
from orchestrator.study.storage import load_study, open_storage
from orchestrator.verdict.decide import Verdict
from strategies import STRATEGIES
from tests.orchestrator.run.killed import MOMENTS
from tests.orchestrator.studies import change_attr, killed, outcome, resume, start, trials
from tests.tiny import write_tiny_dataset, write_tiny_model


@pytest.fixture
def wide_config(tiny_config, wide_files):
    def make(name, **changes):
        return tiny_config(name, wide_files, **{"search__image_chunk": 8, "search__finalists": 3, **changes})

    return make


@pytest.fixture(scope="module")
def kept():
    """Undisturbed studies, run once and compared with by several tests."""
    return {}


@pytest.fixture
def undisturbed(wide_config, kept):
    def run(precision, masks):
        if (precision, masks) not in kept:
            config = wide_config("undisturbed", search__precision=precision, budget__masks=masks)
            start(config)
            kept[precision, masks] = trials(config.folder), outcome(config.folder)
        return kept[precision, masks]

    return run


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_24_masks_extended_to_44_equal_44_at_once(wide_config, undisturbed, precision):
    config = wide_config("grown", search__precision=precision, budget__masks=24)
    start(config)
    table, _ = undisturbed(precision, 44)
    assert trials(config.folder) == table[:24]
    resume(wide_config("grown", search__precision=precision, budget__masks=44))
    assert trials(config.folder) == table
    assert len({row["mean_recall"] for row in table}) > 5


@pytest.mark.parametrize(
    ("replicas", "precision"),
    [
        (2, "float32"),
        pytest.param(1, "float32", marks=pytest.mark.slow),
        pytest.param(2, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_ray_with_any_number_of_replicas_equals_inline(wide_config, undisturbed, local_ray, precision, replicas):
    config = wide_config(
        "ray", search__precision=precision, budget__masks=44, pool__kind="ray", pool__replicas=replicas
    )
    start(config)
    table, result = undisturbed(precision, 44)
    assert trials(config.folder) == table
    assert outcome(config.folder) == result


def test_a_search_killed_at_any_moment_goes_on_as_if_nothing_had_been(tiny_config, monkeypatch):
    monkeypatch.setattr(Verdict, "is_reliable", True)
    changes = {"output__fold": True, "search__surrogate": False}
    whole = tiny_config("whole", **changes)
    start(whole)
    configs = {moment: tiny_config(moment, **changes) for moment in MOMENTS}
    killed(list(configs.items()))
    for moment, config in configs.items():
        assert not (config.folder / "result.json").exists()
        resume(config)
        assert trials(config.folder) == trials(whole.folder), moment
        assert outcome(config.folder) == outcome(whole.folder), moment
        left = {path.name for path in config.folder.iterdir() if path.suffix not in (".driver", ".flock")}
        assert left == {path.name for path in whole.folder.iterdir() if path.suffix not in (".driver", ".flock")}


@pytest.mark.slow
def test_strategies_propose_the_same_masks_killed_extended_and_on_two_replicas(wide_config, local_ray):
    """All at once; each is tested alone for the default strategy, and that they go on in tests/strategies."""
    names = sorted(set(STRATEGIES) - {"scan"})
    killed([("blocks", wide_config(name, search__strategy=name, budget__masks=45)) for name in names])
    for name in names:
        changes = {"search__strategy": name, "budget__masks": 60}
        whole, config = wide_config(f"whole-{name}", **changes), wide_config(name, **changes)
        start(whole)
        with open_storage(config.storage) as storage:
            stored = load_study(storage, config.storage, config.study_name)
        assert 13 + 8 < len(stored.get_trials()) < 45
        resume(wide_config(name, pool__kind="ray", pool__replicas=2, **changes))
        assert trials(config.folder) == trials(whole.folder), name
        assert outcome(config.folder) == outcome(whole.folder), name


def test_an_interrupted_search_can_be_resumed(wide_config, undisturbed, monkeypatch):
    config = wide_config("stopped", budget__masks=44)
    make_pool = runner.make_pool

    def impatient(session, display, ahead):
        pool = make_pool(session, display, ahead)
        collect, count = pool.collect, iter(range(4))

        def collecting(timeout_s):
            if next(count, None) is None:
                os.kill(os.getpid(), signal.SIGTERM)
            return collect(timeout_s)

        pool.collect = collecting
        return pool

    monkeypatch.setattr(runner, "make_pool", impatient)
    with pytest.raises(Interrupted):
        start(config)
    monkeypatch.undo()
    resume(config)
    assert trials(config.folder) == undisturbed("float32", 44)[0]


@pytest.mark.slow
@pytest.mark.parametrize("budget", [{"patience": 1}, {"image_forwards": 120}], ids=["patience", "image forwards"])
def test_a_study_stops_at_the_same_mask_whoever_scores_it(wide_config, undisturbed, local_ray, budget):
    """Inline, interrupted on the way and resumed; on two replicas; and gone on with once the limit is lifted."""
    ((limit, value),) = budget.items()
    changes = {f"budget__{limit}": value, "budget__masks": 60}
    whole, other = wide_config("whole", **changes), wide_config("other", **changes)
    result = start(whole).result
    assert result.stopped_by == limit
    table, full = trials(whole.folder), undisturbed("float32", 60)[0]
    assert table == full[: len(table)]
    assert 13 + 8 < len(table) < 60

    start(wide_config("other", budget__masks=16))
    resume(other)
    start(wide_config("ray", pool__kind="ray", pool__replicas=2, **changes))
    for folder in (other.folder, other.folder.parent / "ray"):
        assert trials(folder) == table
        assert outcome(folder) == outcome(whole.folder)

    resume(wide_config("other", **changes | {f"budget__{limit}": 0}))
    assert trials(other.folder) == full


def test_other_threads_are_another_study(wide_config):
    config = wide_config("threads", budget__masks=5, search__strategy="scan")
    start(config)
    with pytest.raises(StudyError, match=r"what it searches has changed:\n  threads: 1 -> 2\nRestore what it was"):
        resume(wide_config("threads", budget__masks=9, search__threads=2, search__strategy="scan"))


def test_everything_that_changed_is_named(tiny_config, tiny_files, tmp_path):
    start(tiny_config(budget__masks=14, search__strategy="scan"))
    other = write_tiny_model(tmp_path / "other", seed=5), write_tiny_dataset(tmp_path / "other.parquet", seed=5)
    with pytest.raises(StudyError) as caught:
        resume(tiny_config(files=other, search__strategy="scan", search__seed=4, search__precision="bfloat16"))
    changed = re.findall(r"^  (\w+): .* -> .*$", str(caught.value), re.MULTILINE)
    assert changed == ["data", "model", "precision", "seed"]


def test_a_study_of_an_older_open_clip_goes_on_and_says_which_versions_made_it(tiny_config, headmask):
    config = tiny_config(budget__masks=14)
    begun = start(config).result

    def made_by_older(fingerprint):
        words = fingerprint["preprocess"].replace("MaybeConvertMode()", "<function _convert_to_rgb>")
        fingerprint["preprocess"] = words.replace("MaybeToTensor()", "ToTensor()")

    journal = config.folder / "study.journal"
    change_attr(journal, "tiny", "fingerprint", made_by_older)
    change_attr(journal, "tiny", "versions", lambda versions: versions.update(open_clip_torch="3.2.0"))
    found = resume(tiny_config(budget__masks=16)).result
    assert found.num_masks == 16
    assert "<function _convert_to_rgb>; ToTensor()" in found.searched["preprocess"]
    now = begun.versions["open_clip_torch"]
    assert found.versions == {**begun.versions, "open_clip_torch": f"3.2.0, {now}"}
    code, out, _ = headmask("studies", "--storage", journal, "--json")
    assert (code, json.loads(out)[0]["versions"]) == (0, found.versions)


def test_another_device_is_refused(tiny_config, monkeypatch):
    start(tiny_config(budget__masks=14))
    monkeypatch.setattr("workers.scoring.replica.device_kind", lambda device: "another processor")
    with pytest.raises(ConfigError, match="this machine is another processor: scores would differ in their last bits"):
        resume(tiny_config(budget__masks=20))


def test_a_study_that_exists_is_not_started_again(tiny_config):
    config = tiny_config(budget__masks=14)
    start(config)
    before = trials(config.folder)
    with pytest.raises(StudyError, match=r"already holds a study: resume it with `headmask resume .*tiny`"):
        start(config)
    assert trials(config.folder) == before


def test_a_study_in_a_database_is_resumed_by_its_name_alone(tiny_config, tmp_path):
    """On a machine that has never seen the run folder: the storage holds the configuration."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    start(tiny_config(budget__masks=20, output__storage=url, output__study="mine"))
    content = stored_config("mine", url).model_dump()
    content["output"]["folder"] = str(tmp_path / "runs" / "elsewhere")
    content["budget"]["masks"] = 30
    resume(SearchConfig.model_validate(content))
    start(tiny_config("whole", budget__masks=30))
    assert trials(tmp_path / "runs" / "elsewhere") == trials(tmp_path / "runs" / "whole")


def test_a_study_whose_driver_was_killed_while_it_created_it_is_begun_again(tiny_config, runs, postgres, headmask):
    def config_of(name, storage=None):
        return tiny_config(name, output__storage=storage, search__strategy="scan", budget__masks=13)

    files = [config_of("file")]
    databases = [config_of("database", postgres.new_database())]
    killed([("named", files[0]), ("nearly", databases[0])])
    start(config_of("whole"))
    for config in files + databases:
        name, storage = config.study_name, config.storage
        assert [(each.name, each.state) for each in list_studies(storage)] == [(name, "not begun")]
        code, printed, _ = headmask("studies", "--storage", storage)
        assert (code, "not begun" in printed, "headmask resume" in printed) == (0, True, False)
        code, _, error = headmask("resume", *([config.folder] if config in files else [name, "--storage", storage]))
        assert (code, "has not begun: start it with `headmask search" in error) == (2, True), error
        start(config)
        assert trials(config.folder) == trials(runs / "whole")
        with pytest.raises(StudyError, match="resume it with `headmask resume"):
            start(config)


def test_a_study_whose_driver_was_killed_right_after_it_began_is_resumed_by_its_folder(tiny_config, runs):
    config = tiny_config("begun", search__strategy="scan", budget__masks=13)
    killed([("begun", config)])
    assert not (config.folder / "config.json").exists()
    with pytest.raises(StudyError, match="already holds a study: resume it"):
        start(config)
    resume(stored_config(str(config.folder), None))
    start(tiny_config("whole", search__strategy="scan", budget__masks=13))
    assert trials(config.folder) == trials(runs / "whole")


def test_a_moved_run_folder_can_be_resumed(tiny_config, runs):
    start(tiny_config(budget__masks=20))
    (runs / "tiny").rename(runs / "moved")
    config = stored_config(str(runs / "moved"), None)
    assert config.folder == runs / "moved"
    resume(config)
    assert len(trials(runs / "moved")) == 20


def test_no_study_is_one_clear_message(runs):
    with pytest.raises(
        StudyError, match=r"there is no run folder at .*nothing: name one, or a study with --storage URL"
    ):
        stored_config(str(runs / "nothing"), None)
