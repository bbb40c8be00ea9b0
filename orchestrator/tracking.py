"""MLflow: one parent run per search, one child run per finalist, written on a thread of its own.

A server that is away never stops a search: what is to be logged waits and is tried again in the background. What has
not been logged when the search ends is given up with a warning; the run folder holds everything anyway.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from orchestrator.location import redacted, scheme_of

_log = logging.getLogger(__name__)

Operation = Callable[["MlflowRun"], None]
CLOSE_S = 60.0
"""Seconds that the end of a search waits for the tracking server."""
CLOSING_DELAY_S = 1.0
"""Seconds between two attempts then."""
WORDS_TAG = "headmask.words"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


@dataclass(frozen=True)
class TrackingTarget:
    """Where and under which names a search is tracked."""

    uri: str
    artifact_location: str | None
    """For a store of our own; a server decides for itself."""
    experiment: str
    run_name: str
    run_id: str | None = None
    """Run to go on with, when a search is resumed."""


def default_target(folder: Path, experiment: str, run_name: str, uri: str | None, run_id: str | None) -> TrackingTarget:
    """Return the target of a run folder: what `uri` names, or a database beside the folder.

    A server says where artifacts go; those of a database go beside the folder, too.
    """
    parent = folder.resolve().parent
    uri = uri or f"sqlite:///{parent / 'mlflow.db'}"
    artifacts = (parent / "mlartifacts").as_uri() if scheme_of(uri) in DATABASES else None
    return TrackingTarget(uri, artifacts, experiment, run_name, run_id)


class MlflowRun:
    """The parent run of one search, through MLflow's client. Every method may raise what MLflow raises."""

    def __init__(self, target: TrackingTarget, tags: Mapping[str, str]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._client = MlflowClient(tracking_uri=target.uri)
        self._experiment = self._experiment_id(target)
        self.run_id = self._open_run(target, tags)

    def _experiment_id(self, target: TrackingTarget) -> str:
        found = self._client.get_experiment_by_name(target.experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(target.experiment, artifact_location=target.artifact_location))

    def _open_run(self, target: TrackingTarget, tags: Mapping[str, str]) -> str:
        if target.run_id is not None:
            with contextlib.suppress(Exception):
                run = self._client.get_run(target.run_id)
                self._client.update_run(target.run_id, status="RUNNING")
                return str(run.info.run_id)
        run = self._client.create_run(self._experiment, run_name=target.run_name, tags=dict(tags))
        return str(run.info.run_id)

    def params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, in batches of the 100 that MLflow takes; values that exist already stay."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        new = [Param(key, str(value)[:6000]) for key, value in params.items() if key not in known]
        for start in range(0, len(new), 100):
            self._client.log_batch(self.run_id, params=new[start : start + 100])

    def metrics(self, points: list[tuple[str, float, int]]) -> None:
        """Log (name, value, step) points; what MLflow refuses in a name becomes an underscore."""
        self._log_metrics(self.run_id, points)

    def _log_metrics(self, run_id: str, points: list[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(re.sub(r"[^\w/.: -]", "_", name), value, now, step) for name, value, step in points]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        for key, value in tags.items():
            self._client.set_tag(self.run_id, key, value)

    def artifact(self, path: Path) -> None:
        """Copy a file to the run's artifacts."""
        self._client.log_artifact(self.run_id, str(path))

    def child(self, name: str, words: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Write the child run of one finalist; the run of the same mask is written again."""
        query = f"tags.`mlflow.parentRunId` = '{self.run_id}' and tags.`{WORDS_TAG}` = '{words}'"
        found = self._client.search_runs([self._experiment], query, max_results=1)
        if found:
            run_id = found[0].info.run_id
        else:
            all_tags = {"mlflow.parentRunId": self.run_id, WORDS_TAG: words}
            run_id = self._client.create_run(self._experiment, run_name=name, tags=all_tags).info.run_id
        for key, value in tags.items():
            self._client.set_tag(run_id, key, value)
        self._log_metrics(run_id, [(metric, value, 0) for metric, value in metrics.items()])
        self._client.set_terminated(run_id)

    def end(self, status: str) -> None:
        """Mark the run as FINISHED, KILLED or FAILED."""
        self._client.set_terminated(self.run_id, status=status)


def _done(operation: Operation, run: MlflowRun) -> bool:
    operation(run)
    return True


class Tracker:
    """Logs to MLflow in the background. Use as a context manager: leaving it waits a little for what is left."""

    def __init__(self, target: TrackingTarget, tags: Mapping[str, str], on_run: Callable[[str], None]) -> None:
        self._target, self._tags, self._on_run = target, tags, on_run
        self._queue: queue.Queue[Operation | None] = queue.Queue()
        self._opened = threading.Event()
        self._closing = threading.Event()
        self._deadline = float("inf")
        """When a server that is away is given up."""
        self.run_id = target.run_id
        self._thread = threading.Thread(target=self._work, name="headmask-tracking", daemon=True)
        self._thread.start()

    def log(self, operation: Operation) -> None:
        """Queue something to be logged; returns at once."""
        self._queue.put(operation)

    def wait_for_run(self, timeout_s: float) -> str | None:
        """Return the id of the run, waiting for the server a while; None if it stays away."""
        self._opened.wait(timeout_s)
        return self.run_id

    def close(self) -> bool:
        """Wait for what is left, and return whether everything was logged."""
        self._queue.put(None)
        self._deadline = time.monotonic() + CLOSE_S
        self._closing.set()
        self._thread.join(CLOSE_S)
        return not self._thread.is_alive() and self._queue.empty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.close():
            _log.warning(
                "tracking at %s is incomplete: it did not answer. The run folder has everything",
                redacted(self._target.uri),
            )

    def _work(self) -> None:
        run = self._retry(lambda: MlflowRun(self._target, self._tags))
        if run is None:
            return
        self.run_id = run.run_id
        self._on_run(run.run_id)
        self._opened.set()
        while (operation := self._queue.get()) is not None:
            if self._retry(partial(_done, operation, run)) is None:
                self._queue.put(operation)
                return

    def _retry(self, action: Callable[[], Any]) -> Any:
        """Return what an action returns, tried again until a while after the search; None if it never succeeded."""
        delay_s = 1.0
        while True:
            try:
                return action()
            # MLflow, SQLAlchemy and requests each have their own exceptions for a store that is away.
            except Exception as error:
                _log.debug("tracking: %s", error)
                if time.monotonic() > self._deadline:
                    return None
                if self._closing.wait(delay_s):
                    time.sleep(CLOSING_DELAY_S)
                delay_s = min(2 * delay_s, 30.0)
