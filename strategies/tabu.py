"""Tabu search for the best masks of quadratic functions (Glover 1989), with many functions and starts at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headmask.mask import BoolArray
from strategies.history import FloatArray
from strategies.model import Functions

# R functions, B starts of each, S heads, I steps

TENURE = (4, 12)
"""Steps for which a flipped head stays as it is: the minimum, and one more than the maximum."""


def tabu_search(
    functions: Functions, starts_BS: BoolArray, steps: int, max_heads: int, rng: np.random.Generator
) -> tuple[BoolArray, FloatArray]:
    """Return every mask visited (R, B * I, S), with its value (R, B * I).

    Each step flips the head that gains most among those not flipped recently, even if it loses.

    Args:
        functions: functions of masks over a shortlist of heads.
        starts_BS: masks to start from, the same for every function.
        steps: length of every walk.
        max_heads: largest size of a mask.
        rng: random state of the tenures.
    """
    walks = _Walks(functions, starts_BS)
    visited = []
    for step in range(steps):
        walks.flip(step, max_heads, rng)
        visited.append((walks.bits_RBS > 0.5, walks.value_RB.copy()))
    num_functions, num_heads = functions.head_RS.shape
    bits, values = (np.stack(part, 2) for part in zip(*visited, strict=True))
    return bits.reshape(num_functions, -1, num_heads), values.reshape(num_functions, -1)


class _Walks:
    """The position of every walk, and what flipping a head would change there."""

    def __init__(self, functions: Functions, starts_BS: BoolArray) -> None:
        num_functions, num_starts = len(functions.head_RS), len(starts_BS)
        self._functions = functions
        self.bits_RBS = np.repeat(starts_BS[None].astype(np.float64), num_functions, axis=0)
        pairs_RBS = self.bits_RBS @ functions.pair_RSS
        self._slope_RBS = functions.head_RS[:, None] + pairs_RBS
        """What ablating a head adds, apart from the size."""
        self._size_RB = self.bits_RBS.sum(2).astype(np.int64)
        linear_RB = ((self._slope_RBS - 0.5 * pairs_RBS) * self.bits_RBS).sum(2)
        self.value_RB = linear_RB + self._of_size(self._size_RB)
        self._held_until_RBS = np.zeros(self.bits_RBS.shape)
        self._rows = np.arange(num_functions)[:, None], np.arange(num_starts)[None]

    def flip(self, step: int, max_heads: int, rng: np.random.Generator) -> None:
        """Flip the best head that may be flipped; a walk without one stays."""
        gain_RBS = self._gains(max_heads)
        gain_RBS[self._held_until_RBS > step] = -np.inf
        head_RB = gain_RBS.argmax(2)
        at = (*self._rows, head_RB)
        moves_RB = np.isfinite(gain_RBS[at])
        sign_RB = np.where(moves_RB, 1 - 2 * self.bits_RBS[at], 0)
        self.value_RB += np.where(moves_RB, gain_RBS[at], 0)
        self.bits_RBS[at] += sign_RB
        self._size_RB += sign_RB.astype(np.int64)
        self._slope_RBS += sign_RB[..., None] * self._functions.pair_RSS[self._rows[0], head_RB]
        self._held_until_RBS[at] = step + rng.integers(*TENURE, size=head_RB.shape)

    def _gains(self, max_heads: int) -> FloatArray:
        here_RB = self._of_size(self._size_RB)
        more_RB = self._of_size(self._size_RB + 1) - here_RB
        fewer_RB = self._of_size(self._size_RB - 1) - here_RB
        more_RB[self._size_RB >= max_heads] = -np.inf
        return np.where(
            self.bits_RBS > 0.5, fewer_RB[..., None] - self._slope_RBS, more_RB[..., None] + self._slope_RBS
        )

    def _of_size(self, size_RB: NDArray[np.int64]) -> FloatArray:
        size_RN = self._functions.size_RN
        return np.take_along_axis(size_RN, size_RB.clip(0, size_RN.shape[1] - 1), 1)
