"""Search on a pairwise model of all trials: what it thinks best, what samples of it think best, and what teaches it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headmask.mask import BoolArray, HeadMask
from strategies.base import MaskSampler
from strategies.breeding import seeds
from strategies.history import History, apart, smallest
from strategies.model import PairwiseModel
from strategies.tabu import tabu_search

# T trials, F free heads, S shortlisted heads, R functions, V masks visited

Indices = NDArray[np.int64]

MOST_TRIALS = 1000
"""Trials that the model is fitted to: half of them the best ones, half spread over the rest."""
HEADS_PER_SIZE, LEAST_SHORTLIST, TRIALS_PER_HEAD = 2.8, 24, 40
"""Heads on the shortlist for every head of a good mask, at least, and trials for which there is one more."""
GREEDY, EXPLORED = 0.25, 0.25
"""Parts of a block that the model's mean proposes, and that vary good masks at random; samples propose the rest."""
STEPS, STARTS = 80, 4
CANDIDATES = 100
"""Best visited masks of a function that are considered."""
APART = 3
"""Heads in which the mean's proposals differ from good masks and from each other."""
FAR = 0.25
"""Part of the random variations that flip 4 to 12 heads; the others swap up to 5."""


class PairwiseSampler(MaskSampler):
    """Fits a pairwise additive model to all trials, and proposes its optima.

    A part of each block are optima of the model's mean, a part are optima of samples from its posterior (Thompson
    sampling, Russo et al. 2018), and a part are random variations, which teach it most.
    """

    label = "pairwise"

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return the scan's best heads together first, then what the model proposes."""
        masks = history.new(seeds(history), count)
        if len(masks) == count or len(history.ranked) < 2 or not np.isfinite(history.scan_gains_F).any():
            return masks
        heads_S, trials = shortlist(history), fitted_trials(history)
        num_greedy, num_explored = (int(part * (count - len(masks))) for part in (GREEDY, EXPLORED))
        num_sampled = count - len(masks) - num_greedy - num_explored
        gains_S = np.nan_to_num(history.scan_gains_F)[heads_S]
        functions = learned(history, heads_S, trials).functions(num_sampled, rng, gains_S)
        starts_BS = history.bits_TF[trials[:STARTS]][:, heads_S]
        visited_RVS, values_RV = tabu_search(functions, starts_BS, STEPS, history.most_heads, rng)
        best_RVS = np.take_along_axis(visited_RVS, np.argsort(-values_RV, kind="stable")[:, :CANDIDATES, None], 1)
        good_VS = history.bits_TF[trials[:200]][:, heads_S]
        greedy_VS = best_RVS[0, apart(best_RVS[0], APART, good_VS, num_greedy)]
        masks += history.new(history.widened(greedy_VS, heads_S), num_greedy)
        for best_VS in best_RVS[1:]:
            masks += history.new(history.widened(best_VS, heads_S), 1)
        varied_VS = _varied(np.vstack([best_RVS[0, :16], starts_BS]), 4 * num_explored, rng)
        return masks + history.new(history.widened(varied_VS, heads_S), count - len(masks))


def shortlist(history: History) -> Indices:
    """Return the heads (S) that the scan favours: the more, the larger good masks are and the more is known."""
    num_more = (len(history.values_T) - len(history.free_heads)) // TRIALS_PER_HEAD
    size = max(LEAST_SHORTLIST, int(HEADS_PER_SIZE * np.median(history.sizes_T[history.ranked[:16]])))
    return np.sort(history.promising[: size + num_more])


def fitted_trials(history: History) -> Indices:
    """Return the trials that a model is fitted to, best first."""
    if len(history.ranked) <= MOST_TRIALS:
        return history.ranked
    half = MOST_TRIALS // 2
    return history.ranked[np.r_[:half, np.linspace(half, len(history.ranked) - 1, half).astype(int)]]


def learned(history: History, heads_S: Indices, trials: Indices) -> PairwiseModel:
    """Return the model of what trials, best first, exceed the sum of the scan's gains by."""
    bits_TF, values_T = history.bits_TF[trials], history.values_T[trials]
    expected_T = history.baseline + bits_TF @ np.nan_to_num(history.scan_gains_F)
    # What is far below the best matters less, and a sum of pairs explains it less.
    deficit_T = values_T[0] - values_T
    noise_T = 1 + deficit_T / max(1e-12, float(np.median(deficit_T)))
    return PairwiseModel(bits_TF[:, heads_S], values_T - expected_T, noise_T, history.sizes_T[trials])


def _varied(good_VS: BoolArray, count: int, rng: np.random.Generator) -> BoolArray:
    """Return random variations (count, S) of good masks: some heads swapped, or more of them flipped."""
    bits_RS = good_VS[rng.integers(len(good_VS), size=count)]
    key_RS = rng.random(bits_RS.shape)
    drops_RS, adds_RS = (
        smallest(np.where(side_RS, key_RS, 2), rng.integers(1, 6, size=(count, 1))) for side_RS in (bits_RS, ~bits_RS)
    )
    flips_RS = smallest(rng.random(bits_RS.shape), rng.integers(4, 13, size=(count, 1)))
    swapped_RS = (bits_RS & ~drops_RS) | (~bits_RS & adds_RS)
    return np.where(rng.random((count, 1)) < FAR, bits_RS ^ flips_RS, swapped_RS)
