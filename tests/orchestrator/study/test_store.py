"""The durable study: nothing that was flushed is lost, one driver at a time, readable by Optuna and its dashboard."""

import json
import logging
import multiprocessing
import os
import resource
import signal
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.trial import TrialState
from optuna_dashboard import wsgi

from headmask.errors import StudyError
from headmask.mask import HeadGrid, HeadMask
from orchestrator.settings.location import redacted
from orchestrator.study import store as store_module
from orchestrator.study.records import TrialRecord
from orchestrator.study.storage import open_storage
from orchestrator.study.store import StudyStore
from orchestrator.study.stored import BEGUN
from strategies import mask_of

GRID = HeadGrid(3, 4)


def record(number, **changes):
    mask = HeadMask(GRID, (number % 16, number // 16, 0))
    fields = {
        "proposal": number,
        "mask": mask,
        "value": number / 100,
        "metrics": {"mean_recall": number / 100, "t2i_r1": 0.5},
        "strategy": "scan",
        "seconds": 0.25,
        "device": "cpu",
    }
    return TrialRecord(**{**fields, **changes})


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def location(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").new_database()
    return str(tmp_path / "study.journal") if request.param == "journal" else f"sqlite:///{tmp_path / 'studies.db'}"


def test_results_come_back_as_they_were(location):
    failed = record(3, value=None, metrics={}, failure="non-finite embeddings")
    written = [record(1), record(2), failed]
    with StudyStore.create(location, "s", {"config": {"a": 1}}) as store:
        for each in written:
            store.append(each)
        store.set_attr("device", "cpu")
    with StudyStore.open(location, "s") as store:
        assert store.records(GRID) == {each.mask: each for each in written}
        assert store.attr("config") == {"a": 1}
        assert store.attr("device") == "cpu"
        assert store.attr("nothing") is None


def test_optuna_reads_the_study_and_params_are_the_mask(location):
    with StudyStore.create(location, "s", {}) as store:
        for number in range(5):
            store.append(record(number))
        store.append(record(7, value=None, metrics={}, failure="why"))
    with open_storage(location) as storage:
        study = optuna.load_study(study_name="s", storage=storage)
        assert study.best_value == 0.04
        assert mask_of(study.best_params, GRID) == record(4).mask
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5 + [TrialState.FAIL]


def test_optuna_dashboard_opens_the_journal(tmp_path):
    with StudyStore.create(str(tmp_path / "study.journal"), "s", {}) as store:
        for number in range(5):
            store.append(record(number))
    with open_storage(str(tmp_path / "study.journal")) as storage:
        app = wsgi(storage)

    def get(path):
        answer, environ = {}, {"PATH_INFO": path}
        setup_testing_defaults(environ)
        body = b"".join(app(environ, lambda status, *_: answer.update(status=status)))
        assert answer["status"].startswith("200")
        return json.loads(body)

    (summary,) = get("/api/studies")["study_summaries"]
    assert summary["study_name"] == "s"
    trials = get(f"/api/studies/{summary['study_id']}")["trials"]
    params = {param["name"]: float(param["param_external_value"]) for param in trials[3]["params"]}
    assert mask_of(params, GRID) == record(3).mask


def test_a_torn_last_line_is_cut_off(tmp_path, caplog):
    path = tmp_path / "study.journal"
    with StudyStore.create(str(path), "s", {}) as store:
        for number in range(4):
            store.append(record(number))
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines(keepends=True)[-1]) - 1):
        path.write_bytes(whole[:-cut])
        with caplog.at_level(logging.WARNING), StudyStore.open(str(path), "s") as store:
            assert len(store.records(GRID)) == 3
            store.append(record(3))
        assert "half-written line" in caplog.text
        with StudyStore.open(str(path), "s") as store:
            assert len(store.records(GRID)) == 4
        path.write_bytes(whole)


def test_a_second_driver_is_refused(location):
    with (
        StudyStore.create(location, "s", {}),
        pytest.raises(StudyError, match="another driver runs study 's' right now: wait until it ends, or stop it"),
    ):
        StudyStore.open(location, "s")
    StudyStore.open(location, "s").close()


def _hold_and_die(location, held):
    store = StudyStore.open(location, "s")
    store.append(record(1))
    store.flush()
    held.set()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_drivers_study_is_taken_over_at_once(location):
    StudyStore.create(location, "s", {}).close()
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    driver = context.Process(target=_hold_and_die, args=(location, held))
    driver.start()
    driver.join(180)
    assert held.is_set()
    with StudyStore.open(location, "s") as store:
        assert list(store.records(GRID)) == [record(1).mask]


def test_two_studies_of_one_storage_run_side_by_side(location):
    with StudyStore.create(location, "a", {}) as a, StudyStore.create(location, "b", {}) as b:
        a.append(record(1))
        b.append(record(2))
    with StudyStore.open(location, "a") as a:
        assert list(a.records(GRID)) == [record(1).mask]


def test_a_study_that_exists_is_not_created_again(location):
    StudyStore.create(location, "s", {BEGUN: {}}).close()
    with StudyStore.create(location, "of somebody else", {}) as store:
        store.append(record(0))
    for name in ("s", "of somebody else"):
        with pytest.raises(StudyError, match=rf"study '{name}' exists in .*: resume it with `headmask resume`"):
            StudyStore.create(location, name, {BEGUN: {}})


def test_a_journal_cut_anywhere_before_its_study_has_begun_is_begun_again(tmp_path):
    """As a driver leaves it that is killed, however far its writing came."""
    path, attrs = tmp_path / "study.journal", {BEGUN: {"a": 1}, "fingerprint": {"b": 2}}
    StudyStore.create(str(path), "s", attrs).close()
    whole = path.read_bytes()
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        with StudyStore.create(str(path), "s", attrs) as store:
            assert store.attr(BEGUN) == {"a": 1}
            assert store.attr("fingerprint") == {"b": 2}
            store.append(record(0))
        with StudyStore.open(str(path), "s") as store:
            assert list(store.records(GRID)) == [record(0).mask]


def test_a_study_that_is_not_there_is_named_with_those_that_are(location):
    StudyStore.create(location, "mine", {}).close()
    with pytest.raises(StudyError, match=r"there is no study 'yours' in .*: it has mine"):
        StudyStore.open(location, "yours")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("mongodb://host/db", "--storage must be a file or a URL of sqlite, postgresql, mysql; got mongodb://host/db"),
        ("sqlite:////no/such/folder/x.db", r"there is no study at"),
    ],
)
def test_storages_that_cannot_be_opened_are_one_clear_message(location, message):
    with pytest.raises(StudyError, match=message), open_storage(location, must_exist=True):
        pass


def test_passwords_are_not_shown():
    assert redacted("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert redacted("runs/x/study.journal") == "runs/x/study.journal"


def test_a_storage_that_is_away_is_tried_again(tmp_path, monkeypatch, caplog):
    with StudyStore.create(str(tmp_path / "study.journal"), "s", {}) as store:
        add, failures = store.study.add_trial, iter([True, True])

        def flaky(trial):
            if next(failures, False):
                raise OSError("No space left on device")
            add(trial)

        monkeypatch.setattr(store.study, "add_trial", flaky)
        for number in range(3):
            store.append(record(number))
        assert store.flush(20)
        assert "the storage is away (No space left on device); 3 results wait" in caplog.text
    with StudyStore.open(str(tmp_path / "study.journal"), "s") as store:
        assert len(store.records(GRID)) == 3


def test_a_server_that_crashes_loses_nothing_and_the_study_stays_ours(postgres, caplog):
    url = postgres.new_database()
    with StudyStore.create(url, "s", {}) as store:
        for number in range(3):
            store.append(record(number))
        assert store.flush()
        postgres.crash()
        for number in range(3, 6):
            store.append(record(number))
        store.set_attr("late", 7)
        assert store.attr("late") == 7
        assert not store.flush(3)
        postgres.start()
        assert store.flush(60)
        assert "the storage is away" in caplog.text
        with pytest.raises(StudyError, match="another driver runs study 's'"):
            StudyStore.open(url, "s")
    with StudyStore.open(url, "s") as store:
        assert sorted(each.proposal for each in store.records(GRID).values()) == list(range(6))
        assert len(store.study.trials) == 6
        assert store.attr("late") == 7


def test_a_driver_whose_study_was_taken_over_meanwhile_stops(postgres):
    url = postgres.new_database()
    store = StudyStore.create(url, "s", {})
    postgres.crash()
    postgres.start()
    with StudyStore.open(url, "s"):
        store.append(record(0))
        assert not store.flush(5)
        with pytest.raises(StudyError, match="another driver runs study 's'"):
            store.append(record(1))
        assert store.close() == 1


def test_what_was_written_before_a_storage_failed_to_say_so_is_not_written_again(tmp_path, monkeypatch):
    path = str(tmp_path / "study.journal")
    with StudyStore.create(path, "s", {}) as store:
        add, failures = store.study.add_trial, iter([True])

        def unsure(trial):
            add(trial)
            if next(failures, False):
                raise ConnectionError("server closed the connection unexpectedly")

        monkeypatch.setattr(store.study, "add_trial", unsure)
        store.append(record(0))
        store.append(record(1))
        assert store.flush(20)
    with StudyStore.open(path, "s") as store:
        assert [trial.user_attrs["proposal"] for trial in store.study.trials] == [0, 1]


def test_a_disk_that_fills_up_leaves_no_half_line(tmp_path, caplog):
    """By a limit on the size of files, which cuts a write in the middle as a full disk does."""
    path = tmp_path / "study.journal"
    with StudyStore.create(str(path), "s", {}) as store:
        store.append(record(0))
        assert store.flush()
        whole, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, limits[1]))
        try:
            store.append(record(1))
            assert not store.flush(2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == whole
        store.append(record(2))
        assert store.flush(20)
        assert "File too large" in caplog.text
    with StudyStore.open(str(path), "s") as store:
        assert len(store.records(GRID)) == 3


def test_results_that_could_not_be_written_are_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(store_module, "FLUSH_S", 0.2)
    with StudyStore.create(str(tmp_path / "study.journal"), "s", {}) as store:
        monkeypatch.setattr(store.study, "add_trial", lambda trial: (_ for _ in ()).throw(OSError("gone")))
        store.append(record(1))
    assert "1 results could not be written" in caplog.text
    # Let the writer's thread end.
    monkeypatch.undo()
    store._thread.join(30)


def test_a_group_is_written_by_count_or_by_time(tmp_path, monkeypatch):
    commits = []
    monkeypatch.setattr(store_module, "GROUP_S", 30.0)
    with StudyStore.create(str(tmp_path / "study.journal"), "s", {}) as store:
        commit = store._storage.commit
        monkeypatch.setattr(store._storage, "commit", lambda: (commits.append(len(store.study.trials)), commit()))
        for number in range(70):
            store.append(record(number))
        assert store.flush()
    assert commits[:2] == [64, 70]
