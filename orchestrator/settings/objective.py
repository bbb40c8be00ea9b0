"""What a search maximises, over one data set or several, and what it may not lose.

The *objective* is what the user wants and what decides on confirm and test. Masks are searched by a *guide*, which may
be another metric of the same data: one that a good optimiser cannot overfit as easily on a small search split.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.statistics.paired import Evidence
from workers.tasks.base import Mix

# R draws, D data sets

Combine = Literal["mean", "worst"]


@dataclass(frozen=True)
class Goal:
    """What one data set is searched for."""

    data: str
    """Name of the data set."""
    mix: Mix
    max_loss: float | None = None
    """Most that the mix may lose against the baseline, in [0, 1]; None where it is to be improved instead."""
    prefix: str = ""
    """What the data set's metrics begin with, where there are several data sets."""

    def __str__(self) -> str:
        return f"{self.prefix}{self.mix}"

    @classmethod
    def parse(cls, text: str, max_loss: float | None = None) -> Goal:
        """Return the goal that `str` gives this text."""
        data, slash, mix = text.rpartition("/")
        return cls(data, Mix.parse(mix), max_loss, data + slash)

    def value(self, metrics: Mapping[str, float]) -> float:
        """Return the mix in [0, 1]."""
        return self.mix.value(metrics, self.prefix)

    def holds(self, evidence: Evidence) -> bool:
        """Return whether it is shown that a guarded goal loses no more than it may."""
        return evidence.loses_at_most(self.max_loss or 0.0)


@dataclass(frozen=True)
class Objective:
    """The mean or the smallest of the goals to improve, as long as no guarded one loses more than it may."""

    goals: tuple[Goal, ...]
    combine: Combine = "mean"

    @property
    def improved(self) -> tuple[Goal, ...]:
        """The goals to improve."""
        return tuple(goal for goal in self.goals if goal.max_loss is None)

    @property
    def guarded(self) -> tuple[Goal, ...]:
        """The goals that may lose a little."""
        return tuple(goal for goal in self.goals if goal.max_loss is not None)

    def guided(self, mixes: Sequence[Mix]) -> Objective:
        """Return the objective with another mix for every goal, in order."""
        return replace(self, goals=tuple(replace(goal, mix=mix) for goal, mix in zip(self.goals, mixes, strict=True)))

    def __str__(self) -> str:
        names = list(map(str, self.improved))
        return names[0] if len(names) == 1 else f"{self.combine} of {', '.join(names)}"

    @classmethod
    def parse(cls, text: str, guarded: Sequence[Goal] = ()) -> Objective:
        """Return the objective that `str` gives this text, with the goals that it leaves out."""
        found = re.fullmatch(r"(?:(mean|worst) of (?=.*,))?(.*)", text)
        if found is None:
            raise ValueError(f"{text!r} is on several lines")
        improved = map(Goal.parse, found[2].split(", "))
        return cls((*improved, *guarded), "worst" if found[1] == "worst" else "mean")

    def gain(self, metrics: Mapping[str, float]) -> float:
        """Return the objective in [0, 1], whatever is lost elsewhere."""
        return float(self.over([goal.value(metrics) for goal in self.improved]))

    def value(self, metrics: Mapping[str, float], baseline: Mapping[str, float]) -> float:
        """Return what masks are ordered by: the objective, or minus what is lost beyond the limits, below zero.

        Args:
            metrics: of a mask.
            baseline: of the empty mask on the same splits; read where something is guarded.
        """
        beyond = self.loss_beyond(metrics, baseline)
        return -beyond if beyond > 0 else self.gain(metrics)

    def loss_beyond(self, metrics: Mapping[str, float], baseline: Mapping[str, float]) -> float:
        """Return the sum of what guarded goals lose beyond their limits; 0.0 within them all."""
        return sum(
            # A tolerance, because a loss of exactly the limit is allowed and differences round.
            beyond if (beyond := goal.value(baseline) - goal.value(metrics) - (goal.max_loss or 0.0)) > 1e-9 else 0.0
            for goal in self.guarded
        )

    def named(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return metrics with the objective among them, under its own name."""
        return dict(metrics) if not metrics else {**metrics, str(self): self.gain(metrics)}

    def over(self, values: Sequence[float]) -> float:
        """Return the mean or the smallest of the goals' values."""
        return min(values) if self.combine == "worst" else sum(values) / len(values)

    def over_draws(self, values_RD: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean or the smallest of the goals' values in every draw."""
        found: NDArray[np.float64] = values_RD.min(1) if self.combine == "worst" else values_RD.mean(1)
        return found
