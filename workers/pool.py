"""Pools: the replicas as the driver sees them. Masks are submitted, results collected, in any order.

`InlinePool` scores in the driver's own process; `workers.ray_pool.RayPool` on a machine or a cluster. Both cut the
waiting masks into batches in the same way, and both give the same results, because a score is a function of its mask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from headmask.mask import HeadMask
from workers.constants import Constants
from workers.displacement import Displacements
from workers.messages import GateGradient, GateTask, MaskScore, Stage
from workers.replica import Payload, Replica, Wanted
from workers.scorer import default_device

BATCH_S = 0.3
"""Seconds that a batch should take: long against the cost of a call, short against the work between two saves."""
MAX_BATCH = 64
FIRST_BATCH = 4
"""Masks in a batch as long as nothing is known of their speed."""


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

    def settle(self, wanted: Wanted) -> Constants:
        """Find out the constants of the study on the pool's kind of device, and use them; before the first score."""
        ...

    def submit(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Queue masks for scoring."""
        ...

    def collect(self, timeout_s: float) -> list[Result]:
        """Return results as soon as there are any; an empty list after `timeout_s` seconds or with nothing queued."""
        ...

    def submit_gradients(self, tasks: Sequence[GateTask]) -> None:
        """Queue micro-batches for differentiation; no others before all of these were collected."""
        ...

    def collect_gradients(self, timeout_s: float) -> dict[int, GateGradient]:
        """Return gradients as soon as there are any, by the places of their tasks; none after `timeout_s` seconds."""
        ...

    def adopt_displacements(self, displacements: Sequence[Displacements]) -> None:
        """Let all replicas predict by the displacements of every data set on the search split."""
        ...

    def put_back(self, results: Iterable[Result]) -> None:
        """Let results that were collected by the way be collected again, by whom they are for."""
        ...

    def close(self) -> None:
        """Give all resources back; queued masks are forgotten."""
        ...


Steps = Callable[[Sequence[HeadMask]], Sequence[float]]
"""What each of some sorted masks costs after those before it."""


class BatchQueue:
    """Waiting masks, cut into batches that are neighbours in the trie and take about `BATCH_S` seconds.

    Args:
        steps: the predicted cost of masks, such as `TowerCost.steps`; without it, all cost the same.
    """

    def __init__(self, steps: Steps | None = None) -> None:
        self._steps: Steps = steps or (lambda masks: [1.0] * len(masks))
        self._waiting: dict[Stage, list[HeadMask]] = {}
        self._alone: deque[tuple[Stage, HeadMask]] = deque()
        self._seconds: dict[Stage, float] = {}
        """Of one unit of predicted cost."""

    def __len__(self) -> int:
        return len(self._alone) + sum(map(len, self._waiting.values()))

    def put(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Add masks, sorted by words so that neighbours share prefixes."""
        self._waiting[stage] = sorted([*self._waiting.get(stage, []), *masks])

    def put_alone(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Add masks in front of all others, each to be a batch of its own."""
        self._alone.extend((stage, mask) for mask in masks)

    def take(self, num_replicas: int) -> tuple[Stage, list[HeadMask]] | None:
        """Return the next batch and its stage, or None when nothing waits.

        Two batches are in flight for each replica, so no batch costs more than that share of what waits.
        """
        if self._alone:
            stage, mask = self._alone.popleft()
            return stage, [mask]
        # Whoever asks for predictions waits for them.
        for stage, masks in sorted(self._waiting.items(), key=lambda item: not item[0].predicted):
            if masks:
                size = self._size(stage, masks, num_replicas)
                self._waiting[stage] = masks[size:]
                return stage, masks[:size]
        return None

    def expected_s(self, stage: Stage, masks: Sequence[HeadMask]) -> float:
        """Return the seconds that masks should take together by the batches before them; 0 before the first."""
        return self._seconds.get(stage, 0.0) * sum(self._costs(stage, masks))

    def learn(self, stage: Stage, masks: Sequence[HeadMask], scores: Sequence[MaskScore]) -> None:
        """Take note of how long a batch took."""
        seconds = sum(score.seconds for score in scores) / sum(self._costs(stage, masks))
        self._seconds[stage] = 0.7 * self._seconds.get(stage, seconds) + 0.3 * seconds

    def _costs(self, stage: Stage, masks: Sequence[HeadMask]) -> Sequence[float]:
        """Return what each of some sorted masks costs after those before it; predictions share nothing."""
        return [1.0] * len(masks) if stage.predicted else self._steps(masks)

    def _size(self, stage: Stage, masks: list[HeadMask], num_replicas: int) -> int:
        """Return how many of the waiting masks the next batch takes."""
        steps = self._costs(stage, masks)
        limit = sum(steps) / (2 * num_replicas)
        most = FIRST_BATCH
        if stage in self._seconds:
            limit, most = min(limit, BATCH_S / self._seconds[stage]), MAX_BATCH
        # The small margin is for rounding: an exact share is a share.
        size = max(1, min(most, sum(total <= limit * (1 + 1e-9) for total in accumulate(steps))))
        if size == len(masks) or stage.predicted:
            return size
        # What a cut costs is the nodes that the next mask shares with the last one: they are computed twice.
        cuts = range(max(1, size - size // 4), size + 1)
        return min(reversed(cuts), key=lambda cut: self._steps(masks[cut : cut + 1])[0] - steps[cut])


class InlinePool:
    """One replica in the driver's own process: no Ray, real tracebacks."""

    status = "inline"

    def __init__(self, payload: Payload, device: str | None = None, *, steps: Steps | None = None) -> None:
        self._replica = Replica(payload, device or default_device())
        self._queue = BatchQueue(steps)
        self._held: list[Result] = []
        self._gate_tasks: dict[int, GateTask] = {}

    @property
    def device(self) -> str:
        """Kind of device and version, which decide the last bits of a score."""
        return self._replica.device_kind()

    def settle(self, wanted: Wanted) -> Constants:
        """Find out the constants of the study on the pool's kind of device, and use them; before the first score."""
        return self._replica.settle(wanted)

    def adopt_displacements(self, displacements: Sequence[Displacements]) -> None:
        """Let the replica predict by the displacements of every data set on the search split."""
        self._replica.adopt_displacements(displacements)

    def submit_gradients(self, tasks: Sequence[GateTask]) -> None:
        """Queue micro-batches for differentiation."""
        self._gate_tasks = dict(enumerate(tasks))

    def collect_gradients(self, timeout_s: float) -> dict[int, GateGradient]:
        """Return the gradient of the next micro-batch, by the place of its task."""
        place = min(self._gate_tasks)
        (gradient,) = self._replica.differentiate([self._gate_tasks.pop(place)])
        return {place: gradient}

    def submit(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Queue masks for scoring."""
        self._queue.put(stage, masks)

    def put_back(self, results: Iterable[Result]) -> None:
        """Let results that were collected by the way be collected again, by whom they are for."""
        self._held += results

    def collect(self, timeout_s: float) -> list[Result]:
        """Score the next batch and return its results; an empty list with nothing queued."""
        held, self._held = self._held, []
        if held:
            return held
        batch = self._queue.take(num_replicas=1)
        if batch is None:
            return []
        stage, masks = batch
        scores = self._replica.score(stage, masks[0].grid, [mask.words for mask in masks])
        self._queue.learn(stage, masks, scores)
        return [Result(stage, mask, score) for mask, score in zip(masks, scores, strict=True)]

    def close(self) -> None:
        """Forget queued masks."""
        self._queue = BatchQueue()
