"""Which masks add heads to others, and what that changes: found out for new results only."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headmask.mask import BoolArray

# T trials, F free heads, K masks with a value and at least two heads, N new ones of these, P additions

FloatArray = NDArray[np.float64]
MAX_ADDED = 12
"""Maximum number of heads by which a mask may exceed another for the difference to count as an addition."""
_AT_ONCE = 512
_NONE = 10**6


class Additions:
    """For every mask with a value, the largest other one that it contains, if it adds at most `MAX_ADDED` heads.

    The first of several is taken. It remembers what it found for earlier results of a study, which decides nothing.
    """

    def __init__(self) -> None:
        self._bits_TF, self._values_T = np.zeros((0, 0), dtype=np.bool_), np.zeros(0)
        self._forget()

    @cached_property
    def of_first(self) -> Additions:
        """What was found for the first results alone: these are fewer, and grow in their own time."""
        return Additions()

    def of(self, bits_TF: BoolArray, values_T: FloatArray) -> tuple[BoolArray, FloatArray, NDArray[np.int64]]:
        """Return heads added to a known mask of at least two (P, F), the change in value (P), and that mask's size (P).

        Args:
            bits_TF: masks with results, in order of proposal.
            values_T: their values; NaN for a failure.
        """
        if not self._has_seen(bits_TF, values_T):
            self._forget()
        seen = int(self._rows_K[-1]) + 1 if len(self._rows_K) else 0
        self._bits_TF, self._values_T = bits_TF, values_T
        fresh = seen + np.flatnonzero(np.isfinite(values_T[seen:]) & (bits_TF[seen:].sum(1) > 1))
        for start in range(0, len(fresh), _AT_ONCE):
            self._add(fresh[start : start + _AT_ONCE])
        found_P = np.flatnonzero(self._added_K <= MAX_ADDED)
        rows_P, bases_P = self._rows_K[found_P], self._rows_K[self._base_K[found_P]]
        changes_P = values_T[rows_P] - values_T[bases_P]
        return bits_TF[rows_P] & ~bits_TF[bases_P], changes_P, bits_TF[bases_P].sum(1)

    def _has_seen(self, bits_TF: BoolArray, values_T: FloatArray) -> bool:
        """Return whether results begin with those seen last."""
        seen = len(self._values_T)
        is_same = np.array_equal(self._values_T, values_T[:seen], equal_nan=True)
        return is_same and np.array_equal(self._bits_TF, bits_TF[:seen])

    def _forget(self) -> None:
        self._rows_K, self._base_K, self._added_K = (np.zeros(0, dtype=np.int64) for _ in range(3))

    def _add(self, rows_N: NDArray[np.int64]) -> None:
        """Find the masks that new ones contain, and those that contain new ones."""
        num_old, rows_K = len(self._rows_K), np.concatenate([self._rows_K, rows_N])
        bits_KF, bits_NF = (self._bits_TF[rows].astype(np.float32) for rows in (rows_K, rows_N))
        sizes_K, sizes_N = bits_KF.sum(1), bits_NF.sum(1)
        common_NK = bits_NF @ bits_KF.T
        added_NK = sizes_N[:, None] - sizes_K
        within_NK = np.where((common_NK >= sizes_K) & (added_NK > 0), added_NK, _NONE)
        around_NK = np.where((common_NK >= sizes_N[:, None]) & (added_NK < 0), -added_NK, _NONE)
        base_N, fewest_N = within_NK.argmin(1), within_NK.min(1)
        new_K, fewer_K = around_NK[:, :num_old].argmin(0), around_NK[:, :num_old].min(0)
        is_nearer_K = fewer_K < self._added_K
        base_K = np.where(is_nearer_K, num_old + new_K, self._base_K)
        added_K = np.minimum(fewer_K, self._added_K).astype(np.int64)
        self._rows_K = rows_K
        self._base_K, self._added_K = np.r_[base_K, base_N], np.r_[added_K, fewest_N.astype(np.int64)]
