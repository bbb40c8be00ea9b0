"""The progress of a search, and its listeners."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.settings.budget import Budget, StopReason
from orchestrator.study.records import TrialRecord

if TYPE_CHECKING:
    from strategies import Scales
    from workers.pool.protocol import Result


@dataclass
class Progress:
    """The progress of a search, for displays and tracking."""

    budget: Budget
    guide: str = "value"
    """Name of the metric that masks are searched by."""
    records: list[TrialRecord] = field(default_factory=list)
    served: int = 0
    """Masks whose results came from the storage."""
    started: float = field(default_factory=time.monotonic)
    baseline: TrialRecord | None = None
    best: TrialRecord | None = None
    num_asked: int = 0
    cost_asked: float = 0.0
    """Predicted cost of the masks sent to be scored, in plain forward passes of one input."""
    cost_done: float = 0.0
    """The part of `cost_asked` whose results have come back."""
    image_forwards: float = 0.0
    """Predicted cost of all masks asked for, sent or not, and of training; this is what the budget limits."""
    stopped_by: StopReason | None = None
    """Why no further block is begun; None while blocks are."""
    scales: Scales | None = None
    """The scales that the strategy trains, if any."""
    rank_correlation: float | None = None
    """Rank correlation between the surrogate's predictions and exact values; None if there is none."""

    @property
    def seconds_left(self) -> float | None:
        """Expected seconds left of the budget, by predicted cost and the speed so far; None before any result."""
        num_sent = self.num_asked - self.served
        if not self.cost_done or not num_sent:
            return None
        num_unasked = 0 if self.stopped_by else max(0, self.budget.masks - self.num_asked)
        cost_unasked = num_unasked * self.cost_asked / num_sent
        if self.budget.image_forwards is not None:
            cost_unasked = min(cost_unasked, max(0.0, self.budget.image_forwards - self.image_forwards))
        cost_left = max(0.0, self.cost_asked - self.cost_done) + cost_unasked
        left_s = cost_left * self.seconds / self.cost_done
        return left_s if self.budget.seconds is None else min(left_s, max(0.0, self.budget.seconds - self.seconds))

    @property
    def reason(self) -> StopReason:
        """Why the search ended."""
        if self.stopped_by is None:
            raise RuntimeError("the search has not ended")
        return self.stopped_by

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to propose or score."""
        return self.stopped_by is not None and len(self.records) == self.num_asked

    @property
    def seconds(self) -> float:
        """Wall-clock time since the search began or was resumed."""
        return time.monotonic() - self.started

    def add(self, record: TrialRecord) -> None:
        """Add a result."""
        self.records.append(record)
        if record.mask.is_empty:
            self.baseline = record
        if record.value is not None and (
            self.best is None or self.best.value is None or record.value > self.best.value
        ):
            self.best = record


class Listener:
    """Receives the events of a search. It does nothing itself; subclasses override the events that they need."""

    def on_scored(self, result: Result) -> None:
        """Handle a result from the pool."""

    def on_known(self, record: TrialRecord) -> None:
        """Handle a result that the search now knows, whether it was scored or stored."""

    def on_planning(self, block: int, progress: Progress) -> None:
        """Handle that a block is about to be proposed."""

    def on_progress(self, progress: Progress) -> None:
        """Handle the progress after every batch of results."""

    def on_end(self, progress: Progress) -> None:
        """Handle that all masks have results."""
        self.on_progress(progress)
