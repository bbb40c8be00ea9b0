"""The MLflow run of a search, on one server: one parent run, one child run per finalist."""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headmask.border.libraries import calm_alembic, with_driver
from orchestrator.settings.location import scheme_of, sqlite_file
from orchestrator.settings.trackinguri import DATABASES, beside
from orchestrator.track.database import prepare_database
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
from orchestrator.track.refusal import NO_ANSWER, TrackingRefusedError, refusal_of

KEY_TAG = "headmask.key"
WORDS_TAG = "headmask.words"
SELECTED_TAG = "headmask.is_selected"
SELECTED_NAME = "selected: "
"""Beginning of the name of the selected finalist's run."""
MAX_METRICS = 1000
ANSWER_S = 5.0
"""Seconds within which something must answer at an address."""


@dataclass(frozen=True)
class Server:
    """Where a search is tracked."""

    uri: str
    artifact_location: str | None
    """Location of artifacts for a store beside run folders; a server decides for itself."""
    is_own: bool = False
    """Whether it is the database beside run folders, which is used if none is named."""


def server_of(folder: Path, uri: str | None) -> Server:
    """Return the server at an address, or the database beside a run folder.

    A server says where artifacts go; those of a database go beside the folder, too.
    """
    parent = folder.resolve().parent
    is_own = uri is None
    uri = beside(folder) if uri is None else uri
    return Server(uri, (parent / "mlartifacts").as_uri() if scheme_of(uri) in DATABASES else None, is_own)


def make_client(uri: str, *, is_own: bool = False) -> Any:
    """Return MLflow's client, which gives up on a server that is away within seconds instead of minutes.

    Args:
        uri: of the server, or of a database; an sqlite file is made where there is none.
        is_own: whether it is the database beside run folders.

    Raises:
        TrackingRefusedError: the database cannot be used, however often it is tried.
        OSError: nobody listens at the address now.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It would print addresses among what a search says, and into its JSON.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        # It logs a traceback for every try that fails; what fails is raised as well, and said once.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    calm_alembic()
    if (path := sqlite_file(uri)) is not None:
        prepare_database(path, is_own=is_own)
    else:
        _check_answers(uri)
    return MlflowClient(tracking_uri=with_driver(uri))


def _check_answers(uri: str) -> None:
    """Check that something answers at an address: MLflow and drivers of databases would wait far longer.

    Raises:
        OSError: nobody does.
    """
    parts = urlsplit(uri)
    try:
        if parts.scheme in ("http", "https"):
            import requests

            # Through proxies, as MLflow does it; what it answers does not matter here.
            requests.get(uri, timeout=ANSWER_S, stream=True, allow_redirects=False).close()
        elif scheme_of(uri) in DATABASES and parts.hostname and parts.port:
            socket.create_connection((parts.hostname, parts.port), timeout=ANSWER_S).close()
    # Those of requests are OSErrors, too.
    except OSError as error:
        if refusal_of(error) is not None:
            raise
        raise ConnectionError(NO_ANSWER) from None


class MlflowRun:
    """The parent run of one search, found by its key or made. Every method may raise what MLflow raises."""

    def __init__(self, server: Server, begin: Begin, folder: Path) -> None:
        self.client = make_client(server.uri, is_own=server.is_own)
        self._folder = folder
        self.experiment_id = self._experiment_id(begin.experiment, server.artifact_location)
        found = self._search(f"tags.`{KEY_TAG}` = '{begin.key}'")
        self.run_id: str = found[0].info.run_id if found else self._create(begin)

    def _experiment_id(self, name: str, artifact_location: str | None) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise TrackingRefusedError(
                f"the experiment {name!r} was deleted: restore it with `mlflow experiments restore --experiment-id "
                f"{found.experiment_id}`, or choose another --experiment"
            )
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
        """Send one operation. Sending it twice has the effect of sending it once."""
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
        for start in range(0, len(metrics), MAX_METRICS):
            self.client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])

    def _params(self, operation: Params) -> None:
        """Log parameters, in batches of the 100 that MLflow accepts; existing values are kept."""
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
    """Return the user who runs this, if known: a container may have no name for its user."""
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
