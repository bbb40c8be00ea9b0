"""Tracking in the background, with servers that are away, refuse, come back or are replaced by others."""

import contextlib
import logging
import os
import re
import shutil
import socket
import sqlite3
import threading
import time
from multiprocessing import get_context

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from sqlalchemy import create_engine

from headmask.errors import ConfigError, StudyError
from orchestrator.settings.trackinguri import VARIABLE, tracked_at, with_password
from orchestrator.track import tracker as tracker_module
from orchestrator.track.mlflowrun import KEY_TAG, MlflowRun, server_of
from orchestrator.track.operations import Artifact, Begin, Child, Deselect, Inputs, Metrics, Params, Status, Tags
from orchestrator.track.refusal import refusal_of
from orchestrator.track.spool import NAME, Spool
from orchestrator.track.tracker import Tracker, sync

BEGIN = Begin(key="k1", experiment="e", run_name="first")
COUNTS = {"params": 1, "tags": 1, "inputs": 1, "metrics": 3, "child": 2, "deselect": 1, "status": 1, "artifact": 1}
"""What `operations` gives, by kind."""
AWAY = "http://127.0.0.1:9"


def operations():
    """Return one operation of every kind, and metrics in a row."""
    split = {"name": "coco", "digest": "0123456789abcdef", "context": "test", "path": "/d/coco.parquet"}
    yes, no = {"headmask.is_selected": "true"}, {"headmask.is_selected": "false"}
    return [
        Params(params={"a": "1", **{f"p{number}": "x" for number in range(120)}}),
        Tags(tags={"headmask.model": "ViT-B-32"}),
        Inputs(splits=[{**split, "profile": {"num_images": 3}}]),
        *(Metrics(points=[("best", 0.1 * step, step), ("odd*name", float("nan"), step)]) for step in range(3)),
        Child(words="0.0", name="baseline", metrics={"confirm/recall": 0.5}, tags=no),
        Child(words="1.0", name="selected: L0H0", metrics={"confirm/recall": 0.6}, tags=yes),
        Deselect(words="1.0"),
        Status(status="FINISHED"),
        Artifact(path="mask.json"),
    ]


@pytest.fixture
def folder(runs):
    """A run folder beside an MLflow database."""
    path = runs / "first"
    path.mkdir()
    (path / "mask.json").write_text("{}")
    return path


def spooled(folder, lines=None):
    """Leave a spool of which nothing was sent."""
    with Spool(folder) as spool:
        for line in (BEGIN, *(lines or operations())):
            spool.append(line)


def everything(uri):
    """Return all that a server has, with names instead of identifiers."""
    client = MlflowClient(tracking_uri=uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    found = []
    for run in client.search_runs(experiments):
        history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        found.append(
            {
                "name": run.info.run_name,
                "status": run.info.status,
                "times": (run.info.start_time, run.info.end_time),
                "params": run.data.params,
                "tags": {name: value for name, value in run.data.tags.items() if name != "mlflow.parentRunId"},
                "metrics": {name: [(m.step, repr(m.value), m.timestamp) for m in ms] for name, ms in history.items()},
                "data": [(each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs],
                "artifacts": [each.path for each in client.list_artifacts(run.info.run_id)],
            }
        )
    return sorted(found, key=lambda run: run["name"])


def database(folder):
    return f"sqlite:///{folder.parent / 'mlflow.db'}"


def test_a_spool_is_sent_as_it_is(folder):
    spooled(folder)
    synced = sync(folder)
    assert synced.sent == COUNTS
    assert synced.refused == ()
    baseline, parent, selected = everything(database(folder))
    assert parent["name"] == "first"
    assert parent["status"] == "FINISHED"
    assert len(parent["params"]) == 121
    assert parent["tags"]["headmask.model"] == "ViT-B-32"
    assert [(step, value) for step, value, _ in parent["metrics"]["best"]] == [(0, "0.0"), (1, "0.1"), (2, "0.2")]
    assert [step for step, _, _ in parent["metrics"]["odd_name"]] == [0, 1, 2]
    assert parent["data"] == [("coco", "0123456789abcdef")]
    assert parent["artifacts"] == ["mask.json"]
    assert (baseline["name"], selected["name"]) == ("baseline", "selected: L0H0")
    assert (baseline["tags"]["headmask.is_selected"], selected["tags"]["headmask.is_selected"]) == ("false", "true")


def test_sending_again_from_the_beginning_changes_nothing(folder):
    """As after a death between the last answer and the line that says so, here after every operation."""
    spooled(folder)
    sync(folder)
    once = everything(database(folder))
    lines = (folder / NAME).read_text().splitlines()
    (folder / NAME).write_text("".join(f"{line}\n" for line in lines if '"kind":"sent"' not in line))
    assert sync(folder).sent["child"] == 2
    assert everything(database(folder)) == once
    assert sync(folder).sentence.startswith("Nothing was left to send: run ")


def test_half_a_sync_is_gone_on_with(folder, monkeypatch, empty_mlflow, tmp_path):
    spooled(folder)
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole / "first")
    shutil.copyfile(empty_mlflow, whole / "mlflow.db")
    sync(whole / "first")
    send, count = MlflowRun.send, 0

    def failing(self, operation):
        """Fail before and after every operation, once each."""
        nonlocal count
        count += 1
        if count % 3 == 1:
            raise ConnectionError("refused")
        send(self, operation)
        if count % 3 == 2:
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(MlflowRun, "send", failing)
    for _ in range(100):
        try:
            sync(folder)
        except StudyError:
            continue
        break
    assert count == 3 * 8
    assert everything(database(folder)) == everything(database(whole / "first"))


def test_another_server_gets_everything(folder, empty_mlflow, tmp_path):
    spooled(folder)
    sync(folder)
    shutil.copyfile(empty_mlflow, tmp_path / "team.db")
    team = f"sqlite:///{tmp_path / 'team.db'}"
    assert sync(folder, team).sent == COUNTS
    assert everything(team) == everything(database(folder))
    assert sync(folder, team).sent == {}


def test_a_run_that_was_deleted_is_made_again(folder):
    spooled(folder)
    client = MlflowClient(tracking_uri=database(folder))
    client.delete_run(sync(folder).run_id)
    assert sync(folder).sent == COUNTS
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id], f"tags.{KEY_TAG} = 'k1'")
    assert run.info.status == "FINISHED"


def test_the_run_of_a_killed_driver_ends_as_killed_when_it_was_last_heard_of(folder):
    spooled(folder, [Status(status="RUNNING", time_ms=1000), Metrics(points=[("best", 0.5, 1)], time_ms=9000)])
    sync(folder)
    (run,) = everything(database(folder))
    assert (run["status"], run["times"][1]) == ("KILLED", 9000)


def test_half_a_line_at_the_end_is_cut_off(folder):
    spooled(folder)
    with (folder / NAME).open("a") as file:
        file.write('{"kind":"tags","ta')
    assert sync(folder).sent == COUNTS


def test_a_disk_that_is_full_for_a_while_costs_nothing(folder, monkeypatch):
    """A write that stops halfway leaves no half line, and what it left out comes with the next one."""
    write, room = os.write, [7]

    def full(descriptor, content):
        if not room:
            return write(descriptor, content)
        if room[0] == 0:
            raise OSError(28, "No space left on device")
        written = write(descriptor, content[: room[0]])
        room[0] = 0
        return written

    with Spool(folder) as spool:
        monkeypatch.setattr("os.write", full)
        spool.append(BEGIN)
        assert (folder / NAME).read_bytes() == b""
        room.clear()
        for line in operations():
            spool.append(line)
    assert sync(folder).sent == COUNTS


def test_what_is_refused_is_left_out_and_said(folder, monkeypatch):
    """A file that is gone, and what an old server does not know; all that comes after is sent."""
    send = MlflowRun.send

    def old(self, operation):
        if isinstance(operation, Inputs):
            raise MlflowException("no such endpoint", error_code=ErrorCode.Value("ENDPOINT_NOT_FOUND"))
        send(self, operation)

    monkeypatch.setattr(MlflowRun, "send", old)
    (folder / "mask.json").unlink()
    spooled(folder)
    synced = sync(folder)
    assert synced.refused == ("inputs: no such endpoint", f"artifact: {folder / 'mask.json'} is gone")
    assert "It would not take 2 of them; inputs: no such endpoint." in synced.sentence
    assert everything(database(folder))[1]["status"] == "FINISHED"


def test_what_cannot_be_synced_is_said(folder, monkeypatch, headmask):
    code, _, said = headmask("track", "sync", folder)
    assert (code, said) == (2, f"headmask: there is no tracking.jsonl in {folder}: name the run folder of a search\n")
    spooled(folder)
    code, _, said = headmask("track", "sync", folder, "--tracking-uri", AWAY)
    assert code == 2
    assert said == f"headmask: cannot send to {AWAY}: it did not answer. What was sent stays sent; try again later\n"
    with Spool(folder), pytest.raises(StudyError, match=r"tracking\.jsonl is in use: a search, or `headmask track`"):
        sync(folder)
    with Spool(folder) as spool:
        spool.append(BEGIN.model_copy(update={"uri": "postgresql://me:***@host/mlflow"}))
    with pytest.raises(StudyError, match=r"the password of postgresql://me:\*\*\*@host/mlflow is not kept: pass"):
        sync(folder)
    (folder / NAME).write_text('{"kind": "unknown"}\n')
    with pytest.raises(StudyError, match=r"tracking\.jsonl, line 1, is not what headmask writes"):
        sync(folder)


def test_the_command_says_what_it_sent(folder, headmask):
    spooled(folder)
    code, said, _ = headmask("track", "sync", folder)
    assert code == 0
    assert said.startswith("Sent 1 params, 1 tags, 1 inputs, 3 metrics, 2 child, 1 deselect, 1 status, 1 artifact to ")
    code, said, _ = headmask("track", "sync", folder, "--json")
    assert '"sent": {}' in said


class Away(MlflowRun):
    """A server that is away until it is told to be back."""

    is_back = threading.Event()

    def __init__(self, server, begin, folder):
        if not self.is_back.is_set():
            raise ConnectionError("Connection refused")
        super().__init__(server, begin, folder)


@pytest.fixture
def away(monkeypatch):
    monkeypatch.setattr(tracker_module, "MlflowRun", Away)
    monkeypatch.setattr(tracker_module, "CLOSING_DELAY_S", 0.1)
    Away.is_back.clear()
    return Away.is_back


def test_what_is_left_is_sent_when_the_server_comes_back_at_the_end(folder, away):
    opened = []
    tracker = Tracker(folder, BEGIN, None, opened.append)
    for operation in operations():
        tracker.log(operation)
    threading.Timer(1.0, away.set).start()
    assert tracker.close()
    assert opened == [tracker.run_id]
    assert sync(folder).sent == {}


def test_a_search_that_ends_without_its_server_says_how_to_send_the_rest(folder, away, monkeypatch, caplog):
    monkeypatch.setattr(tracker_module, "CLOSE_S", 0.5)
    with caplog.at_level(logging.WARNING), Tracker(folder, BEGIN, None, str) as tracker:
        tracker.log(Status(status="FINISHED"))
    assert "is incomplete: it did not answer. The rest waits in " in caplog.text
    assert f"send it with: headmask track sync {folder}" in caplog.text
    tracker._thread.join(5)
    away.set()
    assert sync(folder).sent == {"status": 2}


def test_a_server_decides_where_its_artifacts_go(tmp_path):
    assert server_of(tmp_path / "a", "http://host:5000").artifact_location is None
    own = server_of(tmp_path / "a", f"sqlite:///{tmp_path}/other.db")
    assert own.artifact_location == (tmp_path / "mlartifacts").as_uri()


# --- where, and what no waiting mends ---


def test_first_searches_at_once_make_one_database(tmp_path):
    """Each in a process of its own, none with a database to begin with."""
    folders = [tmp_path / "runs" / name for name in "abc"]
    for folder in folders:
        folder.mkdir(parents=True)
    with get_context("spawn").Pool(3) as pool:
        assert pool.map(_tracked, folders) == [True] * 3
    runs = everything(database(folders[0]))
    assert [run["name"] for run in runs] == ["a", "b", "c"]
    assert {run["status"] for run in runs} == {"FINISHED"}
    assert not list(folders[0].parent.glob("*.tmp"))


def _tracked(folder):
    begin = BEGIN.model_copy(update={"key": folder.name, "run_name": folder.name})
    with Tracker(folder, begin, None, str) as tracker:
        tracker.log(Status(status="FINISHED"))
        tracker.wait_for_run(120)
    return tracker.is_complete


def damaged(path):
    path.write_bytes(b"this is no database\n" * 500)


def half_made(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE alembic_version")
        connection.commit()


def of_the_future(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'f00ba4'")
        connection.commit()


def deleted(path):
    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    client.delete_experiment(client.create_experiment("e"))


@pytest.mark.parametrize(
    ("spoil", "repair"),
    [
        (damaged, r"is not a database of MLflow \(file is not a database\): move it away"),
        (half_made, r"is not a database of MLflow \(it holds a part of MLflow's tables.*: move it away"),
        (of_the_future, r"was made by a newer version of MLflow .*: install that"),
        (deleted, r"the experiment 'e' was deleted: restore it with `mlflow experiments restore --experiment-id"),
    ],
)
def test_what_no_waiting_mends_is_said_at_once_with_its_repair(folder, spoil, repair, caplog, monkeypatch):
    path = folder.parent / "mlflow.db"
    spoil(path)
    os.utime(path, (1, 1))
    # Older versions of MLflow take away the handlers of the root.
    monkeypatch.setattr(logging.getLogger("orchestrator"), "handlers", [caplog.handler])
    said, started = [], time.monotonic()
    with caplog.at_level(logging.WARNING), Tracker(folder, BEGIN, None, str, said.append) as tracker:
        tracker.log(Status(status="FINISHED"))
        assert tracker.wait_for_run(60) is None
        tracker.log(Tags(tags={"a": "logged after the refusal"}))
        ended = time.monotonic()
    assert time.monotonic() - ended < 3
    assert ended - started < 50
    assert re.search(f"Nothing is tracked at .*{repair}", said[0])
    assert tracker.has_failed
    assert re.search(f"is incomplete: .*{repair}.* headmask track sync", caplog.text)
    with pytest.raises(StudyError, match=repair):
        sync(folder)


def test_a_repaired_database_gets_everything(folder, empty_mlflow):
    path = folder.parent / "mlflow.db"
    damaged(path)
    os.utime(path, (1, 1))
    spooled(folder)
    with pytest.raises(StudyError, match="move it away"):
        sync(folder)
    shutil.copyfile(empty_mlflow, path)
    assert sync(folder).sent == COUNTS


def test_our_database_of_an_older_version_is_brought_up_to_date(folder):
    from mlflow.store.db.utils import _get_alembic_config

    path = folder.parent / "mlflow.db"
    before = ScriptDirectory.from_config(_get_alembic_config("")).get_revision("head").down_revision
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        configuration = _get_alembic_config(f"sqlite:///{path}")
        configuration.attributes["connection"] = connection
        command.downgrade(configuration, before)
    engine.dispose()
    os.utime(path, (1, 1))
    spooled(folder)
    with pytest.raises(
        StudyError, match=f"was made by an older version of MLflow .*mlflow db upgrade sqlite:///{path}"
    ):
        sync(folder, f"sqlite:///{path}")
    assert sync(folder).sent == COUNTS
    assert (folder.parent / f"mlflow.db.{before}").is_file()


@pytest.fixture
def silent():
    """An address at which something listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://me:s3cret@127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_never_answers_costs_15_seconds_and_is_said_at_the_start(folder, silent, caplog):
    said = []
    with caplog.at_level(logging.WARNING), Tracker(folder, BEGIN, silent, str, said.append) as tracker:
        for _ in range(150):
            if said:
                break
            time.sleep(0.1)
        assert re.match(r"Cannot track at http://me:\*\*\*@127.* now: it did not answer\. The search goes on", said[0])
        started = time.monotonic()
        assert tracker.wait_for_run() is None
    assert time.monotonic() - started < 15
    assert not tracker.has_failed
    assert "s3cret" not in caplog.text + "".join(said)


def test_a_new_search_is_tracked_by_one_rule(tmp_path, monkeypatch):
    folder, own = tmp_path / "runs" / "a", f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.delenv(VARIABLE, raising=False)
    assert tracked_at(folder, None, "study.journal") == (None, f"{own} (beside the run folder)")
    monkeypatch.setenv(VARIABLE, "http://me:s3cret@host:5000")
    assert tracked_at(folder, None, "study.journal") == (
        "http://me:s3cret@host:5000",
        f"http://me:***@host:5000 (by {VARIABLE})",
    )
    assert tracked_at(folder, "http://other", "study.journal") == ("http://other", "http://other")
    monkeypatch.setenv(VARIABLE, "")
    assert tracked_at(folder, None, "study.journal")[0] is None
    monkeypatch.setenv(VARIABLE, "mlruns")
    with pytest.raises(ConfigError, match=f"{VARIABLE} must be the address of an MLflow server or database"):
        tracked_at(folder, None, "study.journal")
    assert tracked_at(folder, "http://other", "study.journal")[0] == "http://other"


def test_a_search_that_exists_stays_where_it_is_tracked(monkeypatch):
    monkeypatch.setenv(VARIABLE, "http://me:s3cret@host")
    assert with_password(None) is None
    assert with_password("http://elsewhere") == "http://elsewhere"
    assert with_password("http://me:***@host") == "http://me:s3cret@host"
    assert with_password("http://you:***@host") == "http://you:***@host"


def test_a_folder_that_no_database_can_be_in_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"because a \? or % in a folder's name means something else in a URL"):
        tracked_at(tmp_path / "what?" / "a", None, "study.journal")


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ('FATAL: password authentication failed for user "me"', True),
        ('FATAL: database "x" does not exist', True),
        ("API request to endpoint failed with error code 401 != 200", True),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", True),
        ("attempt to write a readonly database", True),
        ("database is locked", False),
        ("database or disk is full", False),
        ("Max retries exceeded with url: /api", False),
        ("server closed the connection unexpectedly", False),
        ("FATAL: the database system is starting up", False),
        ("API request failed with error code 503 != 200", False),
    ],
)
def test_refusals_are_told_from_outages(text, is_refused):
    assert (refusal_of(MlflowException(text)) is not None) == is_refused
