"""What a strategy may know when it proposes a block of masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headmask.mask import BoolArray, Head, HeadGrid, HeadMask
from strategies.additions import Additions
from strategies.space import Limits

# T trials, R candidates, F free heads, S shortlisted heads, L layers, K known masks, P additions

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
    """Words of every mask proposed so far, results or not; `take` adds to it."""
    scales_SF: FloatArray | None = None
    """Trained scales of the free heads, 0 for one to ablate and 1 for one to keep: the last ones first, then those of
    earlier steps; None if there are none.
    """
    known_additions: Additions = field(default_factory=Additions)
    """What was found out about additions before."""

    @property
    def scales_F(self) -> FloatArray | None:
        """The last of the trained scales; None if there are none."""
        return None if self.scales_SF is None else self.scales_SF[0]

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
    def failed_F(self) -> BoolArray:
        """The free heads (F) whose ablation alone failed."""
        singles = np.flatnonzero(self.sizes_T == 1)
        failed_F = np.zeros(len(self.free_heads), dtype=np.bool_)
        failed_F[self.bits_TF[singles].argmax(1)] = ~np.isfinite(self.values_T[singles])
        return failed_F

    @cached_property
    def is_usable_F(self) -> BoolArray:
        """The free heads (F) that something speaks for: trained scales, or a scan gain; failed ones are not."""
        if self.scales_F is not None:
            return ~self.failed_F
        usable_F: BoolArray = np.isfinite(self.scan_gains_F)
        return usable_F

    @cached_property
    def is_scanned(self) -> bool:
        """Whether the scan is complete."""
        return int((self.sizes_T == 1).sum()) == len(self.free_heads)

    @cached_property
    def promising(self) -> NDArray[np.int64]:
        """The free heads by scale, smallest first, or without scales by scan gain, best first; failed ones last."""
        if self.scales_F is not None:
            return np.argsort(np.where(self.failed_F, np.inf, self.scales_F), kind="stable")
        return np.argsort(-np.nan_to_num(self.scan_gains_F, nan=-np.inf), kind="stable")

    @cached_property
    def additions(self) -> tuple[BoolArray, FloatArray, NDArray[np.int64]]:
        """Heads added to a known mask of at least two (P, F), the change in value (P), and the size of the known mask.

        For every mask with a value, the largest such mask that it contains, if it adds few heads.
        """
        return self.known_additions.of(self.bits_TF, self.values_T)

    def first(self, count: int) -> History:
        """Return what was known when there were fewer results."""
        if count == len(self.values_T):
            return self
        bits_TF, values_T = self.bits_TF[:count], self.values_T[:count]
        return History(self.grid, self.limits, bits_TF, values_T, set(), self.scales_SF, self.known_additions.of_first)

    def words(self, bits_RF: BoolArray) -> list[tuple[int, ...]]:
        """Return masks as words."""
        # Words are below 2^53, so sums are exact, and far faster than integer sums.
        words_RL = (bits_RF.astype(np.float64) @ self._powers_FL).astype(np.int64)
        return list(map(tuple, words_RL.tolist()))

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
    floats_RF = bits_RF.astype(np.float32)
    distances_RR = distances(floats_RF, floats_RF)
    is_free_R = np.ones(len(bits_RF), dtype=np.bool_)
    if known_KF is not None and len(known_KF):
        is_free_R = distances(floats_RF, known_KF.astype(np.float32)).min(1) >= least
    found: list[int] = []
    for row in range(len(bits_RF)):
        if len(found) == most:
            break
        if is_free_R[row]:
            found.append(row)
            is_free_R &= distances_RR[row] >= least
    return found


def distances(bits_RF: NDArray[np.float32], others_KF: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return in how many heads masks differ from others (R, K)."""
    distances_RK: NDArray[np.float32] = bits_RF.sum(1)[:, None] + others_KF.sum(1) - 2 * (bits_RF @ others_KF.T)
    return distances_RK
