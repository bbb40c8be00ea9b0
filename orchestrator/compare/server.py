"""Runs of an MLflow server, read through the copies of run folders that they hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from headmask.border.passwords import redacted
from headmask.border.reading import is_file
from headmask.border.shown import shown
from headmask.errors import HeadmaskError, did_you_mean
from orchestrator.compare.entrant import Entrant, read_folder
from orchestrator.settings.location import sqlite_file
from orchestrator.settings.trackinguri import OPTION, check_tracking_uri
from orchestrator.track.mlflowrun import make_client
from orchestrator.track.refusal import reason_of, refusal_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FILES = ("result.json", "mask.json", "config.json", "trials.parquet", "queries.parquet")
_PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Server:
    """A tracking server or store, with a folder for downloads."""

    uri: str
    scratch: Path
    what: str = OPTION
    """Option or variable that gave the address."""

    @cached_property
    def _client(self) -> MlflowClient:
        """MLflow's client, made when needed because importing it takes seconds."""
        self.check()
        with self._asked():
            return make_client(self.uri)

    def check(self) -> None:
        """Check that the address is valid, and that a database in a file exists.

        Raises:
            HeadmaskError: it is not valid, or the file does not exist.
        """
        path = sqlite_file(check_tracking_uri(self.uri, self.what))
        if path is not None and not (is_file(path) and path.stat().st_size):
            raise HeadmaskError(
                f"there is no tracking store {redacted(self.uri)}; a search makes mlflow.db beside its run folder"
            )

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn exceptions of MLflow, SQLAlchemy, requests and drivers in the block into one message."""
        try:
            yield
        except Exception as error:
            reason = refusal_of(error) or reason_of(error, self.uri)
            raise HeadmaskError(f"cannot read {redacted(self.uri)}: {reason}") from None

    def run(self, run_id: str) -> Entrant:
        """Return a tracked search.

        Raises:
            HeadmaskError: there is no such run, or it holds no finished search.
        """
        from mlflow.exceptions import MlflowException

        client = self._client
        with self._asked():
            try:
                run = client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                run = None
        if run is None:
            raise HeadmaskError(f"there is no run {run_id} in {redacted(self.uri)}")
        if parent := run.data.tags.get(_PARENT):
            raise HeadmaskError(f"run {run_id} is one finalist of a search; name the search's run, {parent}")
        return self._fetched(run)

    def experiment(self, name: str, top: int) -> list[Entrant]:
        """Return the finished searches of an experiment that gained most on confirm, best first.

        Raises:
            HeadmaskError: there is no such experiment, or it has fewer than two finished searches.
        """
        client = self._client
        with self._asked():
            found = client.get_experiment_by_name(name)
            known = [] if found else [each.name for each in client.search_experiments()]
            runs = list(self._runs(found.experiment_id)) if found else []
        if found is None:
            raise HeadmaskError(
                f"there is no experiment {name!r} in {redacted(self.uri)}{did_you_mean(name, known)}; "
                f"it has {', '.join(map(shown, known)) or 'none'}"
            )
        runs = [run for run in runs if _confirm_gain(run) is not None]
        if len(runs) < 2:
            raise HeadmaskError(f"experiment {name!r} needs two finished searches to compare; it has {len(runs)}")
        best = sorted(runs, key=lambda run: -(_confirm_gain(run) or 0.0))[:top]
        return [self._fetched(run) for run in best]

    def _runs(self, experiment_id: str) -> Iterator[Run]:
        """Yield the searches of an experiment, without the separate runs of their finalists."""
        token = None
        while True:
            page = self._client.search_runs(
                [experiment_id], "tags.`headmask.verdict` LIKE '%'", max_results=500, page_token=token
            )
            yield from page
            if not (token := page.token):
                return

    def _fetched(self, run: Run) -> Entrant:
        run_id, client = run.info.run_id, self._client
        folder = self.scratch / run_id
        folder.mkdir(exist_ok=True)
        with self._asked():
            held = {each.path for each in client.list_artifacts(run_id)}
            for name in FILES if "result.json" in held else ():
                if name in held:
                    client.download_artifacts(run_id, name, str(folder))
        if "result.json" not in held:
            raise HeadmaskError(f"run {run_id} in {redacted(self.uri)} has no result.json: not a finished search")
        return read_folder(folder, f"{run.info.run_name} ({run_id[:8]})", "tracked run")


def _confirm_gain(run: Run) -> float | None:
    """Return the gain of a search's mask on confirm; None if it is not a finished search."""
    gains = [value for name, value in run.data.metrics.items() if name.startswith("confirm/delta.")]
    return float(gains[0]) if gains else None


@contextmanager
def connected(uri: str, what: str = OPTION) -> Iterator[Server]:
    """Hold a tracking server, and a folder for downloads, until the end of the block.

    Args:
        uri: address of the server, which is contacted when needed.
        what: the option or variable that gave the address.
    """
    with TemporaryDirectory(prefix="headmask-compare-") as scratch:
        yield Server(uri, Path(scratch), what)
