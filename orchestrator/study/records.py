"""One scored mask of a study, as the search knows it and as an Optuna trial, and how trials are read again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from headmask.errors import HeadmaskError, StudyError
from headmask.mask import HeadGrid, HeadMask
from orchestrator.settings.objective import Goal, Objective
from orchestrator.study.integrity import checksum
from strategies import distributions, mask_of, params_of

TOLERANCE = 1e-9
"""Tolerance between a value and what its metrics give, if there is no checksum."""


@dataclass(frozen=True)
class TrialRecord:
    """One scored mask of a study."""

    proposal: int
    """Number of the proposal; the trial's number in the storage is only the order of arrival."""
    mask: HeadMask
    value: float | None
    """The value that the search maximises, on the search split; None for a failure."""
    metrics: dict[str, float] = field(default_factory=dict)
    strategy: str = ""
    seconds: float = 0.0
    failure: str | None = None
    device: str = ""

    @property
    def checksum(self) -> str:
        """A checksum of all that the record holds."""
        value = None if self.value is None else float(self.value)
        metrics = {name: float(metric) for name, metric in self.metrics.items()}
        what = self.strategy, round(self.seconds, 6), self.failure, self.device
        return checksum([self.proposal, list(self.mask.words), value, metrics, *what])

    def to_trial(self) -> FrozenTrial:
        """Return the record as a finished Optuna trial."""
        attrs = {
            "proposal": self.proposal,
            "strategy": self.strategy,
            "seconds": round(self.seconds, 6),
            "metrics": self.metrics,
            "device": self.device,
            "checksum": self.checksum,
        }
        return create_trial(
            state=TrialState.COMPLETE if self.failure is None else TrialState.FAIL,
            value=self.value,
            params=params_of(self.mask),
            distributions=dict(distributions(self.mask.grid)),
            user_attrs=attrs if self.failure is None else {**attrs, "failure": self.failure},
        )

    @classmethod
    def from_trial(cls, trial: FrozenTrial, grid: HeadGrid) -> TrialRecord:
        """Return the record of a finished Optuna trial.

        Raises:
            StudyError: the trial is not what was written.
        """
        attrs = trial.user_attrs
        try:
            record = cls(
                proposal=attrs["proposal"],
                mask=mask_of(trial.params, grid),
                value=trial.value if trial.state is TrialState.COMPLETE else None,
                metrics=attrs.get("metrics", {}),
                strategy=attrs.get("strategy", ""),
                seconds=attrs.get("seconds", 0.0),
                failure=attrs.get("failure"),
                device=attrs.get("device", ""),
            )
            has_changed = "checksum" in attrs and attrs["checksum"] != record.checksum
        except (HeadmaskError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(trial, f"it cannot be read ({type(error).__name__}: {error})") from None
        if has_changed:
            raise _damaged(trial, "it is not what headmask wrote")
        if not _is_whole(record):
            raise _damaged(trial, "it is neither a score nor a failure")
        return record


def _is_whole(record: TrialRecord) -> bool:
    return (
        type(record.proposal) is int
        and (record.value is None) == (record.failure is not None)
        and isinstance(record.strategy, str)
        and isinstance(record.device, str)
    )


def read_records(
    attrs: Mapping[str, Any], trials: Sequence[FrozenTrial], *, grid: HeadGrid | None = None
) -> list[TrialRecord]:
    """Return the records of a study's finished trials, in order of proposal.

    Trials of others, and those that nobody finished, are left out.

    Args:
        attrs: attributes of the study.
        trials: trials of the study.
        grid: grid of its masks; by default from its fingerprint.

    Raises:
        StudyError: a trial is not what was written.
    """
    about = attrs.get("fingerprint") or {}
    grid = grid or grid_of(about)
    value_of = _value_of(about)
    finished = (TrialState.COMPLETE, TrialState.FAIL)
    records = []
    for trial in trials:
        if "proposal" not in trial.user_attrs or trial.state not in finished:
            continue
        record = TrialRecord.from_trial(trial, grid)
        if "checksum" not in trial.user_attrs and value_of is not None:
            _check_value(trial, record, value_of)
        records.append(record)
    return sorted(records, key=lambda record: record.proposal)


def grid_of(about: Mapping[str, Any]) -> HeadGrid:
    """Return the grid in a fingerprint.

    Raises:
        StudyError: it has none.
    """
    try:
        layers, heads = map(int, about["grid"].split("x"))
        return HeadGrid(layers, heads)
    except (HeadmaskError, LookupError, TypeError, ValueError, AttributeError):
        raise StudyError("the study is damaged: its fingerprint names no grid of heads") from None


def selected_mask(attrs: Mapping[str, Any], grid: HeadGrid) -> HeadMask | None:
    """Return the mask that a study has selected, if any.

    Raises:
        StudyError: the study has something else in its place.
    """
    selected = attrs.get("selected")
    try:
        return None if selected is None else HeadMask(grid, tuple(map(int, selected["words"])))
    except (HeadmaskError, LookupError, TypeError, ValueError):
        raise StudyError("the study is damaged: what it has selected is not a mask") from None


def _value_of(about: Mapping[str, Any]) -> Callable[[Mapping[str, float]], float] | None:
    """Return a function from metrics to a trial's value; None if it needs more than the metrics."""
    names, task = about.get("guide"), about.get("task")
    several = task if isinstance(task, dict) else {}
    if not names or several.get("max_loss"):
        return None
    try:
        goals = tuple(map(Goal.parse, [names] if isinstance(names, str) else names))
    except (HeadmaskError, ValueError):
        return None
    return Objective(goals, several.get("combine", "mean")).gain


def _check_value(trial: FrozenTrial, record: TrialRecord, value_of: Callable[[Mapping[str, float]], float]) -> None:
    if record.value is None:
        return
    try:
        expected = value_of(record.metrics)
    except (HeadmaskError, LookupError, TypeError, ValueError):
        return
    if not math.isclose(expected, record.value, rel_tol=0.0, abs_tol=TOLERANCE):
        raise _damaged(trial, f"its value is {record.value!r}, its metrics give {expected!r}")


def _damaged(trial: FrozenTrial, why: str) -> StudyError:
    return StudyError(
        f"trial {trial.number} of the study is damaged: {why}. Bring the storage back from a copy, or delete the "
        "trial: its mask is scored again"
    )
