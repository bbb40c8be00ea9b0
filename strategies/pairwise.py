"""Search on a pairwise model of all trials: optima of the model and of samples from it, and masks that improve it."""

from __future__ import annotations

import numpy as np

from headmask.mask import BoolArray, HeadMask
from strategies.base import MaskSampler
from strategies.breeding import seeds
from strategies.history import FloatArray, History, apart, smallest
from strategies.learning import Indices, company_gains, fitted_trials, learned, shortlist
from strategies.tabu import tabu_search

# T trials, F free heads, S shortlisted heads, R functions, V masks visited

PROBED = 0.3
"""Part of a block that adds heads unknown to the model to the best mask."""
GREEDY, EXPLORED = 0.4, 0.1
"""Parts of the rest proposed by the model's mean and by random variation of good masks; samples propose the others."""
STEPS, STARTS = 80, 4
CANDIDATES = 100
"""Number of the best visited masks of a function that are considered."""
APART = 3
"""Minimum number of heads in which the mean's proposals differ from good masks and from each other."""
FAR = 0.25
"""Part of the random variations that flip 4 to 12 heads; the others swap up to 5."""


class PairwiseSampler(MaskSampler):
    """Fits a pairwise additive model to all trials, and proposes its optima.

    Part of each block are optima of the model's mean, part are optima of samples from its posterior (Thompson
    sampling, Russo et al. 2018), and part are random variations. The model covers a shortlist of heads; the others
    are probed, one after the other, as additions to the best mask, and those that gain there join the list.
    """

    label = "pairwise"

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return the scan's best heads together first, then what the model proposes."""
        masks = history.take(seeds(history), count)
        if len(masks) == count or len(history.ranked) < 2 or not np.isfinite(history.scan_gains_F).any():
            return masks
        trials = fitted_trials(history)
        company_gains_F = company_gains(history)
        heads_S = shortlist(history, company_gains_F)
        probes_RF = _probes(history, company_gains_F, heads_S)
        masks += history.take(probes_RF, int(PROBED * (count - len(masks))))
        return masks + _modelled(count - len(masks), history, trials, heads_S, rng)


def _probes(history: History, company_gains_F: FloatArray, heads_S: Indices) -> BoolArray:
    """Return the best mask with one head added (R, F), for heads not on the shortlist that were never in company.

    Heads with the highest scan gains come first; heads that failed alone are left out.
    """
    best_F = history.bits_TF[history.ranked[0]]
    known_F = best_F | np.isfinite(company_gains_F) | ~np.isfinite(history.scan_gains_F)
    known_F[heads_S] = True
    probes_RF: BoolArray = best_F | history.rows([head] for head in history.promising.tolist() if not known_F[head])
    return probes_RF


def _modelled(
    count: int, history: History, trials: Indices, heads_S: Indices, rng: np.random.Generator
) -> list[HeadMask]:
    """Return masks over the shortlist that a model of trials proposes, or that improve it."""
    num_greedy, num_explored = int(GREEDY * count), int(EXPLORED * count)
    num_sampled = count - num_greedy - num_explored
    gains_F = np.nan_to_num(history.scan_gains_F)
    expected_T = history.baseline + np.where(history.bits_TF[trials], gains_F, 0).sum(1)
    model = learned(history, heads_S, trials, expected_T)
    starts_BS = history.bits_TF[trials[:STARTS]][:, heads_S]
    functions = model.functions(num_sampled, rng, gains_F[heads_S])
    visited_RVS, values_RV = tabu_search(functions, starts_BS, STEPS, history.max_heads, rng)
    best_RVS = np.take_along_axis(visited_RVS, np.argsort(-values_RV, kind="stable")[:, :CANDIDATES, None], 1)
    good_VS = history.bits_TF[trials[:200]][:, heads_S]
    greedy_VS = best_RVS[0, apart(best_RVS[0], APART, good_VS, num_greedy)]
    masks = history.take(history.widened(greedy_VS, heads_S), num_greedy)
    for best_VS in best_RVS[1:]:
        masks += history.take(history.widened(best_VS, heads_S), 1)
    varied_VS = _varied(np.vstack([best_RVS[0, :16], starts_BS]), 4 * max(1, num_explored), rng)
    return masks + history.take(history.widened(varied_VS, heads_S), count - len(masks))


def _varied(good_VS: BoolArray, count: int, rng: np.random.Generator) -> BoolArray:
    """Return random variations (count, S) of good masks: a few heads swapped, or more of them flipped."""
    bits_RS = good_VS[rng.integers(len(good_VS), size=count)]
    key_RS = rng.random(bits_RS.shape)
    drops_RS, adds_RS = (
        smallest(np.where(side_RS, key_RS, 2), rng.integers(1, 6, size=(count, 1))) for side_RS in (bits_RS, ~bits_RS)
    )
    flips_RS = smallest(rng.random(bits_RS.shape), rng.integers(4, 13, size=(count, 1)))
    swapped_RS = (bits_RS & ~drops_RS) | (~bits_RS & adds_RS)
    return np.where(rng.random((count, 1)) < FAR, bits_RS ^ flips_RS, swapped_RS)
