"""An entrant of a comparison: a run folder, a study, a tracked run, a mask or scales file, as far as it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headmask.mask import Head, HeadGrid, HeadMask
from headmask.maskfile import HeadFile, MaskFile
from headmask.scalesfile import ScalesFile, read_head_file
from orchestrator.outcome.schema import RELIABLE, SearchResult, read_result
from orchestrator.settings.commandline import resume_command
from orchestrator.settings.config import flat_settings
from orchestrator.settings.objective import Goal, Objective
from orchestrator.study.records import grid_of, selected_mask
from orchestrator.study.runfolder import CONFIG, read_config_file

if TYPE_CHECKING:
    from orchestrator.study.records import TrialRecord
    from orchestrator.study.stored import StoredStudy

_SPLITS = ("search", "confirm", "test")
Kind = Literal["run folder", "study", "tracked run", "mask file", "scales file"]


@dataclass(frozen=True)
class Scores:
    """Scores of the empty mask and of the selected mask on one split."""

    baseline: Mapping[str, float]
    selected: Mapping[str, float]


@dataclass(frozen=True)
class Entrant:
    """An entrant of a comparison. Unknown fields are None or empty."""

    name: str
    kind: Kind
    about: Mapping[str, Any]
    """Known parts of its fingerprint."""
    grid: HeadGrid
    mask: HeadMask | None
    """The mask selected on confirm; of scales, the heads below one half; None for a study that has not come so far."""
    scales: Mapping[str, float] | None = None
    """Scales by head, of a scales file."""
    model: str = ""
    objective: str | None = None
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """Scores by split."""
    interval: tuple[float, float] | None = None
    """Two-sided 95 % interval of the objective's test delta."""
    p_value: float | None = None
    is_reliable: bool | None = None
    """Whether it improves reliably on test; None if that was not tested."""
    result: SearchResult | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings by dotted keys."""
    queries: Path | None = None
    trials: Path | Sequence[TrialRecord] = ()
    lacks: str = ""
    """What is not known about it, and the way out."""

    def value(self, split: str) -> float | None:
        """Return the objective of its mask on a split."""
        scores = self.scores.get(split)
        return None if scores is None or self.objective is None else scores.selected.get(self.objective)

    @cached_property
    def digests(self) -> Mapping[str, tuple[str, ...]]:
        """Digests of the data by split, of all data sets in order; empty if they are not known."""
        data = self.about.get("data", {})
        return {
            split: tuple(data[name] for name in data if name.rpartition("/")[2] == split) for split in _SPLITS if data
        }

    def matches(self, fingerprint: Mapping[str, Any]) -> bool:
        """Return whether its result is of the study with this fingerprint."""
        return self.result is not None and self.result.searched in ({}, dict(fingerprint))


def read_folder(folder: Path, name: str, kind: Kind = "run folder") -> Entrant:
    """Return the entrant of a run folder.

    Raises:
        HeadmaskError: the folder has no result, or it cannot be read.
    """
    result, mask = read_result(folder, SearchResult), MaskFile.read(folder / "mask.json")
    queries = folder / "queries.parquet"
    has_queries, trials = queries.is_file(), folder / "trials.parquet"
    return Entrant(
        name=name,
        kind=kind,
        about={**_about(mask), **result.searched, "objective": result.objective},
        grid=mask.head_grid,
        mask=HeadMask.from_heads(mask.head_grid, map(Head.parse, result.selected)),
        model=str(mask.model),
        objective=result.objective,
        scores={split: Scores(part.baseline, part.selected) for split, part in dict(result.splits).items()},
        interval=result.splits.test.interval,
        p_value=result.splits.test.p_value,
        is_reliable=result.verdict == RELIABLE,
        result=result,
        settings=_settings(folder),
        queries=queries if has_queries else None,
        trials=trials if trials.is_file() else (),
        lacks=""
        if has_queries
        else f"has no queries.parquet, so no paired intervals; `{resume_command(folder)}` writes it",
    )


def read_mask_file(path: Path, name: str) -> Entrant:
    """Return the entrant of a mask file or a scales file.

    Raises:
        MaskFileError: it cannot be read.
    """
    mask = read_head_file(path)
    scales = mask.heads if isinstance(mask, ScalesFile) else None
    test = mask.scores.get("test")
    lacks = f"is {mask.KIND.name}, which does not keep what every query earns: no paired intervals; "
    beside = path.parent / "queries.parquet"
    return Entrant(
        name=name,
        kind="mask file" if scales is None else "scales file",
        about=_about(mask),
        grid=mask.head_grid,
        mask=mask.head_scales.suppressed,
        scales=scales,
        model=str(mask.model),
        objective=mask.objective,
        scores={split: Scores(each.baseline, each.selected) for split, each in mask.scores.items()},
        interval=None if test is None else test.interval,
        p_value=None if test is None else test.p_value,
        is_reliable=None if mask.verdict is None else mask.verdict == RELIABLE,
        lacks=lacks + (f"name {path.parent} for them" if scales is None and beside.is_file() else _EVAL),
    )


_EVAL = "`headmask eval --mask ONE --mask OTHER --data DATA` scores several masks on one data set, paired"


def read_trials_alone(name: str, stored: StoredStudy, way_out: str) -> Entrant:
    """Return the entrant of a study without its run folder: its settings, its trials, and its selected mask."""
    about: dict[str, Any] = stored.attrs["fingerprint"]
    grid = grid_of(about)
    mask, model, objective = selected_mask(stored.attrs, grid), stored.config.model, objective_of(about)
    return Entrant(
        name=name,
        kind="study",
        about={**about, "objective": objective},
        grid=grid,
        mask=mask,
        model=model.name if model.pretrained is None else f"{model.name} ({model.pretrained})",
        objective=objective,
        settings=flat_settings(stored.config.public()),
        trials=stored.records,
        lacks=("has selected no mask yet" if mask is None else "keeps no confirm and test scores") + f"; {way_out}",
    )


def objective_of(about: Mapping[str, Any]) -> str:
    """Return the objective in a fingerprint, with its name in results."""
    if isinstance(about["objective"], str):
        return str(about["objective"])
    goals, task = map(Goal.parse, about["objective"]), about["task"]
    return str(Objective(tuple(goal for goal in goals if goal.data not in task["max_loss"]), task["combine"]))


def _about(mask: HeadFile) -> dict[str, Any]:
    prefixes = {data.name: f"{data.name}/" if len(mask.data) > 1 else "" for data in mask.data}
    known = {
        "model": mask.model.weights_sha256,
        "tower": mask.tower,
        "grid": str(mask.head_grid),
        "data": {f"{prefixes[each.name]}{name}": of.digest for each in mask.data for name, of in each.splits.items()},
        "ablation": mask.ablation,
        "objective": mask.objective,
    }
    return {key: value for key, value in known.items() if value}


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a run folder by dotted keys; none if it has no configuration.

    Raises:
        HeadmaskError: there is one, and it cannot be read.
    """
    return flat_settings(read_config_file(folder).public()) if (folder / CONFIG).exists() else {}
