"""Local search: the neighbours of good masks, most promising first."""

from __future__ import annotations

import numpy as np

from headmask.mask import HeadMask
from strategies.base import MaskSampler
from strategies.history import History

NUM_ELITES = 8
NUM_ADDED = 24
"""Heads, by the scan's favour, that may be added to a mask."""


class LocalSampler(MaskSampler):
    """Flips one head of a good mask, or swaps one in for one out, the likeliest gain first."""

    label = "local"

    def propose(self, number: int, history: History, rng: np.random.Generator) -> HeadMask | None:
        """Return a new neighbour of one of the best masks; better masks are taken more often."""
        elites = history.ranked[:NUM_ELITES]
        if not elites:
            return None
        first = int(len(elites) * rng.random() ** 2)
        for index in elites[first:] + elites[:first]:
            neighbour = self._neighbour(history.masks[index], history, rng)
            if neighbour is not None:
                return neighbour
        return None

    def _neighbour(self, mask: HeadMask, history: History, rng: np.random.Generator) -> HeadMask | None:
        gains = history.scan_gains
        added = [head for head in history.promising[:NUM_ADDED] if head not in mask]
        steps = [(gains.get(head, 0.0), mask.flipped(head)) for head in added]
        steps += [(-gains.get(head, 0.0), mask.flipped(head)) for head in mask.heads]
        if rng.random() < 0.5:
            steps += [
                (gains.get(new, 0.0) - gains.get(old, 0.0), mask.flipped(new).flipped(old))
                for old in mask.heads
                for new in added
            ]
        steps.sort(key=lambda step: (-step[0], step[1].words))
        new = [neighbour for _, neighbour in steps if history.is_new(neighbour)]
        return new[int(min(len(new), 8) * rng.random())] if new else None
