"""What a report on a study is made of: read from its run folder, or from its storage while it has no result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from headmask.errors import DataError, StudyError
from headmask.mask import Head, HeadGrid, HeadMask
from headmask.maskfile import MaskFile, ModelReference
from orchestrator.config import SearchConfig
from orchestrator.driverlock import is_driven
from orchestrator.ledger import kept_looks, most_looks
from orchestrator.location import redacted
from orchestrator.objective import Goal, Objective
from orchestrator.queries import Queries, read_queries
from orchestrator.result import SearchResult
from orchestrator.store import TrialRecord, load_study, open_storage
from orchestrator.tables import read_trials


@dataclass(frozen=True)
class Study:
    """A study, finished or not."""

    config: SearchConfig
    model: ModelReference
    grid: HeadGrid
    objective: Objective
    guide: str
    fingerprint: str
    """Its digest."""
    records: list[TrialRecord]
    """In order of proposal."""
    result: SearchResult | None
    queries: list[Queries]
    selected: HeadMask | None
    missing: list[str] = field(default_factory=list)
    """What is not there, in sentences."""
    is_running: bool = False
    """Whether a driver is searching right now."""

    @cached_property
    def baseline(self) -> TrialRecord | None:
        """The empty mask's trial, if it was scored."""
        return next((record for record in self.records if record.mask.is_empty and record.value is not None), None)

    @cached_property
    def gains(self) -> dict[HeadMask, float]:
        """The objective on the search split of every mask that has one and loses no more than it may."""
        if self.baseline is None:
            return {}
        against = self.baseline.metrics
        return {
            record.mask: self.objective.gain(record.metrics)
            for record in self.records
            if record.value is not None and not self.objective.loss_beyond(record.metrics, against)
        }


def read_study(config: SearchConfig) -> Study:
    """Return a study: as its last finished search left it, or as far as it is.

    Raises:
        StudyError: there is neither a result nor a study, or they cannot be read.
    """
    if (config.folder / "result.json").is_file():
        return _finished(config)
    return _unfinished(config)


def _finished(config: SearchConfig) -> Study:
    folder = config.folder
    try:
        result = SearchResult.model_validate_json((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"{folder / 'result.json'} cannot be read: {_first_mistake(error)}") from None
    result = result.model_copy(update={"test_looks": _looks_by_now(result, folder)})
    mask = MaskFile.read(folder / "mask.json")
    grid, missing = mask.head_grid, []
    try:
        records = read_trials(folder / "trials.parquet", grid)
    except DataError as error:
        records, missing = [], [f"{error}: no scan and no curves."]
    queries: list[Queries] = []
    try:
        queries = read_queries(folder / "queries.parquet")
    except DataError:
        missing.append(
            "This run folder has no queries.parquet, so the queries that changed are not shown. "
            "`headmask resume` on it writes that file."
        )
    guarded = [Goal.parse(_prefixed(each.data, each.objective), each.max_loss) for each in result.guarded]
    return Study(
        config=config,
        model=mask.model,
        grid=grid,
        objective=Objective.parse(result.objective, guarded),
        guide=result.guide,
        fingerprint=result.fingerprint,
        records=records,
        result=result,
        queries=queries,
        selected=HeadMask.from_heads(grid, map(Head.parse, result.selected)),
        missing=missing,
    )


def _looks_by_now(result: SearchResult, folder: Path) -> int:
    """Return how often the test split was looked at, also after the search that the result is of."""
    data = result.searched.get("data")
    names = data if isinstance(data, dict) else {}
    digests = [str(digest) for name, digest in names.items() if name == "test" or name.endswith("/test")]
    return max(result.test_looks, most_looks(kept_looks(folder), digests))


def _unfinished(config: SearchConfig) -> Study:
    from orchestrator.session import digest_of

    if "***" in config.storage:
        raise StudyError(
            f"{config.folder} has no result yet, and the password of {config.storage} is not kept: "
            f"`headmask report {config.study_name} --storage URL` reads the study itself"
        )
    with open_storage(config.storage, must_exist=True) as storage:
        study = load_study(storage, config.storage, config.study_name)
        attrs, trials = study.user_attrs, study.get_trials(deepcopy=False)
    if "fingerprint" not in attrs:
        raise StudyError(f"study {config.study_name!r} in {redacted(config.storage)} was not made by headmask")
    about: dict[str, Any] = attrs["fingerprint"]
    layers, heads = map(int, about["grid"].split("x"))
    grid = HeadGrid(layers, heads)
    records = [TrialRecord.from_trial(trial, grid) for trial in trials if "proposal" in trial.user_attrs]
    selected = attrs.get("selected")
    return Study(
        config=config,
        model=ModelReference(name=config.model.name, pretrained=config.model.pretrained, weights_sha256=about["model"]),
        grid=grid,
        objective=_objective(about),
        guide=_joined(about["guide"]),
        fingerprint=digest_of(about),
        records=sorted(records, key=lambda record: record.proposal),
        result=None,
        queries=[],
        selected=None if selected is None else HeadMask(grid, tuple(selected["words"])),
        missing=[_why_unfinished(config, finished=selected is not None)],
        is_running=is_driven(config.storage, config.study_name),
    )


def _objective(about: dict[str, Any]) -> Objective:
    """Return the objective that a fingerprint names."""
    names, task = about["objective"], about["task"]
    if isinstance(names, str):
        return Objective.parse(names)
    limits = task["max_loss"]
    goals = [Goal.parse(name) for name in names]
    return Objective(tuple(replace(goal, max_loss=limits.get(goal.data)) for goal in goals), task["combine"])


def _joined(names: str | list[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)


def _why_unfinished(config: SearchConfig, *, finished: bool) -> str:
    if finished:
        return (
            f"This study has a verdict, but its run folder {config.folder} is not here: result.json and the queries "
            "lie there. What follows is what the storage knows."
        )
    return "This search has no verdict yet. What follows is what it has scored so far on the search split."


def _prefixed(data: str, mix: str) -> str:
    return f"{data}/{mix}"


def _first_mistake(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']} (was it written by another version?)"
    return str(error)
