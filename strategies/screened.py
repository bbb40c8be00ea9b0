"""A genetic search among predicted values: many masks are bred, few are proposed to be scored exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from headmask.mask import BoolArray, HeadMask
from strategies.base import Screen
from strategies.breeding import NUM_PARENTS, bred, seeds
from strategies.history import FloatArray, History, apart

# T trials, P population, R children, F free heads

GENERATIONS, BROOD = 10, 96
APART = 2
"""Heads in which proposals of a block differ."""
LEAST_TRUST, NUM_TRUSTED = 0.25, 16
"""Smallest part of a block that is screened, and results from which on the part follows the rank correlation."""
NUM_COMPARED = 96
"""Best results that predictions are compared with."""


class ScreenedSearch:
    """Predicts by a screen, corrected by what exact results have shown; remembers predictions, which never change."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._known: dict[tuple[int, ...], float] = {}

    def propose(self, history: History, rng: np.random.Generator) -> BoolArray:
        """Return masks (P, F) by predicted value, best first; those too much like a better one come last."""
        parents_PF = history.bits_TF[history.ranked[:NUM_PARENTS]]
        population_PF = np.unique(np.vstack([parents_PF, seeds(history)]), axis=0)
        slope = self._slope(history)
        values_P = self._predicted(population_PF, history, slope)
        for _ in range(GENERATIONS):
            order = np.argsort(-values_P, kind="stable")
            children_RF = bred(population_PF[order[:NUM_PARENTS]], BROOD, history, rng)
            population_PF = np.unique(np.vstack([population_PF, children_RF]), axis=0)
            values_P = self._predicted(population_PF, history, slope)
        return _diverse(population_PF[np.argsort(-values_P, kind="stable")])

    def trust(self, history: History) -> float:
        """Return the part of a block that predictions deserve, by how well they order the best results."""
        rows = self._compared(history)
        if len(rows) < NUM_TRUSTED:
            return 1.0
        predicted_T, values_T = self.predict(history.bits_TF[rows], history), history.values_T[rows]
        finite_T = np.isfinite(predicted_T)
        if min(len(np.unique(side[finite_T])) for side in (predicted_T, values_T)) < 2:
            return LEAST_TRUST
        return float(np.clip(spearmanr(predicted_T[finite_T], values_T[finite_T]).statistic, LEAST_TRUST, 1.0))

    def predict(self, bits_RF: BoolArray, history: History) -> FloatArray:
        """Return the predictions (R) of the screen."""
        words = history.words(bits_RF)
        unknown = sorted({word for word in words if word not in self._known})
        values = self._screen([HeadMask(history.grid, word) for word in unknown]) if unknown else ()
        self._known.update(zip(unknown, map(float, values), strict=True))
        return np.array([self._known[word] for word in words])

    def _predicted(self, bits_RF: BoolArray, history: History, slope: float) -> FloatArray:
        predicted_R = self.predict(bits_RF, history) + slope * bits_RF.sum(1)
        return np.where(np.isnan(predicted_R), -np.inf, predicted_R)

    def _slope(self, history: History) -> float:
        """Return how much more than predicted each further head of a mask is worth, by the best results."""
        rows = self._compared(history)
        if len(rows) < NUM_TRUSTED:
            return 0.0
        excess_T = history.values_T[rows] - self.predict(history.bits_TF[rows], history)
        finite_T, sizes_T = np.isfinite(excess_T), history.sizes_T[rows]
        return float((excess_T * sizes_T)[finite_T].sum() / max(1, (sizes_T**2)[finite_T].sum()))

    def _compared(self, history: History) -> NDArray[np.int64]:
        return history.ranked[history.sizes_T[history.ranked] > 1][:NUM_COMPARED]


def _diverse(sorted_PF: BoolArray) -> BoolArray:
    """Return masks in their order, but for those that differ in too few heads from an earlier one, which come last."""
    first = apart(sorted_PF, APART)
    return sorted_PF[[*first, *sorted(set(range(len(sorted_PF))) - set(first))]]
