"""`headmask studies`: the studies in a storage and their progress; reading does not disturb a driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.study import StudySummary
from rich.table import Table

from headmask.border.reading import is_there
from headmask.border.shown import shown
from headmask.errors import StudyError
from orchestrator.settings.location import file_of, redacted
from orchestrator.study.integrity import checked_attrs
from orchestrator.study.lock import is_driven
from orchestrator.study.storage import open_storage
from orchestrator.study.stored import BEGUN, has_begun

State = Literal["not begun", "running", "stopped", "finished"]


@dataclass(frozen=True)
class StudyInfo:
    """One study of a storage."""

    name: str
    state: State
    """State; a study that has not begun is only a name that a search may take: its driver was killed during
    creation.
    """
    masks: int = 0
    """Number of masks with a result."""
    budget: int = 0
    best: float | None = None
    """Value of the best mask on the search split."""
    selected: str | None = None
    """The selected heads of the last search that finished, if one did."""
    model: str = ""
    data: list[str] = field(default_factory=list)
    strategy: str = ""
    folder: str = ""
    """Current or former path of its run folder."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions that it was made with, in order where there was more than one."""


def list_studies(location: str) -> list[StudyInfo]:
    """Return the studies in a storage that headmask made, by name, and those of others without trials.

    Args:
        location: journal file or database URL.

    Raises:
        StudyError: there is none, it cannot be reached, or a study in it is damaged.
    """
    with open_storage(location, must_exist=True) as storage:
        summaries = optuna.get_all_study_summaries(storage)
    made = [each for each in summaries if BEGUN in each.user_attrs or not has_begun(each.user_attrs, each.n_trials)]
    return [_info(location, summary) for summary in sorted(made, key=lambda summary: summary.study_name)]


def begun_studies(location: str) -> list[str]:
    """Return the names of the studies in a storage that have begun; none if its file does not exist yet.

    Raises:
        StudyError: the storage cannot be reached.
    """
    path = file_of(location)
    if path is not None and not (is_there(path) and path.stat().st_size):
        return []
    with open_storage(location, must_exist=True) as storage:
        summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    return [summary.study_name for summary in summaries if has_begun(summary.user_attrs, summary.n_trials)]


def _info(location: str, summary: StudySummary) -> StudyInfo:
    where = f"study {summary.study_name!r} in {shown(redacted(location))}"
    attrs = checked_attrs(summary.user_attrs, where)
    is_running = is_driven(location, summary.study_name)
    if BEGUN not in attrs:
        return StudyInfo(summary.study_name, "running" if is_running else "not begun")
    try:
        return _described(summary, attrs, is_running=is_running)
    except (LookupError, TypeError, AttributeError, ValueError):
        raise StudyError(f"{where} is damaged: its configuration is none. Bring the storage back from a copy") from None


def _described(summary: StudySummary, attrs: dict[str, Any], *, is_running: bool) -> StudyInfo:
    config = attrs[BEGUN]
    state: State = "finished" if attrs.get("finished", -1) >= summary.n_trials else "stopped"
    return StudyInfo(
        name=summary.study_name,
        state="running" if is_running else state,
        masks=summary.n_trials,
        budget=int(config["budget"]["masks"]),
        best=None if summary.best_trial is None else summary.best_trial.value,
        selected=attrs.get("selected", {}).get("mask"),
        model=" ".join(filter(None, (config["model"]["name"], config["model"]["pretrained"]))),
        data=[str(section["path"]) for section in config["data"]],
        strategy=str(config["search"]["strategy"]),
        folder=str(config["output"]["folder"]),
        versions=dict(attrs.get("versions", {})),
    )


def studies_table(studies: list[StudyInfo]) -> Table:
    """Return the studies as a table for the terminal."""
    table = Table("study", "state")
    for name in ("masks", "best"):
        table.add_column(name, justify="right")
    for name in ("selected", "model", "data", "strategy"):
        table.add_column(name, overflow="fold")
    for each in studies:
        best = "" if each.best is None else f"{100 * each.best:.2f}"
        selected = "" if each.selected is None else each.selected or "(none)"
        masks = f"{each.masks}/{each.budget}" if each.budget else ""
        table.add_row(each.name, each.state, masks, best, selected, each.model, ", ".join(each.data), each.strategy)
    return table
