"""What trials teach a pairwise model: which of them it is fitted to, on which heads, and what they exceed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from strategies.history import FloatArray, History
from strategies.model import PairwiseModel

# T trials, F free heads, S shortlisted heads, P pairs of trials

Indices = NDArray[np.int64]

MOST_TRIALS = 1000
"""Trials that a model is fitted to: half of them the best ones, half spread over the rest."""
HEADS_PER_SIZE, TRIALS_PER_HEAD = 2.8, 40
"""Heads on the shortlist for every head of a good mask, and trials for which there is one more."""
LEAST_SHORTLIST, MOST_SHORTLIST = 24, 96


def fitted_trials(history: History) -> Indices:
    """Return the trials that a model is fitted to, best first."""
    if len(history.ranked) <= MOST_TRIALS:
        return history.ranked
    half = MOST_TRIALS // 2
    return history.ranked[np.r_[:half, np.linspace(half, len(history.ranked) - 1, half).astype(int)]]


def company_gains(history: History, trials: Indices) -> FloatArray:
    """Return what each head (F) gained most in company, beyond what it gains alone; -inf where it never was in any.

    It is read off pairs of masks that differ in that head alone. What every head loses because a mask gets too large
    is taken out: the median of all additions to masks of one size.
    """
    bits_TF, values_T, sizes_T = history.bits_TF[trials], history.values_T[trials], history.sizes_T[trials]
    bits = bits_TF.astype(np.float32)
    differences_TT = sizes_T[:, None] + sizes_T - 2 * np.rint(bits @ bits.T).astype(np.int64)
    more_P, fewer_P = np.nonzero((differences_TT == 1) & (sizes_T[:, None] > sizes_T) & (sizes_T > 1))
    head_P = (bits_TF[more_P] ^ bits_TF[fewer_P]).argmax(1)
    gains_P = values_T[more_P] - values_T[fewer_P] - np.nan_to_num(history.scan_gains_F)[head_P]
    for size in np.unique(sizes_T[fewer_P]):
        gains_P[sizes_T[fewer_P] == size] -= np.median(gains_P[sizes_T[fewer_P] == size])
    most_F = np.full(len(history.free_heads), -np.inf)
    np.maximum.at(most_F, head_P, gains_P)
    return most_F


def shortlist(history: History, company_gains_F: FloatArray) -> Indices:
    """Return the heads (S) that gain most, alone and by company: the more, the larger good masks are.

    As trials grow in number, so does the list, as long as a model of its pairs is fitted in little time.
    """
    num_more = (len(history.values_T) - len(history.free_heads)) // TRIALS_PER_HEAD
    size = max(LEAST_SHORTLIST, int(HEADS_PER_SIZE * np.median(history.sizes_T[history.ranked[:16]])))
    gains_F = np.nan_to_num(history.scan_gains_F, nan=-np.inf) + np.maximum(0, company_gains_F)
    return np.sort(np.argsort(-gains_F, kind="stable")[: min(MOST_SHORTLIST, size + num_more)])


def learned(history: History, heads_S: Indices, trials: Indices, expected_T: FloatArray) -> PairwiseModel:
    """Return the model of what the values of trials, best first, exceed expected ones by."""
    values_T = history.values_T[trials]
    # What is far below the best matters less, and a sum of pairs explains it less.
    deficit_T = values_T[0] - values_T
    noise_T = 1 + deficit_T / max(1e-12, float(np.median(deficit_T)))
    return PairwiseModel(history.bits_TF[trials][:, heads_S], values_T - expected_T, noise_T, history.sizes_T[trials])
