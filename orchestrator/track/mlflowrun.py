"""The MLflow run of a search, on one server: one parent run, one child run per finalist."""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headmask import foreign
from orchestrator.location import scheme_of
from orchestrator.track.operations import (
    Artifact,
    Begin,
    Child,
    Deselect,
    Inputs,
    Metrics,
    Operation,
    Params,
    Status,
    Tags,
    TrackedSplit,
)

KEY_TAG = "headmask.key"
WORDS_TAG = "headmask.words"
SELECTED_TAG = "headmask.is_selected"
SELECTED_NAME = "selected: "
"""What the name of the selected finalist's run begins with."""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
MOST_METRICS = 1000
REFUSALS = (
    "BAD_REQUEST",
    "ENDPOINT_NOT_FOUND",
    "INVALID_PARAMETER_VALUE",
    "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
)
"""MLflow's codes for what a server will not take, however often it is tried."""


@dataclass(frozen=True)
class Server:
    """Where a search is tracked."""

    uri: str
    artifact_location: str | None
    """For a store of our own; a server decides for itself."""


def server_of(folder: Path, uri: str | None) -> Server:
    """Return the server at an address, or the database beside a run folder.

    A server says where artifacts go; those of a database go beside the folder, too.
    """
    parent = folder.resolve().parent
    uri = uri or f"sqlite:///{parent / 'mlflow.db'}"
    return Server(uri, (parent / "mlartifacts").as_uri() if scheme_of(uri) in DATABASES else None)


def is_refused(error: Exception) -> bool:
    """Return whether trying again is of no use."""
    return getattr(error, "error_code", None) in REFUSALS or isinstance(error, FileNotFoundError)


def reason_of(error: Exception) -> str:
    """Return why something could not be sent, in a few words where nobody answered."""
    text = foreign.reason_of(error)
    if type(error).__module__.startswith("requests") or "Max retries exceeded" in text:
        return "it did not answer"
    return text


def make_client(uri: str) -> Any:
    """Return MLflow's client, which gives up on a server that is away within seconds instead of minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It would print addresses among what a search says, and into its JSON.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


class MlflowRun:
    """The parent run of one search, found by its key or made. Every method may raise what MLflow raises."""

    def __init__(self, server: Server, begin: Begin, folder: Path) -> None:
        self.client = make_client(server.uri)
        self._folder = folder
        self.experiment_id = self._experiment_id(begin.experiment, server.artifact_location)
        found = self._search(f"tags.`{KEY_TAG}` = '{begin.key}'")
        self.run_id: str = found[0].info.run_id if found else self._create(begin)

    def _experiment_id(self, name: str, artifact_location: str | None) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # Without it, MLflow's pages take the runs for evaluations of language models.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(name, artifact_location=artifact_location, tags=tags))

    def _search(self, query: str) -> Sequence[Any]:
        return list(self.client.search_runs([self.experiment_id], query))

    def _create(self, begin: Begin) -> str:
        tags = {
            KEY_TAG: begin.key,
            "mlflow.user": _user(),
            "mlflow.source.name": "headmask search",
            "mlflow.source.type": "LOCAL",
        }
        run = self.client.create_run(self.experiment_id, begin.time_ms, tags, begin.run_name)
        return str(run.info.run_id)

    def send(self, operation: Operation) -> None:
        """Send one operation. Sent twice, it leaves what it leaves once."""
        match operation:
            case Params():
                self._params(operation)
            case Metrics():
                self.send_metrics([operation])
            case Tags(tags=tags):
                self._tag(self.run_id, tags)
            case Inputs(splits=splits):
                self.client.log_inputs(self.run_id, [_dataset_input(split) for split in splits])
            case Child():
                self._child(operation)
            case Deselect(words=words):
                self._deselect(words)
            case Status(status="RUNNING"):
                self.client.update_run(self.run_id, status="RUNNING")
            case Status(status=status, time_ms=time_ms):
                self.client.set_terminated(self.run_id, status, time_ms)
            case Artifact(path=path):
                self._artifact(self._folder / path)

    def send_metrics(self, operations: Iterable[Metrics]) -> None:
        """Send the points of several operations, in batches of the 1,000 that MLflow takes."""
        points = [(point, each.time_ms) for each in operations for point in each.points]
        self._log_metrics(self.run_id, points)

    def _log_metrics(self, run_id: str, points: Sequence[tuple[tuple[str, float, int], int]]) -> None:
        from mlflow.entities import Metric

        # What MLflow refuses in a name becomes an underscore.
        metrics = [
            Metric(re.sub(r"[^\w/.: -]", "_", name), value, time_ms, step) for (name, value, step), time_ms in points
        ]
        for start in range(0, len(metrics), MOST_METRICS):
            self.client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])

    def _params(self, operation: Params) -> None:
        """Log parameters, in batches of the 100 that MLflow takes; values that exist already stay."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        new = [Param(key, value[:6000]) for key, value in operation.params.items() if key not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(self.run_id, params=new[start : start + 100])

    def _tag(self, run_id: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value[:5000]) for key, value in tags.items()])

    def _artifact(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is gone")
        self.client.log_artifact(self.run_id, str(path))

    def _child(self, child: Child) -> None:
        found = self._search(f"tags.`mlflow.parentRunId` = '{self.run_id}' and tags.`{WORDS_TAG}` = '{child.words}'")
        if found:
            info = found[0].info
        else:
            tags = {"mlflow.parentRunId": self.run_id, WORDS_TAG: child.words, "mlflow.user": _user()}
            info = self.client.create_run(self.experiment_id, child.time_ms, tags, child.name).info
        run_id = info.run_id
        self._tag(run_id, {**child.tags, "mlflow.runName": child.name})
        self._log_metrics(run_id, [((name, value, 0), child.time_ms) for name, value in child.metrics.items()])
        # A mask that is a finalist again has not run since then.
        self.client.set_terminated(run_id, end_time=info.start_time)

    def _deselect(self, words: str) -> None:
        for run in self._search(f"tags.`mlflow.parentRunId` = '{self.run_id}' and tags.`{SELECTED_TAG}` = 'true'"):
            if run.data.tags[WORDS_TAG] != words:
                name = run.info.run_name.removeprefix(SELECTED_NAME)
                self._tag(run.info.run_id, {SELECTED_TAG: "false", "mlflow.runName": name})


def _user() -> str:
    """Return who runs this, as far as known: a container may have no name for its user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _dataset_input(split: TrackedSplit) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=split.name,
        digest=split.digest,
        source_type="local",
        source=json.dumps({"uri": split.path}),
        profile=json.dumps(split.profile),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", split.context)])
