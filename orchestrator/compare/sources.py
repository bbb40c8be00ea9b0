"""Finding what a command line names: run folders, mask and scales files, studies in a storage, runs of a server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from headmask.border.kinds import SCALES
from headmask.border.reading import is_file, is_folder, is_there
from headmask.border.shown import shown
from headmask.errors import HeadmaskError, did_you_mean
from orchestrator.compare.entrant import Entrant, read_folder, read_mask_file, read_trials_alone
from orchestrator.compare.server import Server
from orchestrator.outcome.tables import CANDIDATE_SCALES
from orchestrator.settings.commandline import command_line, resume_command
from orchestrator.settings.location import redacted
from orchestrator.study.storage import open_storage
from orchestrator.study.stored import read_stored

_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Sources:
    """Where references are looked up: on disk, in a storage, on a server."""

    storage: str | None = None
    """Journal file or database URL."""
    server: Server | None = None

    def find(self, references: Sequence[str]) -> list[Entrant]:
        """Return the entrants that references name, in their order.

        Raises:
            HeadmaskError: one is unknown, or cannot be read.
        """
        # Twice the same would count as two that were tested.
        by_place: dict[str, str] = {}
        for reference in references:
            by_place.setdefault(_place(reference), reference)
        found = [self._find(reference) for reference in by_place.values()]
        if len(found) == 1:
            raise HeadmaskError(f"there is nothing to compare {references[0]} with; name at least two")
        return found

    def _find(self, reference: str) -> Entrant:
        if not reference:
            raise HeadmaskError("an entrant cannot be an empty text: name run folders, mask files or studies")
        path = Path(reference)
        if is_folder(path):
            return self._folder(path, reference)
        if is_file(path):
            return read_mask_file(path, reference)
        if self.server is not None and _RUN_ID.fullmatch(reference):
            return self.server.run(reference)
        if self.storage is not None:
            return self._study(reference, self.storage)
        near = _near(path) or "."
        raise HeadmaskError(f"{shown(reference)} is neither a run folder nor a mask file{near} {self._ways_out()}")

    def _ways_out(self) -> str:
        if self.server is not None:
            return f"A run of {redacted(self.server.uri)} is named by its id of 32 digits"
        return "A study needs --storage URL, a tracked run --tracking-uri URL"

    def _folder(self, folder: Path, name: str) -> Entrant:
        journal = folder / "study.journal"
        if is_file(folder / "refine.json") and not is_file(folder / "result.json"):
            # A refinement without a search. What it selected is compared, as it is for searches.
            selected = folder / CANDIDATE_SCALES
            return read_mask_file(selected if is_file(selected) else folder / SCALES, name)
        if is_file(folder / "result.json") or not is_file(journal):
            return read_folder(folder, name)
        with open_storage(str(journal), must_exist=True) as storage:
            studies = optuna.get_all_study_names(storage)
        if not studies:
            return read_folder(folder, name)
        return _trials_alone(name, str(journal), studies[0], f"`{resume_command(folder)}` goes on")

    def _study(self, name: str, storage: str) -> Entrant:
        """Return a study, read from its run folder or its tracked run if these are available."""
        stored = read_stored(storage, name)
        attrs, folder = stored.attrs, stored.config.folder
        if is_file(folder / "result.json"):
            entrant = read_folder(folder, name, "study")
            if entrant.result is not None and entrant.result.study == name and entrant.matches(attrs["fingerprint"]):
                return entrant
        if self.server is not None and attrs.get("mlflow_run_id") and "selected" in attrs:
            return self.server.run(attrs["mlflow_run_id"])
        command = command_line("headmask", "resume", name, "--storage", redacted(storage), "--out", "FOLDER")
        way_out = f"`{command}` writes its run folder"
        return _trials_alone(name, storage, name, way_out)


def _trials_alone(name: str, location: str, study_name: str, way_out: str) -> Entrant:
    stored = read_stored(location, study_name)
    return read_trials_alone(name, stored, way_out)


def _place(reference: str) -> str:
    """Return a value that is the same for all spellings of a path."""
    path = Path(reference)
    return str(path.resolve()) if is_there(path) else reference


def _near(path: Path) -> str:
    beside = [str(each) for each in path.parent.glob("*") if each != path] if is_folder(path.parent) else []
    return did_you_mean(str(path), beside)
