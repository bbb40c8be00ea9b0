"""A genetic search on masks, seeded from the scan; it uses predicted values if there are any."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from headmask.mask import HeadGrid, HeadMask
from strategies.base import MaskSampler
from strategies.breeding import NUM_PARENTS, bred, seeds
from strategies.history import History
from strategies.screened import ScreenedSearch

ROUNDS, BROOD = 4, 4
"""Maximum rounds of breeding to find enough new children, and children bred per mask wanted."""


class GeneticSampler(MaskSampler):
    """Tournament, uniform crossover by layer or by bit, bit-flip mutation; children are as large as good masks are.

    It starts from the scan, with masks of the best heads, from two heads to many, and pairs of the very best. With a
    screen, generations are first bred by predicted values, and the best of them are proposed. The better predictions
    have ordered exact results so far, the larger their part of a block.
    """

    label = "genetic"
    screened_revision = 6

    def __init__(self, grid: HeadGrid, **options: Any) -> None:
        super().__init__(grid, **options)
        self._search = None if self.screen is None else ScreenedSearch(self.screen)

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return the masks predicted to be best, then the next unseen seeds, then new children of good masks."""
        masks: list[HeadMask] = []
        if self._search is not None and history.is_scanned and len(history.ranked):
            num_screened = ceil(count * self._search.trust(history))
            masks = history.take(self._search.propose(history, rng), num_screened)
        return masks + _bred(count - len(masks), history, rng)


def _bred(count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
    masks = history.take(seeds(history), count)
    parents_PF = history.bits_TF[history.ranked[:NUM_PARENTS]]
    for extra in range(ROUNDS if len(parents_PF) else 0):
        children_RF = bred(parents_PF, BROOD * count, history, rng, extra=extra)
        masks += history.take(children_RF, count - len(masks))
    return masks
