"""`headmask studies`: what is in a storage, and how far each study is; reading does not disturb a driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.study import StudySummary
from rich.table import Table

from orchestrator.driverlock import is_driven
from orchestrator.store import open_storage

State = Literal["running", "stopped", "finished"]


@dataclass(frozen=True)
class StudyInfo:
    """One study of a storage."""

    name: str
    state: State
    masks: int
    """That have a result."""
    budget: int
    best: float | None
    """Value of the best mask on the search split."""
    selected: str | None
    """The selected heads of the last search that ended, if one did."""
    model: str
    data: list[str]
    strategy: str
    folder: str
    """Where its run folder is, or was."""


def list_studies(location: str) -> list[StudyInfo]:
    """Return the studies of a storage that headmask made, by name.

    Args:
        location: journal file or database URL.

    Raises:
        StudyError: there is none, or it cannot be reached.
    """
    with open_storage(location, must_exist=True) as storage:
        summaries = optuna.get_all_study_summaries(storage)
    made = [summary for summary in summaries if "config" in summary.user_attrs]
    return [_info(location, summary) for summary in sorted(made, key=lambda summary: summary.study_name)]


def _info(location: str, summary: StudySummary) -> StudyInfo:
    attrs: dict[str, Any] = summary.user_attrs
    config = attrs["config"]
    state: State = "finished" if attrs.get("finished", -1) >= summary.n_trials else "stopped"
    return StudyInfo(
        name=summary.study_name,
        state="running" if is_driven(location, summary.study_name) else state,
        masks=summary.n_trials,
        budget=config["budget"]["masks"],
        best=None if summary.best_trial is None else summary.best_trial.value,
        selected=attrs.get("selected", {}).get("mask"),
        model=" ".join(filter(None, (config["model"]["name"], config["model"]["pretrained"]))),
        data=[section["path"] for section in config["data"]],
        strategy=config["search"]["strategy"],
        folder=config["output"]["folder"],
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
        masks = f"{each.masks}/{each.budget}"
        table.add_row(each.name, each.state, masks, best, selected, each.model, ", ".join(each.data), each.strategy)
    return table
