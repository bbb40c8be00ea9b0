"""Search on a pairwise model of all trials: optima of the model and of samples from it, and masks that improve it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headmask.mask import BoolArray, HeadMask
from strategies.base import MaskSampler
from strategies.breeding import seeds
from strategies.flips import flipped, flipped_together
from strategies.history import History, apart, smallest
from strategies.learning import Company, Indices, Lesson, company_of, num_fitted, scale_hopes, shortlist
from strategies.model import PairwiseModel
from strategies.tabu import tabu_search

# T trials, F free heads, S shortlisted heads, R functions, V masks visited

PROBED, PROBED_SCALED = 0.6, 0.1
"""Part of a block that adds heads to the best mask whose company is unknown, without and with trained scales."""
GROUP = 8
"""Heads of which nothing is known that are added at a time."""
OPTIMISM = 2.0
"""Standard deviations by which a head may exceed the estimate of what it gains in company."""
RUINED = 4.0
"""Without trained scales, the model is not told of masks that are this many times as far below the best one as is
typical: from what too many ablated heads cost, it would conclude that pairs may cost as much.
"""
GREEDY, NEAR, NEAR_SCALED, EXPLORED = 0.35, 0.1, 0.5, 0.1
"""Parts of the rest: optima of the model's mean, the best mask with heads flipped, random variations of good masks;
samples propose the others.
"""
MANY, TOGETHER = 32, 0.5
"""Masks from which on this part of these flips several heads, each of which gained there alone: a narrow search puts
them together one after the other.
"""
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
    sampling, Russo et al. 2018), part are the best mask with one head flipped or with several that gained there one by
    one, and part are random variations. The model covers a shortlist of heads; the others are probed, in groups, as
    additions to the best mask, and those that change something there join the list.
    """

    label = "pairwise"
    revision = 8
    _learned: _Learned | None = None
    """What the results of the last block taught: a cache, which decides nothing."""
    _lessons: tuple[Lesson, ...] = ()
    """What first results taught; likewise."""

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return the most promising heads together first, then what the model proposes.

        Where scales are trained, the heads below thresholds have been proposed before.
        """
        masks = [] if history.scales_F is not None else history.take(seeds(history), count)
        if len(masks) == count or len(history.ranked) < 2 or not history.is_usable_F.any():
            return masks
        known = self._learned_from(history)
        num_probes = int((PROBED if history.scales_F is None else PROBED_SCALED) * (count - len(masks)))
        masks += history.take(_probes(history, known.company), num_probes)
        return masks + _modelled(count - len(masks), known, rng)

    def _learned_from(self, history: History) -> _Learned:
        """Return what the results of a block teach; a mixture may ask for masks of one block twice."""
        if self._learned is None or self._learned.history is not history:
            lesson = self._lesson(history)
            self._learned = _Learned(history, company_of(history), lesson.heads_S, lesson.model(history))
        return self._learned

    def _lesson(self, history: History) -> Lesson:
        """Return what the first results teach: up to the best one at least, if that has a head which is not listed."""
        lessons = [self._lesson_of(history, num_fitted(history))]
        best = int(history.ranked[0])
        if not np.isin(np.flatnonzero(history.bits_TF[best]), lessons[0].heads_S).all():
            lessons.append(self._lesson_of(history, max(best + 1, lessons[0].num_results)))
        self._lessons = tuple(lessons)
        return lessons[-1]

    def _lesson_of(self, history: History, count: int) -> Lesson:
        """Return what so many results teach, or all if these are too few."""
        first = history.first(count)
        if len(first.ranked) < 2:
            first = history
        known = (lesson for lesson in self._lessons if lesson.num_results == len(first.values_T))
        return next(known, None) or _lesson(first)


@dataclass(frozen=True)
class _Learned:
    """What the results that a block is proposed from teach."""

    history: History
    company: Company
    heads_S: Indices
    """The shortlist."""
    model: PairwiseModel


def _lesson(history: History) -> Lesson:
    """Return what results teach about a shortlist of heads, beyond the gains of single heads."""
    company = company_of(history)
    heads_S = shortlist(history, company)
    gains_F = np.nan_to_num(history.scan_gains_F)
    expected_F = gains_F + company.gains_F
    expected_F[heads_S] = gains_F[heads_S]
    baseline = np.nan_to_num(history.baseline)
    worst = RUINED if history.scales_F is None else np.inf
    return Lesson(history, heads_S, lambda bits_TF: baseline + np.where(bits_TF, expected_F, 0).sum(1), worst=worst)


def _probes(history: History, company: Company) -> BoolArray:
    """Return the best mask with heads added (R, F) whose company is unknown or in doubt, and that may gain there.

    Heads that were never added come in groups, because most change nothing in company. A group that changed something
    is split: one half of it says what the other one did. Where no scales were trained, those that are not expected to
    gain come last, once each: one of them may still pay in company.
    """
    best_F = history.bits_TF[history.ranked[0]]
    gains_F = np.nan_to_num(history.scan_gains_F) + scale_hopes(history, company)
    may_gain_F = gains_F + company.gains_F + OPTIMISM * company.doubts_F > 0
    others_F = ~best_F & ~history.failed_F
    doubtful_F = may_gain_F & others_F & company.is_added_F & ~company.is_single_F & ~company.is_silent_F
    groups = []
    members_PF = history.additions[0][(history.additions[0] & doubtful_F).any(1)]
    for members_F in members_PF[np.argsort(members_PF.sum(1), kind="stable")]:
        if doubtful := np.flatnonzero(members_F & doubtful_F).tolist():
            groups.append(doubtful[: (len(doubtful) + 1) // 2])
            doubtful_F &= ~members_F
    order = np.argsort(-gains_F, kind="stable")
    kinds = [may_gain_F, ~may_gain_F] if history.scales_F is None else [may_gain_F]
    for kind_F in kinds:
        fresh = order[(kind_F & others_F & ~company.is_added_F)[order]]
        groups += [fresh[start : start + GROUP].tolist() for start in range(0, len(fresh), GROUP)]
    added_RF: BoolArray = best_F | history.rows(groups)
    return added_RF


def _modelled(count: int, known: _Learned, rng: np.random.Generator) -> list[HeadMask]:
    """Return masks over the shortlist that a model of trials proposes, or that improve it."""
    history, heads_S = known.history, known.heads_S
    near = NEAR if history.scales_F is None else NEAR_SCALED
    num_greedy, num_near, num_explored = int(GREEDY * count), int(near * count), int(EXPLORED * count)
    num_sampled = count - num_greedy - num_near - num_explored
    starts_BS = history.bits_TF[history.ranked[:STARTS]][:, heads_S]
    functions = known.model.functions(num_sampled, rng, np.nan_to_num(history.scan_gains_F)[heads_S])
    visited_RVS, values_RV = tabu_search(functions, starts_BS, STEPS, history.max_heads, rng)
    best_RVS = np.take_along_axis(visited_RVS, np.argsort(-values_RV, kind="stable")[:, :CANDIDATES, None], 1)
    good_VS = history.bits_TF[history.ranked[:200]][:, heads_S]
    greedy_VS = best_RVS[0, apart(best_RVS[0], APART, good_VS, num_greedy)]
    masks = history.take(history.widened(greedy_VS, heads_S), num_greedy)
    num_flips, flips = num_near, []
    if count >= MANY:
        # The mean has few optima that are apart from good masks; the places of the others are for flips, too.
        num_flips += num_greedy - len(masks)
        flips = history.take(flipped_together(history, num_near, rng), int(TOGETHER * num_near))
    hopes_S = scale_hopes(history, known.company)[heads_S]
    masks += flips + history.take(flipped(history, functions, heads_S, hopes_S), num_flips - len(flips))
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
