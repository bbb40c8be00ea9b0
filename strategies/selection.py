"""Selecting a mask, and saying how sure the choice is. Pure numpy.

The unit of resampling is the cluster: an image with all its captions, both directions together; identical images or
captions form one cluster. The gallery stays fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headmask.mask import Head, HeadMask
from strategies.space import Limits

# C clusters, K ratio metrics, R draws

_DRAWS_AT_ONCE = 256


def finalists(masks: Sequence[HeadMask], values: NDArray[np.float64], count: int) -> list[HeadMask]:
    """Return the best masks of the search split, always with the empty mask and the best single head.

    Args:
        masks: all that were scored.
        values: their objective; NaN for a failure.
        count: how many, the empty mask and the best single head included where they are not among the best anyway.
    """
    scored = np.flatnonzero(np.isfinite(values)).tolist()
    ranked = [masks[i] for i in sorted(scored, key=lambda i: (-values[i], len(masks[i]), masks[i].words))]
    always = [mask for mask in ranked if mask.is_empty] + [mask for mask in ranked if len(mask) == 1][:1]
    best = [mask for mask in ranked if mask not in always][: max(0, count - len(always))]
    chosen = {*best, *always}
    return [mask for mask in ranked if mask in chosen]


def select(masks: Sequence[HeadMask], values: NDArray[np.float64]) -> int:
    """Return the index of the best mask by its values on confirm; ties go to fewer heads, then words; NaN never wins.

    Raises:
        ValueError: no mask has a value.
    """
    scored = np.flatnonzero(np.isfinite(values)).tolist()
    if not scored:
        raise ValueError("no finalist has a value")
    return min(scored, key=lambda i: (-values[i], len(masks[i]), masks[i].words))


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


@dataclass(frozen=True)
class Outcomes:
    """What every cluster contributes to the objective, under one mask.

    Metric k is the ratio of sums sum_c hits_ck / sum_c queries_ck; the objective is sum_k weight_k metric_k.
    """

    hits_CK: NDArray[np.float64]
    queries_CK: NDArray[np.float64]
    weights_K: NDArray[np.float64]

    def objective(self) -> float:
        """Return the objective over all clusters."""
        return float((self.hits_CK.sum(0) / self.queries_CK.sum(0)) @ self.weights_K)


def paired_interval(
    baseline: Outcomes, selected: Outcomes, *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the two-sided 95 % percentile bootstrap interval of the objective's delta.

    Clusters are drawn with replacement, the same ones for both sides (Efron and Tibshirani 1993, chapter 13).
    """
    difference_CK = selected.hits_CK - baseline.hits_CK
    num_clusters = len(difference_CK)
    rng = np.random.default_rng(seed)
    deltas = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        rows = min(_DRAWS_AT_ONCE, draws - start)
        counts_RC = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=rows).astype(np.float64)
        deltas.append((counts_RC @ difference_CK / (counts_RC @ baseline.queries_CK)) @ baseline.weights_K)
    low, high = np.quantile(np.concatenate(deltas), (0.025, 0.975))
    return float(low), float(high)


def permutation_p_value(baseline: Outcomes, selected: Outcomes, *, draws: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p-value of the objective's delta under random signs of every cluster's contribution."""
    shares_CK = (selected.hits_CK - baseline.hits_CK) / baseline.queries_CK.sum(0)
    contribution_C = shares_CK @ baseline.weights_K
    observed = abs(contribution_C.sum())
    rng = np.random.default_rng(seed)
    as_large = 0
    for start in range(0, draws, _DRAWS_AT_ONCE):
        rows = min(_DRAWS_AT_ONCE, draws - start)
        signs_RC = 2.0 * rng.integers(2, size=(rows, len(contribution_C))) - 1
        # A tolerance, because sums of equal contributions round differently.
        as_large += int(np.count_nonzero(np.abs(signs_RC @ contribution_C) >= observed - 1e-12))
    return (1 + as_large) / (1 + draws)
