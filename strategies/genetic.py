"""A genetic search on masks, seeded from the scan; among predicted values where there are any."""

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
"""Rounds of breeding until enough children are new, and children bred for each one wanted."""


class GeneticSampler(MaskSampler):
    """Tournament, uniform crossover by layer or by bit, bit-flip mutation; children are as large as good masks are.

    It starts from the scan: the best heads together, two to many of them, and pairs of the very best. With a screen,
    generations are bred among predicted values first, and the best of them are proposed: the more of a block, the
    better predictions have ordered exact results so far.
    """

    label = "genetic"

    def __init__(self, grid: HeadGrid, **options: Any) -> None:
        super().__init__(grid, **options)
        self._search = None if self.screen is None else ScreenedSearch(self.screen)

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return what predictions favour, then the next unseen seeds, then new children of good masks."""
        masks: list[HeadMask] = []
        if self._search is not None and len(history.ranked):
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
