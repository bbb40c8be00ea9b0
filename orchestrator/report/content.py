"""The content of a report on a study: read from its run folder, or from its storage if there is no result yet."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from headmask.errors import StudyError
from headmask.mask import Head, HeadGrid, HeadMask
from headmask.maskfile import MaskFile, ModelReference
from orchestrator.outcome.schema import SearchResult, read_result
from orchestrator.outcome.tables import read_trials
from orchestrator.settings.commandline import command_line, resume_command
from orchestrator.settings.config import SearchConfig
from orchestrator.settings.objective import Goal, Objective
from orchestrator.study.lock import is_driven
from orchestrator.study.looks import kept_looks, most_looks
from orchestrator.study.records import TrialRecord, grid_of, selected_mask
from orchestrator.study.stored import read_stored
from orchestrator.verdict.queries import Queries, read_queries


@dataclass(frozen=True)
class Study:
    """A study, finished or not."""

    config: SearchConfig
    model: ModelReference
    grid: HeadGrid
    objective: Objective
    guide: str
    fingerprint: str
    """Digest of the fingerprint."""
    records: list[TrialRecord]
    """Records in order of proposal."""
    result: SearchResult | None
    queries: list[Queries]
    selected: HeadMask | None
    missing: list[str] = field(default_factory=list)
    """What is missing, in sentences."""
    is_running: bool = False
    """Whether a driver is searching now."""

    @cached_property
    def baseline(self) -> TrialRecord | None:
        """The empty mask's trial, if it was scored."""
        return next((record for record in self.records if record.mask.is_empty and record.value is not None), None)

    @cached_property
    def gains(self) -> dict[HeadMask, float]:
        """The objective on the search split of every mask with a value that keeps all limits of loss."""
        if self.baseline is None:
            return {}
        against = self.baseline.metrics
        return {
            record.mask: self.objective.gain(record.metrics)
            for record in self.records
            if record.value is not None and not self.objective.loss_beyond(record.metrics, against)
        }


def read_study(config: SearchConfig) -> Study:
    """Return a study: as its last finished search left it, or in its current state.

    Raises:
        StudyError: there is neither a result nor a study, or they cannot be read.
    """
    if (config.folder / "result.json").is_file():
        return _finished(config)
    return _unfinished(config)


def _finished(config: SearchConfig) -> Study:
    folder = config.folder
    result, mask = read_result(folder, SearchResult), MaskFile.read(folder / "mask.json")
    result = result.model_copy(update={"test_looks": _looks_by_now(result, folder)})
    grid, missing = mask.head_grid, []
    records: list[TrialRecord] = []
    if (trials := folder / "trials.parquet").exists():
        records = read_trials(trials, grid)
    else:
        missing.append(
            f"This run folder has no trials.parquet: no scan and no curves. `{resume_command(folder)}` writes it."
        )
    queries: list[Queries] = []
    if (changed := folder / "queries.parquet").exists():
        queries = read_queries(changed)
    else:
        missing.append(
            "This run folder has no queries.parquet, so the queries that changed are not shown. "
            f"`{resume_command(folder)}` writes that file."
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
    """Return how often the test split has been looked at, including looks after the search that the result is from."""
    data = result.searched.get("data")
    names = data if isinstance(data, dict) else {}
    digests = [str(digest) for name, digest in names.items() if name == "test" or name.endswith("/test")]
    return max(result.test_looks, most_looks(kept_looks(folder), digests))


def _unfinished(config: SearchConfig) -> Study:
    from orchestrator.search.session import digest_of

    if "***" in config.storage:
        raise StudyError(
            f"{config.folder} has no result yet, and the password of {config.storage} is not kept: "
            f"`{command_line('headmask', 'report', config.study_name, '--storage', 'URL')}` reads the study itself"
        )
    stored = read_stored(config.storage, config.study_name)
    about: dict[str, Any] = stored.attrs["fingerprint"]
    grid = grid_of(about)
    selected = selected_mask(stored.attrs, grid)
    return Study(
        config=config,
        model=ModelReference(name=config.model.name, pretrained=config.model.pretrained, weights_sha256=about["model"]),
        grid=grid,
        objective=_objective(about),
        guide=_joined(about["guide"]),
        fingerprint=digest_of(about),
        records=stored.records,
        result=None,
        queries=[],
        selected=selected,
        missing=[_why_unfinished(config, finished=selected is not None)],
        is_running=is_driven(config.storage, config.study_name),
    )


def _objective(about: dict[str, Any]) -> Objective:
    """Return the objective in a fingerprint."""
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
