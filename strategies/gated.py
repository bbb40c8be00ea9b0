"""Back-propagation as a strategy: gates are trained between blocks, and the heads that they shut are proposed."""

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
"""Maximum number of heads by which random proposals differ in size from the best mask."""
TRIES = 4
"""Random candidates per mask wanted."""
MAX_STEPS_PER_MASK = 4.0


class GatesSampler(MaskSampler):
    """Proposes the heads that gates shut; their number rises and falls from one training step to the next.

    One sweep, from one head to many, is done before the first block after the scan. The number of later steps
    depends only on the position of a block, so gates can be trained again from the beginning to the same state.

    Args:
        grid: layers and heads of the tower.
        options: see `MaskSampler`. Gradients are required; a screen is not used. Steps are proportional to the share.

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
        """Return how many training steps are done when a block is proposed from this many results."""
        return SWEEP + int(self.share * self._steps_per_mask * max(0, num_known - self.blocks.num_scan))

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return masks shut in the last two sweeps: at first of any size, later those closest in size to the best mask.

        If these are not enough, random masks of about its size are added.
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
        """Return random masks (R, F) of given sizes; the more surely a head's gate is shut, the likelier the head.

        Heads are drawn without replacement, by their odds (Gumbel top-k, Kool et al. 2019, arXiv 1903.06059).
        """
        gumbel_RF = rng.gumbel(size=(len(sizes_R), len(self._trained.log_alpha_F)))
        return smallest(self._trained.log_alpha_F - gumbel_RF, sizes_R[:, None])
