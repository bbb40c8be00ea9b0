"""The work that a pool gives to a replica at a time: masks to score, a mask to score again, tasks, chunks."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from headmask.mask import HeadMask
from workers.pool.fleet import Member
from workers.scoring.messages import Stage, Task

if TYPE_CHECKING:
    from workers.scoring.stock import Chunk


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
class Tasks:
    """Tasks under scales: one, or as many as a group of shards does at a time."""

    places: tuple[int, ...]
    """Indices among those that were submitted together."""
    tasks: Sequence[Task]

    @classmethod
    def cut(cls, tasks: Sequence[Task], size: int) -> list[Self]:
        """Return tasks as pieces of work with a given number of tasks each."""
        starts = range(0, len(tasks), size)
        return [cls(tuple(range(len(tasks))[at : at + size]), tasks[at : at + size]) for at in starts]

    @property
    def request(self) -> tuple[Any, ...]:
        """The method of a replica that does the work, and its arguments."""
        return "do", list(self.tasks)

    @property
    def pieces(self) -> list[Hashable]:
        """The pieces that may be to blame for a lost replica."""
        return [(type(self), self.places)]


@dataclass(frozen=True, eq=False)
class Chunks:
    """Chunks of texts or images to embed: one, or as many as a group of shards computes at a time."""

    places: tuple[int, ...]
    """Indices among those that were submitted together."""
    key: str
    """Key of the encoder."""
    held: list[Any]
    """The reference to the encoder, in a list so that it travels as one."""
    take: Callable[[int], Chunk]
    """Returns the chunk at a place, when it is sent."""

    @classmethod
    def cut(
        cls, places: Sequence[int], size: int, key: str, held: list[Any], take: Callable[[int], Chunk]
    ) -> list[Self]:
        """Return chunks as pieces of work with a given number of chunks each."""
        return [cls(tuple(places[at : at + size]), key, held, take) for at in range(0, len(places), size)]

    @property
    def request(self) -> tuple[Any, ...]:
        """The method of a replica that does the work, and its arguments."""
        return "encode", self.key, self.held, list(map(self.take, self.places))

    @property
    def pieces(self) -> list[Hashable]:
        """The pieces that may be to blame for a lost replica."""
        return [(type(self), self.key, self.places)]


Work = MaskBatch | Tasks | Chunks


@dataclass(eq=False)
class Running:
    """Work in progress on a replica."""

    member: Member
    work: Work
    started: float = field(default_factory=time.monotonic)
    """When it became the oldest work of its replica."""
