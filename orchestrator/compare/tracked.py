"""Runs of an MLflow server, read as the run folders that they hold copies of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from headmask.errors import HeadmaskError, did_you_mean
from headmask.foreign import reason_of
from orchestrator.compare.entrant import Entrant, read_folder
from orchestrator.location import redacted
from orchestrator.track.mlflowrun import make_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FILES = ("result.json", "mask.json", "config.json", "trials.parquet", "queries.parquet")
_PARENT = "mlflow.parentRunId"
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Server:
    """A tracking server or store, with a folder for what is fetched from it."""

    uri: str
    client: MlflowClient
    scratch: Path

    def run(self, run_id: str) -> Entrant:
        """Return a tracked search.

        Raises:
            HeadmaskError: there is no such run, or it holds no finished search.
        """
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            raise HeadmaskError(f"there is no run {run_id} in {redacted(self.uri)}: {reason_of(error)}") from None
        if parent := run.data.tags.get(_PARENT):
            raise HeadmaskError(f"run {run_id} is one finalist of a search; name the search's run, {parent}")
        return self._fetched(run)

    def experiment(self, name: str, top: int) -> list[Entrant]:
        """Return the finished searches of an experiment that gained most on confirm, best first.

        Raises:
            HeadmaskError: there is no such experiment, or it has fewer than two finished searches.
        """
        found = self.client.get_experiment_by_name(name)
        if found is None:
            known = [each.name for each in self.client.search_experiments()]
            raise HeadmaskError(
                f"there is no experiment {name!r} in {redacted(self.uri)}{did_you_mean(name, known)}; "
                f"it has {', '.join(known) or 'none'}"
            )
        runs = [run for run in self._runs(found.experiment_id) if _confirm_gain(run) is not None]
        if len(runs) < 2:
            raise HeadmaskError(f"experiment {name!r} needs two finished searches to compare; it has {len(runs)}")
        best = sorted(runs, key=lambda run: -(_confirm_gain(run) or 0.0))[:top]
        return [self._fetched(run) for run in best]

    def _runs(self, experiment_id: str) -> Iterator[Run]:
        """Yield the searches of an experiment; their finalists are runs of their own, with a verdict of none."""
        token = None
        while True:
            page = self.client.search_runs(
                [experiment_id], "tags.`headmask.verdict` LIKE '%'", max_results=500, page_token=token
            )
            yield from page
            if not (token := page.token):
                return

    def _fetched(self, run: Run) -> Entrant:
        from mlflow.exceptions import MlflowException

        run_id = run.info.run_id
        held = {each.path for each in self.client.list_artifacts(run_id)}
        if "result.json" not in held:
            raise HeadmaskError(
                f"run {run_id} in {redacted(self.uri)} has no result.json: its search has not ended, or is none"
            )
        folder = self.scratch / run_id
        folder.mkdir(exist_ok=True)
        try:
            for name in FILES:
                if name in held:
                    self.client.download_artifacts(run_id, name, str(folder))
        except (MlflowException, OSError) as error:
            raise HeadmaskError(f"the files of run {run_id} cannot be fetched: {reason_of(error)}") from None
        return read_folder(folder, f"{run.info.run_name} ({run_id[:8]})", "tracked run")


def _confirm_gain(run: Run) -> float | None:
    """Return what a search's mask gains on confirm; None for what is no finished search."""
    gains = [value for name, value in run.data.metrics.items() if name.startswith("confirm/delta.")]
    return float(gains[0]) if gains else None


@contextmanager
def connected(uri: str) -> Iterator[Server]:
    """Hold a connection to a tracking server, and a folder for what is fetched, until the end of the block.

    Raises:
        HeadmaskError: it is a database file that is not there.
    """
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file():
        raise HeadmaskError(f"there is no tracking store {uri}; a search makes mlflow.db beside its run folder")
    with TemporaryDirectory(prefix="headmask-compare-") as scratch:
        yield Server(uri, make_client(uri), Path(scratch))
