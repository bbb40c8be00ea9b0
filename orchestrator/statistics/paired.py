"""Paired statistics of masks on the same clusters: bootstrap intervals, standard errors, permutation tests. Pure numpy.

The unit of resampling is the cluster: an image with all its captions, both directions together; images with identical
pixels or the same captions form one cluster. The gallery stays fixed. Below a minimum of clusters there is no interval,
no p-value and no standard error: docs/decisions/0016-clusters.md has what they would be worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# C clusters, K ratio metrics, R draws, M masks

Counts = Any
"""Array, or sparse array where there are many columns."""
_DRAWS_AT_ONCE = 256
MIN_CLUSTERS = 20
"""Clusters below which the uncertainty of a difference is not estimated, counted as if all had one size."""
MIN_DIFFERING = 10
"""Minimum number of clusters that change before an improvement is claimed."""
MAX_P_VALUE = 0.05
"""Largest two-sided p-value with which an improvement is claimed: intervals of few clusters are too short."""


@dataclass(frozen=True)
class Outcomes:
    """Contributions of every cluster of one data set to the objective, under one mask.

    Metric k is the ratio of sums sum_c hits_ck / sum_c queries_ck; the objective is a function of these ratios.
    """

    hits_CK: Counts
    queries_CK: Counts
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    """The objective (R) of ratios (R, K); a ratio is NaN if there are no queries."""
    sizes_C: NDArray[np.int64] | None = None
    """Images of every cluster; None if all have the same number."""

    @property
    def num_clusters(self) -> float:
        """Number of equally large clusters that these are worth."""
        return float(self.queries_CK.shape[0]) if self.sizes_C is None else effective_number(self.sizes_C)

    def objective(self) -> float:
        """Return the objective over all clusters."""
        return float(self.value((self.hits_CK.sum(0) / self.queries_CK.sum(0))[None])[0])


Several = Outcomes | Sequence[Outcomes]
"""Outcomes on one data set, or on each of several."""


@dataclass(frozen=True)
class Evidence:
    """The uncertainty of a difference between two masks."""

    interval: tuple[float, float] | None
    """Two-sided 95 % interval of the objective's delta; None with too few clusters."""
    p_value: float | None
    """P-value of the two-sided cluster-level sign-flip permutation test of the delta; None with too few clusters."""
    num_clusters: float
    """Number of clusters, counted as if all had one size; of several data sets, the smallest number."""
    num_differing: int
    """Number of clusters on which the two masks give different results."""
    is_same: bool = False
    """Whether both are one mask, so that no chance is involved."""

    @property
    def improves(self) -> bool:
        """Whether an improvement may be claimed: never with few clusters, and never of an interval without width."""
        return (
            self.interval is not None
            and self.p_value is not None
            and self.num_differing >= MIN_DIFFERING
            and self.interval[0] > 0
            # Without a width, but for rounding, it knows of no chance at all.
            and self.interval[1] - self.interval[0] > 1e-12
            and self.p_value <= MAX_P_VALUE
        )

    def loses_at_most(self, limit: float) -> bool:
        """Return whether it is shown that no more than a limit is lost.

        Where hardly any cluster differs, the interval knows little of what others would do: the share of those that
        differ may then still be 3.7 over the number of clusters, with a confidence of 97.5 % (the rule of three).
        """
        if self.is_same:
            return True
        if self.interval is None or self.interval[0] < -limit:
            return False
        return self.num_differing >= MIN_DIFFERING or limit * self.num_clusters >= -math.log(0.025)


def effective_number(sizes: NDArray[np.int64]) -> float:
    """Return the number of equally large clusters that clusters of several sizes are worth (Kish 1965, section 8.2)."""
    return float(sizes.sum()) ** 2 / float((sizes.astype(np.float64) ** 2).sum()) if len(sizes) else 0.0


def mean_of(values_RD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over data sets."""
    mean_R: NDArray[np.float64] = values_RD.mean(1)
    return mean_R


def evidence(
    baseline: Several,
    selected: Several,
    *,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean_of,
    draws: int = 10_000,
    seed: int = 0,
    min_clusters: float = MIN_CLUSTERS,
) -> Evidence:
    """Return the uncertainty of the objective's delta.

    Args:
        baseline: see `paired_interval`; the same object as `selected` where both are one mask.
        selected: likewise.
        combine: likewise.
        draws: likewise, of the permutation test, too.
        seed: likewise.
        min_clusters: likewise.
    """
    number = num_clusters(baseline)
    if baseline is selected:
        return Evidence((0.0, 0.0), 1.0, number, 0, is_same=True)
    interval = paired_interval(baseline, selected, combine=combine, draws=draws, seed=seed, min_clusters=min_clusters)
    p_value = permutation_p_value(
        baseline, selected, combine=combine, draws=draws, seed=seed, min_clusters=min_clusters
    )
    return Evidence(interval, p_value, number, num_differing(baseline, selected))


def num_clusters(outcomes: Several) -> float:
    """Return the number of equally large clusters that outcomes are worth; the smallest of several data sets'."""
    return min(each.num_clusters for (each,) in _by_data_set([outcomes]))


def num_differing(baseline: Several, selected: Several) -> int:
    """Return the number of clusters with different results, over all data sets."""
    return sum(
        int(np.count_nonzero(abs(after.hits_CK - before.hits_CK).sum(1)))
        for before, after in _by_data_set([baseline, selected])
    )


def paired_interval(
    baseline: Several,
    selected: Several,
    *,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean_of,
    draws: int = 10_000,
    seed: int = 0,
    min_clusters: float = MIN_CLUSTERS,
) -> tuple[float, float] | None:
    """Return the two-sided 95 % percentile bootstrap interval of the objective's delta; None with too few clusters.

    Clusters are drawn with replacement, the same ones for both sides (Efron and Tibshirani 1993, chapter 13), in each
    data set for itself.

    Args:
        baseline: outcomes on one data set, or on each of several (D).
        selected: of the same data sets.
        combine: the objective (R) over data sets of their objectives (R, D).
        draws: number of draws.
        seed: seed of the draws.
        min_clusters: clusters of one size below which there is no interval.
    """
    if num_clusters(baseline) < min_clusters:
        return None
    low, high = np.quantile(_drawn_deltas(baseline, selected, combine, draws, seed), (0.025, 0.975))
    return float(low), float(high)


def paired_standard_error(
    baseline: Several,
    selected: Several,
    *,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean_of,
    draws: int = 1_000,
    seed: int = 0,
    min_clusters: float = MIN_CLUSTERS,
) -> float | None:
    """Return the bootstrap's standard error of the objective's delta (Efron and Tibshirani 1993, chapter 6).

    None with too few clusters.

    Args:
        baseline: see `paired_interval`.
        selected: likewise.
        combine: likewise.
        draws: how many.
        seed: of the draws.
        min_clusters: likewise.
    """
    if num_clusters(baseline) < min_clusters:
        return None
    return float(np.std(_drawn_deltas(baseline, selected, combine, draws, seed), ddof=1))


def _drawn_deltas(
    baseline: Several,
    selected: Several,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    draws: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return the objective's delta in every draw of clusters."""
    values_RM = drawn_values([baseline, selected], combine=combine, draws=draws, seed=seed)
    delta_R: NDArray[np.float64] = values_RM[:, 1] - values_RM[:, 0]
    return delta_R


def drawn_values(
    masks: Sequence[Several],
    *,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean_of,
    draws: int = 10_000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return the objective of every mask in every draw of clusters (R, M): all masks are given the same draws.

    Args:
        masks: outcomes of the same queries under M masks.
        combine: see `paired_interval`, whose deltas are those of two columns.
        draws: how many.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    data_sets = _by_data_set(masks)
    stacked = [_Stacked([each.hits_CK for each in outcomes]) for outcomes in data_sets]
    values = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        parts = []
        for outcomes, together in zip(data_sets, stacked, strict=True):
            counts_RC = _drawn(outcomes[0].queries_CK.shape[0], min(_DRAWS_AT_ONCE, draws - start), rng)
            parts.append(_values(outcomes, together.sums(counts_RC), counts_RC @ outcomes[0].queries_CK))
        values.append(_combined(parts, combine))
    return np.concatenate(values)


def _drawn(num_clusters: int, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how often every cluster is drawn (R, C), of as many as there are, with replacement."""
    # A tenth of the time of `rng.multinomial`, which draws a binomial for every cluster.
    drawn_RC = rng.integers(num_clusters, size=(draws, num_clusters)) + num_clusters * np.arange(draws)[:, None]
    counts = np.bincount(drawn_RC.ravel(), minlength=drawn_RC.size)
    return counts.reshape(drawn_RC.shape).astype(np.float64)


def permutation_p_value(
    baseline: Several,
    selected: Several,
    *,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean_of,
    draws: int = 10_000,
    seed: int = 0,
    min_clusters: float = MIN_CLUSTERS,
) -> float | None:
    """Return the two-sided p-value of the objective's delta when every cluster swaps its sides at random.

    None with too few clusters.

    Args:
        baseline: see `paired_interval`.
        selected: likewise.
        combine: likewise.
        draws: how many.
        seed: of the draws.
        min_clusters: likewise.
    """
    if num_clusters(baseline) < min_clusters:
        return None
    return permutation_p_values(baseline, [selected], combine=combine, draws=draws, seed=seed)[0]


def permutation_p_values(
    baseline: Several,
    masks: Sequence[Several],
    *,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean_of,
    draws: int = 10_000,
    seed: int = 0,
) -> list[float]:
    """Return the result of `permutation_p_value` for each of several masks: the same clusters swap for all of them.

    The caller checks `num_clusters` for too few clusters.
    """
    if not masks:
        return []
    rng = np.random.default_rng(seed)
    pairs = [_Swaps(before, after) for before, *after in _by_data_set([baseline, *masks])]
    observed_M = np.abs(_swapped_deltas(pairs, [None] * len(pairs), combine)[0])
    as_large_M = np.zeros(len(masks), dtype=np.int64)
    for start in range(0, draws, _DRAWS_AT_ONCE):
        rows = min(_DRAWS_AT_ONCE, draws - start)
        swapped = [rng.integers(2, size=(rows, pair.num_clusters)).astype(np.float64) for pair in pairs]
        # A tolerance, because sums of equal contributions round differently.
        as_large_M += (np.abs(_swapped_deltas(pairs, swapped, combine)) >= observed_M - 1e-12).sum(0)
    return [float(p_value) for p_value in (1 + as_large_M) / (1 + draws)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple tests, in the order given (Holm 1979, Scand. J. Statist. 6, 65-70).

    The smallest of m is multiplied by m, the next one by m - 1, and so on; none falls below the one before it, or above
    1. An error among all those at 0.05 or less is then made with probability 0.05 at most.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _by_data_set(masks: Sequence[Several]) -> list[tuple[Outcomes, ...]]:
    """Return the outcomes of all masks, data set by data set."""
    return list(zip(*[[each] if isinstance(each, Outcomes) else list(each) for each in masks], strict=True))


def _combined(
    values: Sequence[NDArray[np.float64]], combine: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the objective over data sets (R, M) of their values (R, M)."""
    values_RMD = np.stack(values, axis=-1)
    return combine(values_RMD.reshape(-1, len(values))).reshape(values_RMD.shape[:2])


class _Stacked:
    """Hits of several masks side by side, so that their sums over draws are one product; sparse ones apart."""

    def __init__(self, hits: Sequence[Counts]) -> None:
        self._hits = hits
        is_dense = all(isinstance(hits_CK, np.ndarray) for hits_CK in hits)
        self._together = np.hstack(hits) if is_dense else None

    def sums(self, weights_RC: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted sums of all masks' hits (R, M, K)."""
        if self._together is None:
            return np.stack([weights_RC @ hits_CK for hits_CK in self._hits], axis=1)
        sums_RMK: NDArray[np.float64] = (weights_RC @ self._together).reshape(len(weights_RC), len(self._hits), -1)
        return sums_RMK


class _Swaps:
    """One data set's outcomes of the baseline and of several masks, whose clusters swap sides."""

    def __init__(self, before: Outcomes, after: Sequence[Outcomes]) -> None:
        self._sides = [before] * len(after), after
        self._queries_1K = before.queries_CK.sum(0)[None]
        self._totals = [np.stack([each.hits_CK.sum(0) for each in side]) for side in self._sides]
        self._moved = _Stacked([each.hits_CK - before.hits_CK for each in after])
        self.num_clusters = before.queries_CK.shape[0]

    def values(self, swapped_RC: NDArray[np.float64] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return both sides' values (R, M) with the marked clusters swapped; None swaps none."""
        moved_RMK = self._moved.sums(np.zeros((1, self.num_clusters)) if swapped_RC is None else swapped_RC)
        before_RMK, after_RMK = self._totals[0] + moved_RMK, self._totals[1] - moved_RMK
        before, after = self._sides
        return _values(before, before_RMK, self._queries_1K), _values(after, after_RMK, self._queries_1K)


def _swapped_deltas(
    pairs: Sequence[_Swaps],
    swapped: Sequence[NDArray[np.float64] | None],
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return the objective's deltas (R, M) with the marked clusters (R, C) of every data set swapped."""
    before, after = zip(*[pair.values(marked) for pair, marked in zip(pairs, swapped, strict=True)], strict=True)
    deltas_RM: NDArray[np.float64] = _combined(after, combine) - _combined(before, combine)
    return deltas_RM


def _values(
    outcomes: Sequence[Outcomes], hits_RMK: NDArray[np.float64], queries_RK: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the objective of every mask on one data set (R, M)."""
    with np.errstate(invalid="ignore"):
        ratios_RMK, value = hits_RMK / queries_RK[:, None], outcomes[0].value
        if all(each.value is value for each in outcomes):
            return value(ratios_RMK.reshape(-1, ratios_RMK.shape[2])).reshape(ratios_RMK.shape[:2])
        return np.stack([each.value(ratios_RMK[:, place]) for place, each in enumerate(outcomes)], axis=1)
