"""Tracking in the background, with servers that are away, refuse, come back or are replaced by others."""

import logging
import os
import shutil
import threading

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from headmask.errors import StudyError
from orchestrator.track import tracking
from orchestrator.track.mlflowrun import KEY_TAG, MlflowRun, server_of
from orchestrator.track.operations import Artifact, Begin, Child, Deselect, Inputs, Metrics, Params, Status, Tags
from orchestrator.track.spool import NAME, Spool
from orchestrator.track.tracking import Tracker, sync

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
    monkeypatch.setattr(tracking, "MlflowRun", Away)
    monkeypatch.setattr(tracking, "CLOSING_DELAY_S", 0.1)
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
    monkeypatch.setattr(tracking, "CLOSE_S", 0.5)
    with caplog.at_level(logging.WARNING), Tracker(folder, BEGIN, None, str) as tracker:
        tracker.log(Status(status="FINISHED"))
    assert "is incomplete: Connection refused. The rest waits in " in caplog.text
    assert f"send it with: headmask track sync {folder}" in caplog.text
    tracker._thread.join(5)
    away.set()
    assert sync(folder).sent == {"status": 2}


def test_a_server_decides_where_its_artifacts_go(tmp_path):
    assert server_of(tmp_path / "a", "http://host:5000").artifact_location is None
    own = server_of(tmp_path / "a", f"sqlite:///{tmp_path}/other.db")
    assert own.artifact_location == (tmp_path / "mlartifacts").as_uri()
