"""What a strategy may know when it proposes a block of masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headmask.mask import BoolArray, Head, HeadGrid, HeadMask
from strategies.space import Limits

# T trials, R candidates, F free heads, S shortlisted heads, L layers, K known masks, A heads of them, P additions

FloatArray = NDArray[np.float64]


@dataclass
class History:
    """The results that a block is proposed from, and every mask that was proposed before it.

    Masks are rows of bits over the heads that may be ablated, layer by layer.
    """

    grid: HeadGrid
    limits: Limits
    bits_TF: BoolArray
    """Masks with results, in order of proposal; True ablates that head."""
    values_T: FloatArray
    """Objective on the search split, larger is better; NaN for a failure."""
    taken: set[tuple[int, ...]]
    """Words of every mask proposed so far, results or not; `new` adds to it."""

    @cached_property
    def free_heads(self) -> tuple[Head, ...]:
        """The heads that may be ablated (F)."""
        return self.limits.free_heads(self.grid)

    @cached_property
    def max_heads(self) -> int:
        """The largest size that a mask may have."""
        return self.limits.largest_size(self.grid)

    @cached_property
    def sizes_T(self) -> NDArray[np.int64]:
        """The number of ablated heads in every mask."""
        sizes: NDArray[np.int64] = self.bits_TF.sum(1)
        return sizes

    @cached_property
    def ranked(self) -> NDArray[np.int64]:
        """Indices of the masks that have a value: best first, then fewer heads, then the order of proposal."""
        order = np.lexsort((self.sizes_T, -self.values_T))
        return order[np.isfinite(self.values_T[order])]

    @cached_property
    def baseline(self) -> float:
        """The value of the empty mask; NaN if it failed or has no result."""
        found = np.flatnonzero(self.sizes_T == 0)
        return float(self.values_T[found[0]]) if len(found) else np.nan

    @cached_property
    def scan_gains_F(self) -> FloatArray:
        """The change in value when one head alone is ablated; NaN if the scan has no value."""
        gains_F = np.full(len(self.free_heads), np.nan)
        singles = np.flatnonzero(self.sizes_T == 1)
        gains_F[self.bits_TF[singles].argmax(1)] = self.values_T[singles] - self.baseline
        return gains_F

    @cached_property
    def promising(self) -> NDArray[np.int64]:
        """The free heads by scan gain, best first; those without one last."""
        return np.argsort(-np.nan_to_num(self.scan_gains_F, nan=-np.inf), kind="stable")

    @cached_property
    def additions(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of masks with values (P) that differ by one added head.

        The index of the smaller mask, which has at least two heads, the index of the larger one, and the added head.
        """
        rows_K = np.flatnonzero(np.isfinite(self.values_T) & (self.sizes_T > 1))
        more_A, head_A = np.nonzero(self.bits_TF[rows_K])
        # A mask is found by a sum of random numbers, one per head, modulo 2^64.
        number_F = np.random.default_rng(0).integers(2**64, size=(self.bits_TF.shape[1],), dtype=np.uint64)
        key_K = self.bits_TF[rows_K].astype(np.uint64) @ number_F
        order_K = key_K.argsort(kind="stable")
        wanted_A = key_K[more_A] - number_F[head_A]
        place_A = np.searchsorted(key_K, wanted_A, sorter=order_K).clip(max=max(0, len(rows_K) - 1))
        is_found_A = key_K[order_K[place_A]] == wanted_A
        more_P, head_P = rows_K[more_A[is_found_A]], head_A[is_found_A]
        return rows_K[order_K[place_A[is_found_A]]], more_P, head_P

    def words(self, bits_RF: BoolArray) -> list[tuple[int, ...]]:
        """Return masks as words."""
        # Words are below 2^53, so sums are exact, and far faster than integer sums.
        words_RL = (bits_RF.astype(np.float64) @ self._powers_FL).astype(np.int64)
        return list(map(tuple, words_RL.tolist()))

    def are_new(self, bits_RF: BoolArray) -> BoolArray:
        """Return which masks (R) were never proposed and are small enough; a repeated row counts each time."""
        new_R = np.array([words not in self.taken for words in self.words(bits_RF)], dtype=np.bool_)
        new_R &= bits_RF.sum(1) <= self.max_heads
        return new_R

    def take(self, bits_RF: BoolArray, count: int) -> list[HeadMask]:
        """Return up to `count` masks that were never proposed, in the order given, and count them as taken."""
        found: list[HeadMask] = []
        for words, size in zip(self.words(bits_RF), bits_RF.sum(1).tolist(), strict=True):
            if len(found) == count:
                break
            if words not in self.taken and size <= self.max_heads:
                self.taken.add(words)
                found.append(HeadMask(self.grid, words))
        return found

    def rows(self, heads: Iterable[Iterable[int]]) -> BoolArray:
        """Return masks, each the indices of its free heads, as rows of bits."""
        sets = [list(each) for each in heads]
        bits_RF = np.zeros((len(sets), len(self.free_heads)), dtype=np.bool_)
        for row_F, indices in zip(bits_RF, sets, strict=True):
            row_F[indices] = True
        return bits_RF

    def widened(self, bits_RS: BoolArray, heads_S: NDArray[np.int64]) -> BoolArray:
        """Return masks over a shortlist of heads as masks (R, F) over all free ones."""
        bits_RF = np.zeros((len(bits_RS), len(self.free_heads)), dtype=np.bool_)
        bits_RF[:, heads_S] = bits_RS
        return bits_RF

    def enumerate_new(self) -> Iterator[HeadMask]:
        """Yield every mask that was never proposed, smallest first."""
        for size in range(self.max_heads + 1):
            for heads in combinations(self.free_heads, size):
                mask = HeadMask.from_heads(self.grid, heads)
                if mask.words not in self.taken:
                    yield mask

    @cached_property
    def _powers_FL(self) -> FloatArray:
        powers_FL = np.zeros((len(self.free_heads), self.grid.layers))
        for index, head in enumerate(self.free_heads):
            powers_FL[index, head.layer] = 1 << head.head
        return powers_FL


def smallest(key_RF: FloatArray, count: ArrayLike) -> BoolArray:
    """Return which entries are among the `count` smallest of their row; `count` is one number or a column (R, 1)."""
    chosen_RF: BoolArray = key_RF.argsort(1).argsort(1) < np.asarray(count)
    return chosen_RF


def apart(bits_RF: BoolArray, least: int, known_KF: BoolArray | None = None, most: int | None = None) -> list[int]:
    """Return the rows of the first masks that differ in at least `least` heads from known masks and from each other.

    Args:
        bits_RF: masks in order of preference.
        least: minimum number of differing heads.
        known_KF: masks to differ from; none by default.
        most: maximum number of rows to return; all by default.
    """
    others = [] if known_KF is None else list(known_KF)
    found: list[int] = []
    for row, bits_F in enumerate(bits_RF):
        if len(found) == most:
            break
        if not others or np.logical_xor(bits_F, others).sum(1).min() >= least:
            found.append(row)
            others.append(bits_F)
    return found
