"""The exhaustive single-head scan."""

from __future__ import annotations

import numpy as np

from headmask.mask import HeadMask
from strategies.base import MaskSampler
from strategies.history import History


class ScanSampler(MaskSampler):
    """Proposes the empty mask, then every head once; then it is exhausted.

    As a member of a mixture, it proposes the heads that were not yet ablated alone, the most promising ones first.
    """

    label = "scan"

    @property
    def num_masks(self) -> int:
        """The number of masks in the scan."""
        return 1 + len(self.limits.free_heads(self.grid))

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return single heads, as far as they were not proposed before."""
        return history.take(history.rows([head] for head in history.promising.tolist()), count)
