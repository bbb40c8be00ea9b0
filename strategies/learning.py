"""What trials teach a pairwise model: the trials and heads that it is fitted to, and the values to explain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from strategies.history import FloatArray, History
from strategies.model import PairwiseModel

# T trials, F free heads, S shortlisted heads, P additions

Indices = NDArray[np.int64]

MAX_TRIALS = 1000
"""Trials that a model is fitted to: half of them the best ones, half spread over the rest."""
HEADS_PER_SIZE, TRIALS_PER_HEAD = 2.8, 40
"""Heads on the shortlist per head of a good mask, and trials per additional head."""
MIN_SHORTLIST, MAX_SHORTLIST = 24, 96
MIN_ADDITIONS = 3
"""Minimum number of additions to masks of one size for their median to count as the effect of the size."""


def fitted_trials(history: History) -> Indices:
    """Return the trials that a model is fitted to, best first."""
    if len(history.ranked) <= MAX_TRIALS:
        return history.ranked
    half = MAX_TRIALS // 2
    return history.ranked[np.r_[:half, np.linspace(half, len(history.ranked) - 1, half).astype(int)]]


def company_gains(history: History) -> FloatArray:
    """Return the most that each head (F) gained in company beyond its gain alone; -inf if it never was in company.

    Company means at least two other heads. The loss that any head causes by making a mask larger is removed: the median
    of all additions to masks of one size, if there are enough of them.
    """
    gains_F = np.nan_to_num(history.scan_gains_F)
    fewer_P, more_P, head_P = history.additions
    excess_P = history.values_T[more_P] - history.values_T[fewer_P] - gains_F[head_P]
    sizes_P = history.sizes_T[fewer_P]
    for size in np.unique(sizes_P):
        of_size = sizes_P == size
        if of_size.sum() >= MIN_ADDITIONS:
            excess_P[of_size] -= np.median(excess_P[of_size])
    most_F = np.full(len(gains_F), -np.inf)
    np.maximum.at(most_F, head_P, excess_P)
    return most_F


def shortlist(history: History, company_gains_F: FloatArray) -> Indices:
    """Return the heads (S) of the best mask and those that gain most, alone or in company.

    The list grows with the size of good masks and the number of trials, up to a length at which a model of its pairs
    can still be fitted quickly.
    """
    num_more = (len(history.values_T) - len(history.free_heads)) // TRIALS_PER_HEAD
    size = max(MIN_SHORTLIST, int(HEADS_PER_SIZE * np.median(history.sizes_T[history.ranked[:16]])))
    gains_F = np.nan_to_num(history.scan_gains_F, nan=-np.inf) + np.maximum(0, company_gains_F)
    gains_F[history.bits_TF[history.ranked[0]]] = np.inf
    return np.sort(np.argsort(-gains_F, kind="stable")[: min(MAX_SHORTLIST, size + num_more)])


def learned(history: History, heads_S: Indices, trials: Indices, expected_T: FloatArray) -> PairwiseModel:
    """Return the model of how far the values of trials, best first, exceed their expected values."""
    values_T = history.values_T[trials]
    # Values far below the best matter less, and a sum of pairs explains them less well.
    deficit_T = values_T[0] - values_T
    noise_T = 1 + deficit_T / max(1e-12, float(np.median(deficit_T)))
    return PairwiseModel(history.bits_TF[trials][:, heads_S], values_T - expected_T, noise_T, history.sizes_T[trials])
