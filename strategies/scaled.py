"""Back-propagation as a strategy: scales are trained on the replicas, and heads whose scale fell are proposed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headmask.errors import ConfigError
from headmask.mask import BoolArray, HeadMask
from strategies.base import MaskSampler
from strategies.history import FloatArray, History, smallest

# F free heads, C masks by threshold, R candidates

THRESHOLDS = np.array([0.5, 0.7, 0.3, 0.6, 0.4, 0.8, 0.2, 0.1, 0.9])
"""Scales below which heads are ablated together, in the order of proposal."""
SPREAD = 2
"""Maximum number of heads by which random proposals differ in size from the best mask."""
TRIES = 4
"""Random candidates per mask wanted."""
NOISE = 0.15
"""Scale of the noise that random proposals add to the scales of heads."""


class ScalesSampler(MaskSampler):
    """Proposes the heads whose scales lie below thresholds, then random variations of the same order of heads.

    Scales are trained before the first masks after the baseline are proposed, at a cost that is a constant of the
    study, so they can be trained again from the beginning to the same state.

    Gradients are required; a screen is not used.
    """

    label = "scales"
    trains = True
    num_opening = 1

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return masks by threshold, those of the last scales first; then random ones of about the best mask's size.

        Raises:
            ConfigError: no scales are trained, because there are no gradients.
        """
        if history.scales_SF is None or history.scales_F is None:
            raise ConfigError(f"{type(self).__name__} needs gradients of a loss; choose another strategy without them")
        below_CF = np.vstack([scales_F < THRESHOLDS[:, None] for scales_F in history.scales_SF])
        masks = history.take(below_CF & ~history.failed_F, count)
        missing = count - len(masks)
        best = int(history.sizes_T[history.ranked[0]]) if len(history.ranked) else 0
        sizes_R = (best + rng.integers(-SPREAD, SPREAD + 1, size=TRIES * missing)).clip(1, history.max_heads)
        return masks + history.take(_drawn(history.scales_F, sizes_R, rng) & ~history.failed_F, missing)


def _drawn(scales_F: FloatArray, sizes_R: NDArray[np.int64], rng: np.random.Generator) -> BoolArray:
    """Return random masks (R, F) of given sizes; the smaller a head's scale, the likelier the head."""
    noise_RF = rng.gumbel(scale=NOISE, size=(len(sizes_R), len(scales_F)))
    return smallest(scales_F - noise_RF, sizes_R[:, None])
