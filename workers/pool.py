"""Pools: the replicas as the driver sees them. Masks are submitted, results collected, in any order.

`InlinePool` scores in the driver's own process; `workers.ray_pool.RayPool` on a machine or a cluster. Both cut the
waiting masks into batches in the same way, and both give the same results, because a score is a function of its mask.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from headmask.mask import HeadMask
from workers.replica import Payload, Replica, Stage
from workers.scorer import MaskScore

BATCH_S = 0.3
"""Seconds that a batch should take: long against the cost of a call, short against the work between two saves."""
MAX_BATCH = 64


@dataclass(frozen=True)
class Result:
    """The score of one mask at one stage."""

    stage: Stage
    mask: HeadMask
    score: MaskScore


class Pool(Protocol):
    """What the driver needs of a pool."""

    @property
    def device(self) -> str:
        """Kind of device and version, which decide the last bits of a score."""
        ...

    @property
    def status(self) -> str:
        """A few words for the progress display."""
        ...

    def submit(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Queue masks for scoring."""
        ...

    def collect(self, timeout_s: float) -> list[Result]:
        """Return results as soon as there are any; an empty list after `timeout_s` seconds or with nothing queued."""
        ...

    def close(self) -> None:
        """Give all resources back; queued masks are forgotten."""
        ...


@dataclass
class BatchQueue:
    """Waiting masks, cut into batches that are neighbours in the trie and take about `BATCH_S` seconds."""

    _waiting: dict[Stage, list[HeadMask]] = field(default_factory=dict)
    _alone: deque[tuple[Stage, HeadMask]] = field(default_factory=deque)
    _seconds: dict[Stage, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._alone) + sum(map(len, self._waiting.values()))

    def put(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Add masks, sorted by words so that neighbours share prefixes."""
        self._waiting.setdefault(stage, []).extend(sorted(masks))

    def put_alone(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Add masks in front of all others, each to be a batch of its own."""
        self._alone.extend((stage, mask) for mask in masks)

    def take(self, num_replicas: int) -> tuple[Stage, list[HeadMask]] | None:
        """Return the next batch and its stage, or None when nothing waits.

        Two batches are in flight for each replica, so no batch is larger than that share of what waits.
        """
        if self._alone:
            stage, mask = self._alone.popleft()
            return stage, [mask]
        for stage, masks in self._waiting.items():
            if masks:
                fitting = round(BATCH_S / self._seconds[stage]) if self._seconds.get(stage) else 4
                share = math.ceil(len(masks) / (2 * num_replicas))
                size = max(1, min(fitting, share, MAX_BATCH))
                self._waiting[stage] = masks[size:]
                return stage, masks[:size]
        return None

    def expected_s(self, stage: Stage, num_masks: int) -> float:
        """Return the seconds that a batch should take by the batches before it; 0 before the first."""
        return self._seconds.get(stage, 0.0) * num_masks

    def learn(self, stage: Stage, scores: list[MaskScore]) -> None:
        """Take note of how long a batch took."""
        seconds = sum(score.seconds for score in scores) / len(scores)
        self._seconds[stage] = 0.7 * self._seconds.get(stage, seconds) + 0.3 * seconds


class InlinePool:
    """One replica in the driver's own process: no Ray, real tracebacks."""

    status = "inline"

    def __init__(self, payload: Payload, device: str = "cpu") -> None:
        self._replica = Replica(payload, device)
        self._queue = BatchQueue()

    @property
    def device(self) -> str:
        """Kind of device and version, which decide the last bits of a score."""
        return self._replica.device_kind()

    def submit(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Queue masks for scoring."""
        self._queue.put(stage, masks)

    def collect(self, timeout_s: float) -> list[Result]:
        """Score the next batch and return its results; an empty list with nothing queued."""
        batch = self._queue.take(num_replicas=1)
        if batch is None:
            return []
        stage, masks = batch
        scores = self._replica.score(stage, masks[0].grid, [mask.words for mask in masks])
        self._queue.learn(stage, scores)
        return [Result(stage, mask, score) for mask, score in zip(masks, scores, strict=True)]

    def close(self) -> None:
        """Forget queued masks."""
        self._queue = BatchQueue()
