"""A genetic search among predicted values: many masks are bred, and few are proposed for exact scoring."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from headmask.mask import BoolArray, HeadMask
from strategies.base import Screen
from strategies.breeding import NUM_PARENTS, bred, seeds
from strategies.history import FloatArray, History, apart
from strategies.learning import Lesson, company_of, fitted_trials, num_fitted, shortlist
from strategies.model import BEYOND

# T trials, P population, R children, F free heads

GENERATIONS, BROOD = 10, 96
APART = 2
"""Minimum number of heads in which proposals of a block differ."""
MIN_TRUST, NUM_TRUSTED = 0.25, 16
"""Smallest part of a block that is screened, and number of exact results needed to correct and limit predictions."""
NUM_WRONG = 4
"""Heads whose mispredictions are always learned, beside those of the shortlist."""
NUM_COMPARED = 96
"""Number of best results that predictions are compared with."""


class ScreenedSearch:
    """Predicts with a screen, corrected by exact results; it caches the screen's predictions, which never change."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._known: dict[tuple[int, ...], float] = {}
        self._lesson: Lesson | None = None
        """What the first results taught about errors of predictions: a cache, which decides nothing."""

    def propose(self, history: History, rng: np.random.Generator) -> BoolArray:
        """Return masks (P, F) by predicted value, best first; those too similar to a better one come last.

        Masks without a usable prediction are left out.
        """
        parents_PF = history.bits_TF[history.ranked[:NUM_PARENTS]]
        population_PF = np.unique(np.vstack([parents_PF, seeds(history)]), axis=0)
        predicted = self._corrected(history)
        values_P = predicted(population_PF)
        for _ in range(GENERATIONS):
            order = np.argsort(-values_P, kind="stable")
            children_RF = bred(population_PF[order[:NUM_PARENTS]], BROOD, history, rng)
            population_PF = np.unique(np.vstack([population_PF, children_RF]), axis=0)
            values_P = predicted(population_PF)
        order = np.argsort(-values_P, kind="stable")
        return _diverse(population_PF[order[np.isfinite(values_P[order])]])

    def trust(self, history: History) -> float:
        """Return the part of a block that predictions deserve, by how well they order the best results."""
        rows = _compared(history)
        if len(rows) < NUM_TRUSTED:
            return 1.0
        predicted_T, values_T = self.predict(history.bits_TF[rows], history), history.values_T[rows]
        finite_T = np.isfinite(predicted_T)
        if min(len(np.unique(side[finite_T])) for side in (predicted_T, values_T)) < 2:
            return MIN_TRUST
        from scipy.stats import spearmanr  # The import takes a second, which readers of results are spared.

        return float(np.clip(spearmanr(predicted_T[finite_T], values_T[finite_T]).statistic, MIN_TRUST, 1.0))

    def predict(self, bits_RF: BoolArray, history: History) -> FloatArray:
        """Return the predictions (R) of the screen."""
        words = history.words(bits_RF)
        unknown = sorted({word for word in words if word not in self._known})
        values = self._screen([HeadMask(history.grid, word) for word in unknown]) if unknown else ()
        self._known.update(zip(unknown, map(float, values), strict=True))
        return np.array([self._known[word] for word in words])

    def _corrected(self, history: History) -> Callable[[BoolArray], FloatArray]:
        """Return predictions plus a pairwise model's estimate of how far exact values exceed them.

        Masks much larger than the best ones get no value: sums of displacements cannot be trusted there.
        """
        compared = _compared(history)
        if len(compared) < NUM_TRUSTED or (lesson := self._lesson_of(history)) is None:
            return lambda bits_RF: np.nan_to_num(self.predict(bits_RF, history), nan=-np.inf)
        heads_S, functions = lesson.heads_S, lesson.model(history).mean_function()
        largest = history.sizes_T[compared].max() + BEYOND

        def corrected(bits_RF: BoolArray) -> FloatArray:
            sizes_R = bits_RF.sum(1)
            values_R = self.predict(bits_RF, history) + functions.values(bits_RF[:, heads_S], sizes_R)[0]
            return np.where(np.isnan(values_R) | (sizes_R > largest), -np.inf, values_R)

        return corrected

    def _lesson_of(self, history: History) -> Lesson | None:
        """Return what the first results teach about errors of predictions; None if they are too few."""
        count = num_fitted(history)
        if self._lesson is None or self._lesson.num_results != count:
            first = history.first(count)
            trials = fitted_trials(first)
            errors_T = first.values_T[trials] - self.predict(first.bits_TF[trials], first)
            trials, errors_T = trials[np.isfinite(errors_T)], errors_T[np.isfinite(errors_T)]
            if len(trials) < NUM_TRUSTED:
                return None
            wrong = _mispredicted(first.bits_TF[trials], errors_T)
            heads_S = np.union1d(shortlist(first, company_of(first), for_pairs=False), wrong)
            self._lesson = Lesson(first, heads_S, lambda bits_TF: self.predict(bits_TF, first))
        return self._lesson


def _mispredicted(bits_TF: BoolArray, errors_T: FloatArray) -> NDArray[np.int64]:
    """Return the heads with which predictions err most, in standard errors of their mean error."""
    total_F = bits_TF.T @ (errors_T - errors_T.mean())
    return np.argsort(-np.abs(total_F) / np.sqrt(np.maximum(1, bits_TF.sum(0))), kind="stable")[:NUM_WRONG]


def _compared(history: History) -> NDArray[np.int64]:
    """Return the best results of more than one head, best first."""
    return history.ranked[history.sizes_T[history.ranked] > 1][:NUM_COMPARED]


def _diverse(sorted_PF: BoolArray) -> BoolArray:
    """Return masks in their order, except that those too similar to an earlier one come last."""
    first = apart(sorted_PF, APART)
    return sorted_PF[[*first, *sorted(set(range(len(sorted_PF))) - set(first))]]
