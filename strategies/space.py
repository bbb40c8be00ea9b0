"""Masks as Optuna parameters: one integer per layer, so that a trial's params *are* its mask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution

from headmask.errors import ConfigError
from headmask.mask import BoolArray, Head, HeadGrid, HeadMask

# M masks, L layers, F free heads


@lru_cache
def distributions(grid: HeadGrid) -> Mapping[str, BaseDistribution]:
    """Return the search space of a grid: `L00`, `L01`, ... each from 0 to 2**heads - 1."""
    return {f"L{layer:02d}": IntDistribution(0, (1 << grid.heads) - 1) for layer in range(grid.layers)}


def params_of(mask: HeadMask) -> dict[str, int]:
    """Return a mask as trial params."""
    return dict(zip(distributions(mask.grid), mask.words, strict=True))


def mask_of(params: Mapping[str, Any], grid: HeadGrid) -> HeadMask:
    """Return the mask that a trial's params represent."""
    return HeadMask(grid, tuple(int(params[name]) for name in distributions(grid)))


@dataclass(frozen=True)
class Limits:
    """Which masks may be proposed.

    Args:
        layers: layers whose heads may be ablated; None for all.
        protect: heads that are never ablated, as `L3H7`.
        max_heads: maximum number of heads in a mask; None for no limit.
    """

    layers: frozenset[int] | None = None
    protect: frozenset[str] = frozenset()
    max_heads: int | None = None

    def check(self, grid: HeadGrid) -> None:
        """Check the limits against a grid.

        Raises:
            ConfigError: a layer or head lies outside the grid, or nothing is left to ablate; all mistakes are listed.
        """
        mistakes = [
            f"layer {layer} is not on grid {grid}: layers are 0..{grid.layers - 1}"
            for layer in sorted(self.layers or ())
            if not 0 <= layer < grid.layers
        ]
        mistakes += [
            f"protected head {head} is not on grid {grid}"
            for head in sorted(self.protect)
            if Head.parse(head) not in grid
        ]
        if self.max_heads is not None and self.max_heads < 1:
            mistakes.append(f"max_heads must be at least 1, got {self.max_heads}")
        if not mistakes and not self.free_heads(grid):
            mistakes.append("no head may be ablated: layers and protect leave none")
        if mistakes:
            raise ConfigError("\n  ".join(["the limits of the search do not fit the model:", *mistakes]))

    def free_heads(self, grid: HeadGrid) -> tuple[Head, ...]:
        """Return the heads that may be ablated, layer by layer."""
        protected = {Head.parse(head) for head in self.protect}
        return tuple(
            head for head in grid if head not in protected and (self.layers is None or head.layer in self.layers)
        )

    def bits_of(self, grid: HeadGrid, masks: Sequence[HeadMask]) -> BoolArray:
        """Return masks as rows of bits (M, F) over the free heads."""
        layers, heads = zip(*self.free_heads(grid), strict=True)
        words_ML = np.array([mask.words for mask in masks], dtype=np.int64).reshape(len(masks), grid.layers)
        bits_MF: BoolArray = (words_ML[:, layers] >> np.array(heads) & 1).astype(np.bool_)
        return bits_MF

    def largest_size(self, grid: HeadGrid) -> int:
        """Return the largest size of a mask."""
        num_free = len(self.free_heads(grid))
        return num_free if self.max_heads is None else min(self.max_heads, num_free)

    def num_masks(self, grid: HeadGrid) -> int:
        """Return how many masks the limits allow."""
        num_free = len(self.free_heads(grid))
        return sum(math.comb(num_free, size) for size in range(self.largest_size(grid) + 1))
