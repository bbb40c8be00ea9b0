"""Waiting masks, cut into batches in the same way by every pool, and who gets the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate

from headmask.mask import HeadMask
from workers.scoring.messages import MaskScore, Stage

BATCH_S = 0.3
"""Target duration of a batch in seconds: long compared with the cost of a call, short compared with the time between
saves.
"""
FLOOR_S = 0.1
"""Minimum duration of a batch in seconds, unless replicas would be idle: a call costs one or two milliseconds."""
MAX_BATCH = 64
MAX_SHARED, SHARED = 16, 0.9
"""Masks in a batch that only is longer in order to keep this part of what they share: all its embeddings are held."""
FIRST_BATCH = 4
"""Masks in a batch while their speed is unknown."""
FEW = 8
"""Fewer replicas get masks that were put one after the other as if they had been put together: blocks share about 4 %
of their cost, and those of few replicas hardly ever wait for one mask.
"""
AHEAD_S = 0.1
"""Seconds of work that a replica has at least, if more waits, so that it never waits for the driver."""
Steps = Callable[[Sequence[HeadMask]], Sequence[float]]
"""Returns what each of some sorted masks costs after those before it."""


class BatchQueue:
    """Waiting masks, cut into batches of neighbours in the trie that are long enough to keep what they share.

    Args:
        steps: the predicted cost of masks, such as `TowerCost.steps`; without it, all cost the same.
    """

    def __init__(self, steps: Steps | None = None) -> None:
        self.steps: Steps = steps or _alike
        self._lines: dict[Stage, deque[_Line]] = {}
        """What was put, oldest first."""
        self._alone: deque[tuple[Stage, HeadMask]] = deque()
        self._seconds: dict[Stage, float] = {}
        """Seconds for one unit of predicted cost."""

    def __len__(self) -> int:
        return len(self._alone) + sum(len(line) for lines in self._lines.values() for line in lines)

    def put(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Add masks behind those that wait, sorted by words so that neighbours share prefixes."""
        line = _Line(self._costs_at(stage))
        line.add(masks)
        self._lines.setdefault(stage, deque()).append(line)

    def put_alone(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Add masks in front of all others, each as a separate batch."""
        self._alone.extend((stage, mask) for mask in masks)

    def take(self, num_replicas: int, pace: float = 1.0) -> tuple[Stage, list[HeadMask]] | None:
        """Return the next batch with its stage, or None if nothing waits.

        Args:
            num_replicas: number of replicas that share the waiting masks.
            pace: seconds that this replica takes for work that takes the average one a second.
        """
        if self._alone:
            stage, mask = self._alone.popleft()
            return stage, [mask]
        # Whoever asks for predictions waits for them.
        for stage, lines in sorted(self._lines.items(), key=lambda item: not item[0].predicted):
            while lines and not lines[0]:
                lines.popleft()
            while len(lines) > 1 and num_replicas < FEW:
                lines[0].add(lines.pop().waiting)
            if lines:
                return stage, lines[0].take(self._size(stage, lines[0], num_replicas, pace))
        return None

    def expected_s(self, stage: Stage, masks: Sequence[HeadMask]) -> float:
        """Return the seconds that masks should take together, judged by earlier batches; 0 before the first."""
        return self._seconds.get(stage, 0.0) * sum(self._costs_at(stage)(masks))

    def learn(self, stage: Stage, masks: Sequence[HeadMask], scores: Sequence[MaskScore]) -> float:
        """Record how long a batch took, and return its seconds relative to the average so far."""
        seconds = sum(score.seconds for score in scores) / sum(self._costs_at(stage)(masks))
        before = self._seconds.get(stage, seconds)
        self._seconds[stage] = 0.7 * before + 0.3 * seconds
        return seconds / before if before else 1.0

    def _costs_at(self, stage: Stage) -> Steps:
        """Return the predicted cost of masks at a stage; predictions share nothing."""
        return _alike if stage.predicted else self.steps

    def _size(self, stage: Stage, line: _Line, num_replicas: int, pace: float) -> int:
        """Return the number of waiting masks for the next batch.

        At least two batches are in flight for each replica, so half its share is enough, or what takes long enough.
        More, up to the whole share, where else more than a tenth of what the masks share would be computed twice.
        """
        share = line.cost / num_replicas / pace
        seconds = self._seconds.get(stage)
        if not seconds:
            return line.size_within(share / 2, FIRST_BATCH)
        enough = min(max(share / 2, min(FLOOR_S / seconds / pace, share)), BATCH_S / seconds / pace)
        least = line.size_within(enough, MAX_BATCH)
        most = line.size_within(share, max(least, MAX_SHARED))
        return line.size_that_shares(least, most)


def _alike(masks: Sequence[HeadMask]) -> Sequence[float]:
    return [1.0] * len(masks)


class _Line:
    """Masks that wait at a stage, sorted, each with its cost after the one before it.

    Args:
        costs: returns the costs of sorted masks.
    """

    def __init__(self, costs: Steps) -> None:
        self._costs = costs
        self._masks: list[HeadMask] = []
        self._steps: list[float] = []
        self._start = 0
        self.cost = 0.0
        """Cost of all masks that waited when the last were added; the cost of those left would make shares ever
        smaller.
        """

    def __len__(self) -> int:
        return len(self._masks) - self._start

    @property
    def waiting(self) -> list[HeadMask]:
        """The masks that wait."""
        return self._masks[self._start :]

    def add(self, masks: Iterable[HeadMask]) -> None:
        """Add masks."""
        self._masks = sorted([*self.waiting, *masks])
        self._steps, self._start = list(self._costs(self._masks)), 0
        self.cost = sum(self._steps)

    def take(self, size: int) -> list[HeadMask]:
        """Return the first masks, which no longer wait."""
        stop = self._start + size
        taken = self._masks[self._start : stop]
        self._start = stop
        if self:
            self._steps[stop] = self._alone(stop)
        return taken

    def size_within(self, cost: float, most: int) -> int:
        """Return the number of first masks with at most a given cost; at least one."""
        # The small margin is for rounding: an exact share is a share.
        totals = accumulate(self._steps[self._start : self._start + most])
        return max(1, sum(total <= cost * (1 + 1e-9) for total in totals))

    def size_that_shares(self, least: int, most: int) -> int:
        """Return the number of first masks whose batch keeps nine tenths of what they share with the next one.

        If no number between the bounds does, it is the one that loses least.
        """
        saved, lost = 0.0, []
        cut = self._alone(self._start) - self._steps[self._start]
        for size in range(1, min(most, len(self)) + 1):
            saved += cut
            following = self._start + size
            cut = 0.0 if size == len(self) else self._alone(following) - self._steps[following]
            lost.append(cut / (saved + cut) if cut > 0 else 0.0)
            if size >= least and lost[-1] <= 1 - SHARED:
                return size
        sizes = range(min(least, len(lost)), len(lost) + 1)
        return min(sizes, key=lambda size: lost[size - 1])

    def _alone(self, index: int) -> float:
        return self._costs(self._masks[index : index + 1])[0]


def may_wait(num_replicas: int, num_waiting: int, ahead_s: float) -> bool:
    """Return whether a batch may be given to a replica that is busy, so that it need not wait for the driver then.

    Of many replicas, another one may be free sooner. So it is given only if there is one for everybody, or if it begins
    so soon that the driver would hardly answer in time.

    Args:
        num_replicas: number of replicas.
        num_waiting: number of masks that wait.
        ahead_s: seconds that the replica still needs for what it has; 0 if that is unknown.
    """
    return num_replicas < FEW or num_waiting >= num_replicas or ahead_s < AHEAD_S


def hand_out(held: Sequence[int], has_room: Callable[[int], bool], give: Callable[[int], bool]) -> None:
    """Give the next batch to the replica with the fewest, as long as one has room and batches wait.

    Args:
        held: number of batches of each replica.
        has_room: returns whether a replica, given its index, can take another batch.
        give: gives a replica the next batch; returns whether there was one.
    """
    turns = [(number, place) for place, number in enumerate(held)]
    heapify(turns)
    while turns:
        number, place = heappop(turns)
        if has_room(place):
            if not give(place):
                return
            heappush(turns, (number + 1, place))
