"""Deciding which work is to blame for a lost replica: the work that it did alone, or none. Free of side effects."""

from __future__ import annotations

from collections.abc import Collection, Hashable

STRIKES = 3
"""Number of replicas that a piece of work may cost while it is alone on them."""


class Blame:
    """Decides which work to give up.

    Work that was alone when its replica was lost gets a strike, and after three it is given up. But if replicas are
    lost over work that succeeds in the end, something else kills them: every such loss since the first strike allows
    one strike more.
    """

    def __init__(self) -> None:
        self._strikes: dict[Hashable, int] = {}
        self._innocent_before: dict[Hashable, int] = {}
        """Number of losses that had turned out not to be the work's fault, at its first strike."""
        self._num_innocent = self._num_done = 0
        self._done_before: dict[Hashable, int] = {}
        """Number of pieces of work that had been done at its first strike."""
        self._suspects: list[set[Hashable]] = []
        """The work in progress at each loss, without what has been done since."""

    def lost_over(self, work: Collection[Hashable]) -> int:
        """Record a lost replica; return the number that its work has cost alone if it is given up, 0 if it is not.

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
        """Return whether anything has been done since a work's first strike, that is, whether replicas work at all."""
        (only,) = work
        return self._num_done > self._done_before[only]

    def done(self, work: Collection[Hashable]) -> None:
        """Record work that is done, and clear its strikes: it is not to blame."""
        self._num_done += 1
        for each in work:
            # The micro-batches of every step of training are told apart by their places alone.
            for record in (self._strikes, self._innocent_before, self._done_before):
                record.pop(each, None)
        for suspects in self._suspects:
            suspects.difference_update(work)
        self._num_innocent += sum(not suspects for suspects in self._suspects)
        self._suspects = [suspects for suspects in self._suspects if suspects]
