"""What a search maximises over one or several data sets, and the losses that it must not exceed.

The *objective* is what the user wants and what is reported. Masks are searched by a *guide*, which may be another
metric of the same data: one that a good optimiser cannot overfit as easily on a small search split. On confirm the
objective says which masks are close to the best one, and the guide decides between these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.statistics.paired import Evidence
from workers.tasks.metrics import Mix

# R draws, D data sets

Combine = Literal["mean", "worst"]


@dataclass(frozen=True)
class Goal:
    """The goal for one data set."""

    data: str
    """Name of the data set."""
    mix: Mix
    max_loss: float | None = None
    """Maximum loss of the mix against the baseline, in [0, 1]; None if the mix is to be improved instead."""
    prefix: str = ""
    """Prefix of the data set's metrics if there are several data sets."""

    def __str__(self) -> str:
        return f"{self.prefix}{self.mix}"

    @classmethod
    def parse(cls, text: str, max_loss: float | None = None) -> Goal:
        """Return the goal whose `str` is this text."""
        data, slash, mix = text.rpartition("/")
        return cls(data, Mix.parse(mix), max_loss, data + slash)

    def value(self, metrics: Mapping[str, float]) -> float:
        """Return the mix in [0, 1]."""
        return self.mix.value(metrics, self.prefix)

    def holds(self, evidence: Evidence) -> bool:
        """Return whether a guarded goal is shown to lose no more than allowed."""
        return evidence.loses_at_most(self.max_loss or 0.0)


@dataclass(frozen=True)
class Objective:
    """The mean or the smallest of the goals to improve, provided that no guarded goal loses more than allowed."""

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
        """Return the objective whose `str` is this text, with the goals that the text leaves out."""
        found = re.fullmatch(r"(?:(mean|worst) of (?=.*,))?(.*)", text)
        if found is None:
            raise ValueError(f"{text!r} is on several lines")
        improved = map(Goal.parse, found[2].split(", "))
        return cls((*improved, *guarded), "worst" if found[1] == "worst" else "mean")

    def gain(self, metrics: Mapping[str, float]) -> float:
        """Return the objective in [0, 1], regardless of losses elsewhere."""
        return float(self.over([goal.value(metrics) for goal in self.improved]))

    def value(self, metrics: Mapping[str, float], baseline: Mapping[str, float]) -> float:
        """Return the value that orders masks: the objective, or below zero, minus the loss beyond the limits.

        Args:
            metrics: metrics of a mask.
            baseline: metrics of the empty mask on the same splits; read only if a goal is guarded.
        """
        beyond = self.loss_beyond(metrics, baseline)
        return -beyond if beyond > 0 else self.gain(metrics)

    def loss_beyond(self, metrics: Mapping[str, float], baseline: Mapping[str, float]) -> float:
        """Return the total loss of guarded goals beyond their limits; 0.0 if all stay within them."""
        return sum(
            # With a tolerance, because a loss of exactly the limit is allowed and differences are rounded.
            beyond if (beyond := goal.value(baseline) - goal.value(metrics) - (goal.max_loss or 0.0)) > 1e-9 else 0.0
            for goal in self.guarded
        )

    def named(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return metrics with the objective added under its own name."""
        return dict(metrics) if not metrics else {**metrics, str(self): self.gain(metrics)}

    def over(self, values: Sequence[float]) -> float:
        """Return the mean or the smallest of the goals' values."""
        return min(values) if self.combine == "worst" else sum(values) / len(values)

    def over_draws(self, values_RD: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean or the smallest of the goals' values in every draw."""
        found: NDArray[np.float64] = values_RD.min(1) if self.combine == "worst" else values_RD.mean(1)
        return found
