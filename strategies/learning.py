"""What trials teach a pairwise model: the trials and heads that it is fitted to, and the values to explain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dtrtri

from headmask.mask import BoolArray
from strategies.history import FloatArray, History
from strategies.model import ITERATIONS, SHAPE, PairwiseModel, best_and_others

# T trials, F free heads, S shortlisted heads, P changes by added heads

Indices = NDArray[np.int64]

MAX_TRIALS = 1000
"""Trials that a model is fitted to: half of them the best ones, half spread over the rest."""
GROWTH = 1.1
"""Growth of the number of results after which a model is fitted again; meanwhile it is given what comes in."""
HEADS_PER_SIZE, TRIALS_PER_HEAD = 2.8, 40
"""Heads on the shortlist per head of a good mask, and trials per additional head."""
MIN_SHORTLIST, MAX_SHORTLIST = 24, 96
MIN_ADDITIONS = 3
"""Minimum number of changes of one kind for their median to count as the effect of the size."""
SILENT = 0.05
"""A head is silent if it changes values in company by less than this part of what heads change on average."""
LOST = 0.5
"""Loss alone, in units of what heads change in company, beyond which a silent head is left out of models."""
NOISE = 0.01
"""Standard deviation of what sums of effects leave unexplained, as part of that of an effect."""
JITTER = 1e-9
"""The least of that, as part of the largest variance of a sum."""
HOPE = 2.0
"""What a scale of 0 promises, in units of what heads change in company."""


def fitted_trials(history: History) -> Indices:
    """Return the trials that a model is fitted to, best first."""
    return history.ranked[best_and_others(len(history.ranked), MAX_TRIALS)]


def num_fitted(history: History) -> int:
    """Return how many of the results a model is fitted to, the first ones: a tenth more of several heads each time."""
    several = np.flatnonzero(history.sizes_T > 1)
    if not len(several):
        return len(history.values_T)
    power = math.floor(math.log(len(several)) / math.log(GROWTH))
    return int(several[min(len(several), math.ceil(GROWTH**power)) - 1]) + 1


@dataclass(frozen=True)
class Company:
    """What adding heads to masks changes beyond their gains alone."""

    gains_F: FloatArray
    """The most that a head gained; an estimate if it was only added with others, 0 if it was never added."""
    doubts_F: FloatArray
    """Standard deviations of these."""
    effects_F: FloatArray
    """The largest change of either sign: a head without any interacts with no head of good masks."""
    is_added_F: BoolArray
    """Whether a head was ever added, alone or with others."""
    is_single_F: BoolArray
    """Whether a head was ever added alone."""
    scale: float
    """Root mean square of the changes; before any, the spread of the gains alone."""

    @property
    def is_silent_F(self) -> BoolArray:
        """Whether a head is known to change hardly anything in company."""
        silent_F: BoolArray = self.is_added_F & (np.maximum(self.effects_F, self.doubts_F) < SILENT * self.scale)
        return silent_F


@dataclass(frozen=True)
class _Changes:
    """Changes by added heads (P), beyond the sum of what these change alone."""

    heads_PF: BoolArray
    excess_P: FloatArray
    is_alone_P: BoolArray
    """Whether one head was added."""
    is_sized_P: BoolArray
    """Whether the effect of the size is known, and removed."""


def company_of(history: History) -> Company:
    """Return what heads change when they are added to masks of at least two heads.

    The change that any head causes by making a mask larger is removed: the median of all additions of as many heads to
    masks of one size, if there are enough of them. Changes by several heads at once are shared out by sparse
    regression: most heads change little.
    """
    changes = _changes(history)
    scale = _scale(changes, np.nan_to_num(history.scan_gains_F))
    num = changes.heads_PF.shape[1]
    head_P = changes.heads_PF.argmax(1)
    most_F, effects_F = np.full(num, -np.inf), np.zeros(num)
    np.maximum.at(most_F, head_P[changes.is_alone_P], changes.excess_P[changes.is_alone_P])
    measured = changes.is_alone_P & changes.is_sized_P
    np.maximum.at(effects_F, head_P[measured], np.abs(changes.excess_P[measured]))
    single_F = np.isfinite(most_F)
    others_PF = changes.heads_PF & ~single_F
    rest_P = changes.excess_P - changes.heads_PF @ np.where(single_F, most_F, 0)
    shared = np.flatnonzero(others_PF.any(1))
    mean_F, doubts_F = sparse_effects(others_PF[shared], rest_P[shared], scale)
    return Company(
        gains_F=np.where(single_F, most_F, mean_F),
        doubts_F=np.where(single_F, 0, doubts_F),
        effects_F=np.where(single_F, effects_F, np.abs(mean_F)),
        is_added_F=np.logical_or.reduce(changes.heads_PF, axis=0),
        is_single_F=single_F,
        scale=scale,
    )


def _changes(history: History) -> _Changes:
    """Return the changes by added heads; those of several heads only where the effect of the size is known."""
    heads_PF, change_P, sizes_P = history.additions
    excess_P = change_P - heads_PF @ np.nan_to_num(history.scan_gains_F)
    excess_P, is_sized_P = _without_size(excess_P, heads_PF.sum(1), sizes_P)
    is_alone_P = heads_PF.sum(1) == 1
    kept = np.flatnonzero(is_sized_P | is_alone_P)
    return _Changes(heads_PF[kept], excess_P[kept], is_alone_P[kept], is_sized_P[kept])


def _scale(changes: _Changes, gains_F: FloatArray) -> float:
    """Return the root mean square of changes, by single heads if possible; without any, the spread of gains."""
    measured = changes.is_sized_P & changes.is_alone_P
    measured = measured if measured.any() else changes.is_sized_P
    spread = np.sqrt(np.mean(changes.excess_P[measured] ** 2)) if measured.any() else np.std(gains_F)
    return max(1e-9, float(spread))


def _without_size(excess_P: FloatArray, added_P: Indices, sizes_P: Indices) -> tuple[FloatArray, BoolArray]:
    """Return changes less the median of all by as many heads at the same size, and where there are enough for that."""
    kind_P = added_P * (sizes_P.max(initial=0) + 1) + sizes_P
    is_sized_P = np.zeros(len(kind_P), dtype=np.bool_)
    for kind in np.unique(kind_P):
        of_kind = kind_P == kind
        if of_kind.sum() >= MIN_ADDITIONS:
            excess_P = np.where(of_kind, excess_P - np.median(excess_P[of_kind]), excess_P)
            is_sized_P |= of_kind
    return excess_P, is_sized_P


def sparse_effects(bits_PF: BoolArray, sums_P: FloatArray, scale: float) -> tuple[FloatArray, FloatArray]:
    """Return the means (F) and standard deviations (F) of effects, of which sums are known; most are near zero.

    The prior is that of `strategies.model`.

    Args:
        bits_PF: which effects each sum has.
        sums_P: the sums.
        scale: standard deviation of an effect before any sum is known.
    """
    floats_PF = bits_PF.astype(np.float64)
    variance_F = np.full(bits_PF.shape[1], scale**2)
    mean_F, left_F = np.zeros(bits_PF.shape[1]), variance_F
    used = np.flatnonzero(bits_PF.any(0))
    if not len(used):
        return mean_F, np.sqrt(left_F)
    products_UU, sum_U = dsyrk(1.0, floats_PF[:, used], trans=1, lower=1), floats_PF[:, used].T @ sums_P
    for _ in range(ITERATIONS):
        # The second term keeps it well conditioned where effects are far larger than the scale.
        noise = (NOISE * scale) ** 2 + JITTER * float((floats_PF @ variance_F).max())
        spread_U = np.sqrt(variance_F[used] / noise)
        precision_UU = spread_U[:, None] * products_UU * spread_U
        precision_UU[np.diag_indices_from(precision_UU)] += 1
        half_UU = np.tril(dtrtri(cholesky(precision_UU, lower=True, check_finite=False), lower=1)[0])
        mean_F[used] = spread_U * (half_UU.T @ (half_UU @ (spread_U * sum_U)))
        left_F = variance_F.copy()
        left_F[used] *= np.einsum("uv,uv->v", half_UU, half_UU)
        second_F = mean_F**2 + left_F
        variance_F = (second_F + 2 * SHAPE * second_F.mean()) / (1 + 2 * SHAPE)
    return mean_F, np.sqrt(left_F)


def shortlist(history: History, company: Company, *, for_pairs: bool = True) -> Indices:
    """Return the heads (S) of the best mask and those that may gain most, alone or in company, or whose scale fell.

    The list grows with the size of good masks and the number of trials, up to a length at which a model of its pairs
    can still be fitted quickly. If pairs are what the model is for, heads that interact with others are preferred, and
    those that lose something alone and interact with none are left out.
    """
    num_more = max(0, len(history.values_T) - len(history.free_heads)) // TRIALS_PER_HEAD
    size = max(MIN_SHORTLIST, int(HEADS_PER_SIZE * np.median(history.sizes_T[history.ranked[:16]])))
    gains_F = np.nan_to_num(history.scan_gains_F)
    hopes_F = gains_F + np.maximum(0, company.gains_F) + scale_hopes(history, company)
    if for_pairs:
        hopes_F += company.effects_F
        hopes_F[company.is_silent_F & (gains_F < -LOST * company.scale)] = -np.inf
    hopes_F[history.failed_F] = -np.inf
    hopes_F[history.bits_TF[history.ranked[0]]] = np.inf
    order = np.argsort(-hopes_F, kind="stable")[: min(MAX_SHORTLIST, size + num_more)]
    return np.sort(order[hopes_F[order] > -np.inf])


def scale_hopes(history: History, company: Company) -> FloatArray:
    """Return what the trained scales promise of each head (F), in units of value; zeros without scales."""
    if history.scales_F is None:
        return np.zeros(len(history.free_heads))
    return HOPE * company.scale * (0.5 - history.scales_F)


class Lesson:
    """What a study's first results teach about values, beyond what is expected of them: later results are added.

    Args:
        history: the first results.
        heads_S: the shortlist that the model is over.
        expected: returns expected values (R) of masks (R, F); results without one teach nothing.
        worst: results so many times as far below the best one as is typical teach nothing either.
    """

    def __init__(
        self,
        history: History,
        heads_S: Indices,
        expected: Callable[[BoolArray], FloatArray],
        *,
        worst: float = math.inf,
    ) -> None:
        self.heads_S, self._expected, self._worst = heads_S, expected, worst
        self.num_results = len(history.values_T)
        self._best = float(history.values_T[history.ranked[0]])
        deficits_T = self._best - history.values_T[fitted_trials(history)]
        # Where most values are equal, worse ones that come later still teach something.
        self._typical = float(np.median(deficits_T[deficits_T > 0])) if deficits_T.any() else 1.0
        self._model = PairwiseModel(*self._taught(history, fitted_trials(history)))

    def model(self, history: History) -> PairwiseModel:
        """Return the model given all results."""
        return self._model.updated(*self._taught(history, np.sort(history.ranked[history.ranked >= self.num_results])))

    def _taught(self, history: History, trials: Indices) -> tuple[BoolArray, FloatArray, FloatArray, NDArray[np.int64]]:
        """Return what a model is told of trials."""
        rest_T = history.values_T[trials] - self._expected(history.bits_TF[trials])
        deficits_T = np.maximum(0, self._best - history.values_T[trials]) / self._typical
        kept_T = np.isfinite(rest_T) & (deficits_T < self._worst)
        trials = trials[kept_T]
        # Values far below the best matter less, and a sum of pairs explains them less well.
        noise_T = 1 + deficits_T[kept_T]
        return history.bits_TF[trials][:, self.heads_S], rest_T[kept_T], noise_T, history.sizes_T[trials]
