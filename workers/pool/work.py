"""The work that a pool gives to a replica at a time: masks to score, a mask to score again, micro-batches."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from headmask.mask import HeadMask
from workers.pool.fleet import Member
from workers.scoring.messages import GateTask, Stage


@dataclass(frozen=True)
class MaskBatch:
    """Masks to score at a stage."""

    stage: Stage
    masks: list[HeadMask]

    @property
    def request(self) -> tuple[Any, ...]:
        """The method of a replica that does the work, and its arguments."""
        return "score", self.stage, self.masks[0].grid, [mask.words for mask in self.masks]

    @property
    def pieces(self) -> list[Hashable]:
        """The pieces that may be to blame for a lost replica."""
        return [(type(self), self.stage, mask) for mask in self.masks]


@dataclass(frozen=True)
class Check(MaskBatch):
    """A mask that was scored before and is scored again, to see whether replicas work at all."""


@dataclass(frozen=True, eq=False)
class MicroBatches:
    """Micro-batches to differentiate: one, or as many as a group of shards computes at a time."""

    places: tuple[int, ...]
    """Indices among those that were submitted together."""
    tasks: Sequence[GateTask]

    @classmethod
    def cut(cls, tasks: Sequence[GateTask], size: int) -> list[Self]:
        """Return tasks as pieces of work with a given number of tasks each."""
        starts = range(0, len(tasks), size)
        return [cls(tuple(range(len(tasks))[at : at + size]), tasks[at : at + size]) for at in starts]

    @property
    def request(self) -> tuple[Any, ...]:
        """The method of a replica that does the work, and its arguments."""
        return "differentiate", list(self.tasks)

    @property
    def pieces(self) -> list[Hashable]:
        """The pieces that may be to blame for a lost replica."""
        return [(type(self), self.places)]


Work = MaskBatch | MicroBatches


@dataclass(eq=False)
class Running:
    """Work in progress on a replica."""

    member: Member
    work: Work
    started: float = field(default_factory=time.monotonic)
    """When it became the oldest work of its replica."""
