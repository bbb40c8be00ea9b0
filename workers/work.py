"""What a pool gives a replica to do at a time: masks to score, a mask to score once more, a micro-batch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from headmask.mask import HeadMask
from workers.messages import GateTask, Stage


@dataclass(frozen=True)
class MaskBatch:
    """Masks to score at a stage."""

    stage: Stage
    masks: list[HeadMask]

    @property
    def request(self) -> tuple[Any, ...]:
        """The method of a replica that does it, and its arguments."""
        return "score", self.stage, self.masks[0].grid, [mask.words for mask in self.masks]

    @property
    def pieces(self) -> list[Hashable]:
        """What may be to blame for a lost replica."""
        return [(type(self), self.stage, mask) for mask in self.masks]


@dataclass(frozen=True)
class Check(MaskBatch):
    """A mask that was scored before, and is once more to see whether replicas work at all."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """A micro-batch to differentiate."""

    place: int
    """Among those that were submitted together."""
    task: GateTask

    @property
    def request(self) -> tuple[Any, ...]:
        """The method of a replica that does it, and its arguments."""
        return "differentiate", [self.task]

    @property
    def pieces(self) -> list[Hashable]:
        """What may be to blame for a lost replica."""
        return [(type(self), self.place)]


Work = MaskBatch | MicroBatch
