"""Local search: the neighbours of good masks, most promising first."""

from __future__ import annotations

import numpy as np

from headmask.mask import BoolArray, HeadMask
from strategies.base import MaskSampler
from strategies.history import History

# F free heads, R neighbours

NUM_ELITES = 8
NUM_ADDED = 24
"""Heads, by the scan's favour, that may be added to a mask."""


class LocalSampler(MaskSampler):
    """Flips one head of a good mask, or swaps one in for one out, the likeliest gain first."""

    label = "local"

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return new neighbours of the best masks; better masks are taken more often."""
        elites = history.ranked[:NUM_ELITES]
        masks: list[HeadMask] = []
        for _ in range(count if len(elites) else 0):
            first = int(len(elites) * rng.random() ** 2)
            for index in [*elites[first:], *elites[:first]]:
                neighbours_RF = _neighbours(history.bits_TF[index], history)
                likely_RF = neighbours_RF[history.are_new(neighbours_RF)][:8]
                if len(likely_RF):
                    masks += history.new(likely_RF[[rng.integers(len(likely_RF))]], 1)
                    break
        return masks


def _neighbours(bits_F: BoolArray, history: History) -> BoolArray:
    """Return masks one head more, one head fewer, or one head swapped, the likeliest gain first."""
    gains_F = np.nan_to_num(history.scan_gains_F)
    added = [head for head in history.promising[:NUM_ADDED].tolist() if not bits_F[head]]
    dropped = np.flatnonzero(bits_F).tolist()
    flips = [*([head] for head in added), *([head] for head in dropped)]
    flips += [[new, old] for old in dropped for new in added]
    flips_RF = history.rows(flips)
    losses_R = flips_RF @ np.where(bits_F, gains_F, -gains_F)
    return (bits_F ^ flips_RF)[np.argsort(losses_R, kind="stable")]
