"""Who is to blame for a lost replica: the work that it did alone, or nobody. Pure, so that it can be tested as such."""

from __future__ import annotations

from collections.abc import Collection, Hashable

STRIKES = 3
"""Replicas that a piece of work may cost while it is alone on them."""


class Blame:
    """Decides which work is given up.

    Work that was alone when its replica was lost gets a strike, and after three it is given up. But where replicas are
    lost over work that is done in the end, something else kills them: every such loss since the first strike allows
    one strike more.
    """

    def __init__(self) -> None:
        self._strikes: dict[Hashable, int] = {}
        self._innocent_before: dict[Hashable, int] = {}
        """How many losses had turned out to be nobody's fault, at the first strike."""
        self._num_innocent = self._num_done = 0
        self._done_before: dict[Hashable, int] = {}
        """How often anything had been done, at the first strike."""
        self._suspects: list[set[Hashable]] = []
        """What was being done at each loss, without what was done since."""

    def lost_over(self, work: Collection[Hashable]) -> int:
        """Take note of a lost replica; return how many its work has cost alone if it is given up, 0 if it is not.

        Args:
            work: what the replica was doing.
        """
        self._suspects.append(set(work))
        if len(work) != 1:
            return 0
        (only,) = work
        self._strikes[only] = self._strikes.get(only, 0) + 1
        self._done_before.setdefault(only, self._num_done)
        allowed = STRIKES + self._num_innocent - self._innocent_before.setdefault(only, self._num_innocent)
        if self._strikes[only] < allowed:
            return 0
        self._suspects = [suspects for suspects in self._suspects if only not in suspects]
        return self._strikes[only]

    def others_done(self, work: Collection[Hashable]) -> bool:
        """Return whether anything was done since the first strike of one piece: whether replicas work at all."""
        (only,) = work
        return self._num_done > self._done_before[only]

    def done(self, work: Collection[Hashable]) -> None:
        """Take note of work that is done, and forget what it cost: it is not to blame."""
        self._num_done += 1
        for each in work:
            # The micro-batches of every step of training are told apart by their places alone.
            for record in (self._strikes, self._innocent_before, self._done_before):
                record.pop(each, None)
        for suspects in self._suspects:
            suspects.difference_update(work)
        self._num_innocent += sum(not suspects for suspects in self._suspects)
        self._suspects = [suspects for suspects in self._suspects if suspects]
