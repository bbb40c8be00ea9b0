"""Back-propagation as a strategy: gates are trained between blocks, and what they shut is proposed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headmask.errors import ConfigError
from headmask.mask import BoolArray, HeadGrid, HeadMask
from strategies.base import MaskSampler
from strategies.gates import SWEEP, Gates
from strategies.history import History, smallest

# F free heads, R candidates, S steps

SPREAD = 2
"""Heads by which random proposals are smaller or larger than the best mask."""
TRIES = 4
"""Random candidates for every mask wanted."""
MAX_STEPS_PER_MASK = 4.0


class GatesSampler(MaskSampler):
    """Proposes what gates shut: after every step of training some heads, more and fewer by turns.

    One sweep, from one head to many, is done before the first block after the scan. How many steps are done later
    depends on the place of a block alone: gates can be trained again from the beginning at any time, to the same state.

    Args:
        grid: of the tower.
        options: see `MaskSampler`. There must be gradients; a screen is not used. Steps are in proportion to the share.

    Raises:
        ConfigError: there are no gradients, or the limits do not fit the grid.
    """

    label = "gates"

    def __init__(self, grid: HeadGrid, **options: Any) -> None:
        super().__init__(grid, **options)
        if self.gradients is None:
            raise ConfigError(f"{type(self).__name__} needs gradients of a loss; choose another strategy without them")
        self._steps_per_mask = min(MAX_STEPS_PER_MASK, 1 / self.gradients.masks_per_step)
        self._trained = Gates(self.gradients, self.blocks.num_scan - 1, self.limits.largest_size(grid), self.seed)
        self.gates = self._trained

    def num_steps(self, num_known: int) -> int:
        """Return how many steps are done when a block is proposed from so many results."""
        return SWEEP + int(self.share * self._steps_per_mask * max(0, num_known - self.blocks.num_scan))

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return what was shut in the last two sweeps, all sizes alike at first, then those nearest to the best mask's.

        Where that is not enough, they are random masks of about its size.
        """
        self._trained.advance(self.num_steps(len(history.values_T)))
        path_SF = np.array(self._trained.path[::-1][: 2 * SWEEP])
        best = int(history.sizes_T[history.ranked[0]]) if len(history.ranked) else 0
        apart_S = np.abs(path_SF.sum(1) - best) if best > 1 else rng.permutation(len(path_SF))
        masks = history.take(path_SF[apart_S.argsort(kind="stable")], count)
        missing = count - len(masks)
        sizes_R = (best + rng.integers(-SPREAD, SPREAD + 1, size=TRIES * missing)).clip(1, history.max_heads)
        return masks + history.take(self._drawn(sizes_R, rng), missing)

    def _drawn(self, sizes_R: NDArray[np.int64], rng: np.random.Generator) -> BoolArray:
        """Return random masks (R, F) of given sizes, in which a head is the likelier, the more surely its gate is shut.

        Heads are drawn without replacement, by their odds (Gumbel top-k, Kool et al. 2019, arXiv 1903.06059).
        """
        gumbel_RF = rng.gumbel(size=(len(sizes_R), len(self._trained.log_alpha_F)))
        return smallest(self._trained.log_alpha_F - gumbel_RF, sizes_R[:, None])
