"""Selecting a mask, and saying how sure the choice is. Pure numpy.

The unit of resampling is the cluster: an image with all its captions, both directions together; identical images or
captions form one cluster. The gallery stays fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headmask.mask import Head, HeadMask
from strategies.space import Limits

# C clusters, K ratio metrics, R draws

AS_GOOD = 0.5
"""Standard errors by which a mask's value may be lower than that of one with more heads."""
_DRAWS_AT_ONCE = 256


def finalists(masks: Sequence[HeadMask], values: NDArray[np.float64], count: int) -> list[HeadMask]:
    """Return the best masks of the search split, best first, and those with which a smaller one may do as well.

    These are, for each number of heads, the best mask if no smaller one is as good, and the best single head. The empty
    mask is one of them.

    Args:
        masks: all that were scored.
        values: what they were searched by; NaN for a failure.
        count: of the best masks.
    """
    scored = np.flatnonzero(np.isfinite(values)).tolist()
    ranked = [masks[i] for i in sorted(scored, key=lambda i: (-values[i], len(masks[i]), masks[i].words))]
    best_of_size: dict[int, HeadMask] = {}
    for mask in ranked:
        if all(size > len(mask) for size in best_of_size):
            best_of_size[len(mask)] = mask
    chosen = {*ranked[:count], *best_of_size.values(), *[mask for mask in ranked if len(mask) == 1][:1]}
    return [mask for mask in ranked if mask in chosen]


def select(
    masks: Sequence[HeadMask],
    values: NDArray[np.float64],
    standard_error: Callable[[int, int], float] = lambda index, best: 0.0,
) -> int:
    """Return the index of the mask to select by values on confirm: of those as good as the best one, the smallest.

    As good is a mask whose value is lower by half a standard error of the difference at most: heads that earn less than
    that are more often noise. It is the rule of one standard error (Breiman et al. 1984, section 3.4.3) at the half of
    it, where it gained most on test (docs/validity.md). Of equally small masks the better one is selected, then by
    words; NaN never wins.

    Args:
        masks: finalists.
        values: of each on confirm; NaN for a failure.
        standard_error: of the difference of two masks' values, given by their indices; 0 by default.

    Raises:
        ValueError: no mask has a value.
    """
    scored = np.flatnonzero(np.isfinite(values)).tolist()
    if not scored:
        raise ValueError("no finalist has a value")
    best = min(scored, key=lambda i: (-values[i], len(masks[i]), masks[i].words))
    smaller = [i for i in scored if len(masks[i]) < len(masks[best])]
    for i in sorted(smaller, key=lambda i: (len(masks[i]), -values[i], masks[i].words)):
        if values[best] - values[i] <= AS_GOOD * standard_error(i, best):
            return i
    return best


def matched_random_masks(
    mask: HeadMask, count: int, rng: np.random.Generator, limits: Limits | None = None
) -> list[HeadMask]:
    """Return distinct random masks with the same number of heads in every layer, the mask itself excluded.

    There may be fewer than `count`: none for the empty mask, and no more than exist.
    """
    free: dict[int, list[Head]] = {layer: [] for layer in range(mask.grid.layers)}
    for head in (limits or Limits()).free_heads(mask.grid):
        free[head.layer].append(head)
    found: dict[HeadMask, None] = {}
    for _ in range(20 * count):
        if mask.is_empty or len(found) == count:
            break
        heads = [
            free[layer][index]
            for layer, size in enumerate(mask.layer_counts)
            for index in rng.choice(len(free[layer]), size=size, replace=False)
        ]
        drawn = HeadMask.from_heads(mask.grid, heads)
        if drawn != mask:
            found[drawn] = None
    return list(found)


Counts = Any
"""Array, or sparse array where there are many columns."""


@dataclass(frozen=True)
class Outcomes:
    """What every cluster of one data set contributes to the objective, under one mask.

    Metric k is the ratio of sums sum_c hits_ck / sum_c queries_ck; the objective is a function of these ratios.
    """

    hits_CK: Counts
    queries_CK: Counts
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    """The objective (R) of ratios (R, K); a ratio is NaN where nothing was asked."""

    def objective(self) -> float:
        """Return the objective over all clusters."""
        return float(self.value((self.hits_CK.sum(0) / self.queries_CK.sum(0))[None])[0])


Several = Outcomes | Sequence[Outcomes]
"""Outcomes on one data set, or on each of several."""


def mean_of(values_RD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over data sets."""
    mean_R: NDArray[np.float64] = values_RD.mean(1)
    return mean_R


def paired_interval(
    baseline: Several,
    selected: Several,
    *,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean_of,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the two-sided 95 % percentile bootstrap interval of the objective's delta.

    Clusters are drawn with replacement, the same ones for both sides (Efron and Tibshirani 1993, chapter 13), in each
    data set for itself.

    Args:
        baseline: outcomes on one data set, or on each of several (D).
        selected: of the same data sets.
        combine: the objective (R) over data sets of their objectives (R, D).
        draws: how many.
        seed: of the draws.
    """
    low, high = np.quantile(_drawn_deltas(baseline, selected, combine, draws, seed), (0.025, 0.975))
    return float(low), float(high)


def paired_standard_error(
    baseline: Several,
    selected: Several,
    *,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean_of,
    draws: int = 1_000,
    seed: int = 0,
) -> float:
    """Return the bootstrap's standard error of the objective's delta (Efron and Tibshirani 1993, chapter 6).

    Args:
        baseline: see `paired_interval`.
        selected: likewise.
        combine: likewise.
        draws: how many.
        seed: of the draws.
    """
    return float(np.std(_drawn_deltas(baseline, selected, combine, draws, seed), ddof=1))


def _drawn_deltas(
    baseline: Several,
    selected: Several,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    draws: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return the objective's delta in every draw of clusters."""
    rng = np.random.default_rng(seed)
    deltas = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        sides: list[list[NDArray[np.float64]]] = [[], []]
        for before, after in _pairs(baseline, selected):
            num_clusters = before.queries_CK.shape[0]
            shares_C, rows = np.full(num_clusters, 1 / num_clusters), min(_DRAWS_AT_ONCE, draws - start)
            counts_RC = rng.multinomial(num_clusters, shares_C, size=rows).astype(np.float64)
            queries_RK = counts_RC @ before.queries_CK
            for side, outcomes in zip(sides, (before, after), strict=True):
                side.append(_value(outcomes, counts_RC @ outcomes.hits_CK, queries_RK))
        before_R, after_R = (combine(np.stack(side, axis=1)) for side in sides)
        deltas.append(after_R - before_R)
    return np.concatenate(deltas)


def permutation_p_value(
    baseline: Several,
    selected: Several,
    *,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean_of,
    draws: int = 10_000,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value of the objective's delta when every cluster swaps its sides at random.

    Args:
        baseline: see `paired_interval`.
        selected: likewise.
        combine: likewise.
        draws: how many.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    observed = abs(_delta([None] * len(_pairs(baseline, selected)), baseline, selected, combine)[0])
    as_large = 0
    for start in range(0, draws, _DRAWS_AT_ONCE):
        rows = min(_DRAWS_AT_ONCE, draws - start)
        swapped = [
            rng.integers(2, size=(rows, before.queries_CK.shape[0])).astype(np.float64)
            for before, _ in _pairs(baseline, selected)
        ]
        # A tolerance, because sums of equal contributions round differently.
        as_large += int(np.count_nonzero(np.abs(_delta(swapped, baseline, selected, combine)) >= observed - 1e-12))
    return (1 + as_large) / (1 + draws)


def _pairs(baseline: Several, selected: Several) -> list[tuple[Outcomes, Outcomes]]:
    sides = [[side] if isinstance(side, Outcomes) else list(side) for side in (baseline, selected)]
    return list(zip(*sides, strict=True))


def _delta(
    swapped: Sequence[NDArray[np.float64] | None],
    baseline: Several,
    selected: Several,
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return the objective's delta (R) with the marked clusters (R, C) of every data set swapped; None swaps none."""
    sides: list[list[NDArray[np.float64]]] = [[], []]
    for swapped_RC, (before, after) in zip(swapped, _pairs(baseline, selected), strict=True):
        queries_K = before.queries_CK.sum(0)[None]
        moved_RK = 0.0 if swapped_RC is None else swapped_RC @ (after.hits_CK - before.hits_CK)
        sides[0].append(_value(before, before.hits_CK.sum(0)[None] + moved_RK, queries_K))
        sides[1].append(_value(after, after.hits_CK.sum(0)[None] - moved_RK, queries_K))
    before_R, after_R = (combine(np.stack(side, axis=1)) for side in sides)
    return after_R - before_R


def _value(outcomes: Outcomes, hits_RK: NDArray[np.float64], queries_RK: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return outcomes.value(hits_RK / queries_RK)
