"""What a strategy may know when it proposes a mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from headmask.mask import Head, HeadGrid, HeadMask
from strategies.space import Limits


@dataclass
class History:
    """The results that a block is proposed from, and every mask that was proposed before.

    One is made per block; only `taken` grows while the block is proposed.
    """

    grid: HeadGrid
    limits: Limits
    masks: list[HeadMask]
    values: NDArray[np.float64]
    """Objective on the search split, larger is better; NaN for a failure."""
    taken: set[tuple[int, ...]]
    """Words of every mask proposed so far, results or not."""

    @cached_property
    def free_heads(self) -> tuple[Head, ...]:
        """The heads that may be ablated."""
        return self.limits.free_heads(self.grid)

    @cached_property
    def most_heads(self) -> int:
        """The largest size that a mask may have."""
        return self.limits.most_heads(self.grid)

    @cached_property
    def ranked(self) -> list[int]:
        """Indices of the masks that have a value: best first, then fewer heads, then words."""
        scored = np.flatnonzero(np.isfinite(self.values))
        return sorted(scored.tolist(), key=lambda i: (-self.values[i], len(self.masks[i]), self.masks[i].words))

    @cached_property
    def scan_gains(self) -> dict[Head, float]:
        """The change of value when one head alone is ablated, for every head whose scan has a value."""
        by_words = {mask.words: value for mask, value in zip(self.masks, self.values, strict=True) if len(mask) <= 1}
        baseline = by_words.get(HeadMask.empty(self.grid).words, np.nan)
        gains = {}
        for head in self.free_heads:
            gain = by_words.get(HeadMask.from_heads(self.grid, [head]).words, np.nan) - baseline
            if np.isfinite(gain):
                gains[head] = float(gain)
        return gains

    @cached_property
    def promising(self) -> list[Head]:
        """The free heads by scan gain, best first; those without one last."""
        worst = min(self.scan_gains.values(), default=0.0) - 1.0
        return sorted(self.free_heads, key=lambda head: (-self.scan_gains.get(head, worst), head))

    def is_new(self, mask: HeadMask) -> bool:
        """Return whether a mask was never proposed. Strategies keep to free heads; sizes are checked here."""
        return mask.words not in self.taken and len(mask) <= self.most_heads

    def enumerate_new(self) -> Iterator[HeadMask]:
        """Yield every mask that was never proposed, smallest first."""
        for size in range(self.most_heads + 1):
            for heads in combinations(self.free_heads, size):
                mask = HeadMask.from_heads(self.grid, heads)
                if mask.words not in self.taken:
                    yield mask
