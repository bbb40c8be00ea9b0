"""The exhaustive single-head scan."""

from __future__ import annotations

import numpy as np

from headmask.mask import HeadMask
from strategies.base import MaskSampler
from strategies.history import History


class ScanSampler(MaskSampler):
    """Proposes the empty mask, then every head once; then it is exhausted."""

    label = "scan"

    @property
    def num_masks(self) -> int:
        """The number of masks in the scan."""
        return self.blocks.num_scan

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return nothing: there is nothing after the scan."""
        return []
