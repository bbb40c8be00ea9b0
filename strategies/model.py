"""A pairwise additive model of masks' values, learned from trials.

    value(m) = offset(m) + sum_h u_h m_h + sum_{h<k} w_hk m_h m_k + sum_t c_t max(0, |m| - t)

with m_h = 1 where head h is ablated. Most coefficients are near zero, so each has a Student-t prior: a normal
prior whose variance is learned by expectation maximisation (sparse Bayesian learning, Tipping 2001, with the
inverse-gamma hyperprior kept). The size terms follow the cliff beyond which too many ablated heads ruin a model.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.blas import dsyrk

from headmask.mask import BoolArray
from strategies.history import FloatArray

# T trials, B masks, S shortlisted heads, P pairs, K size knots, C coefficients = S + P + K, N of them seen, R samples

ITERATIONS = 8
SHAPE = 0.02
"""Shape of the inverse-gamma hyperprior: half the Student-t's degrees of freedom. Small values give sparsity."""
NUM_KNOTS = 28
"""Number of sizes, from 1 on, at which the size curve may bend; beyond them it may bend at every fourth size."""
MAX_PAIRS = 600
"""Number of pairs kept after the first iterations."""
MAX_FITTED = 500
"""Trials that variances are learned from: half of them the best ones, half spread over the rest."""
MIN_POWER = 1e-3
"""Features of a kind that no trial has get a prior as if they had this mean square."""
BEYOND = 2
"""A prediction counts for masks at most this many heads larger than those learned from."""
_RESOLUTION = 2.0**-30


@dataclass(frozen=True)
class Functions:
    """One or several (R) quadratic functions of masks over the shortlist."""

    head_RS: FloatArray
    pair_RSS: FloatArray
    """Symmetric, zero on the diagonal."""
    size_RN: FloatArray
    """The contribution of each mask size from 0 on; the last one also holds for larger sizes."""

    def values(self, bits_BS: BoolArray, sizes_B: NDArray[np.int64]) -> FloatArray:
        """Return the values (R, B) of masks; sizes also count heads outside the shortlist."""
        heads_BS = bits_BS.astype(np.float64)
        pairs_RB = 0.5 * np.einsum("rbs,bs->rb", heads_BS @ self.pair_RSS, heads_BS)
        size_RB: FloatArray = self.size_RN[:, sizes_B.clip(0, self.size_RN.shape[1] - 1)]
        values_RB: FloatArray = self.head_RS @ heads_BS.T + pairs_RB + size_RB
        return values_RB


class PairwiseModel:
    """What trials tell about pairs of heads and mask sizes.

    Args:
        bits_TS: masks over the shortlist, best first; True ablates that head.
        rest_T: their values minus the offset.
        noise_T: relative standard deviations of the values; 1 for the best ones.
        sizes_T: number of ablated heads.
    """

    def __init__(self, bits_TS: BoolArray, rest_T: FloatArray, noise_T: FloatArray, sizes_T: NDArray[np.int64]) -> None:
        self._num_heads = bits_TS.shape[1]
        self._first, self._second = np.triu_indices(self._num_heads, 1)
        self._largest = int(sizes_T.max(initial=2))
        self._knots = np.r_[np.arange(1, min(self._largest, NUM_KNOTS)), np.arange(NUM_KNOTS, self._largest, 4)]
        self._group_C = np.repeat(np.arange(3), (self._num_heads, len(self._first), len(self._knots)))
        self._scale = float(np.sqrt(np.mean(rest_T**2))) or 1.0
        fitted = best_and_others(len(rest_T), MAX_FITTED)
        fit = _Fit(self._features(bits_TS[fitted], sizes_T[fitted]), rest_T[fitted] / self._scale, noise_T[fitted])
        kept = fit.run(self._group_C)
        pairs = kept[self._group_C[kept] == 1] - self._num_heads
        self._first, self._second = self._first[pairs], self._second[pairs]
        self._group_C, self._variance_C, self._noise = self._group_C[kept], fit.variance_C, fit.noise
        self._precision_CC, self._pull_C = np.eye(len(kept)), np.zeros(len(kept))
        self._take_in(bits_TS, rest_T, noise_T, sizes_T)

    def updated(
        self, bits_TS: BoolArray, rest_T: FloatArray, noise_T: FloatArray, sizes_T: NDArray[np.int64]
    ) -> PairwiseModel:
        """Return the model given further trials too, exactly, with the variances that it has learned."""
        if not len(rest_T):
            return self
        model = copy.copy(self)
        model._largest = max(self._largest, int(sizes_T.max()))
        model._take_in(bits_TS, rest_T, noise_T, sizes_T)
        return model

    def _take_in(self, bits_TS: BoolArray, rest_T: FloatArray, noise_T: FloatArray, sizes_T: NDArray[np.int64]) -> None:
        """Condition the coefficients on further trials; they are in units of their prior standard deviations."""
        deviation_T = np.sqrt(self._noise) * noise_T
        features_TC = self._features(bits_TS, sizes_T) * np.sqrt(self._variance_C) / deviation_T[:, None]
        self._precision_CC = self._precision_CC + dsyrk(1.0, features_TC.T, lower=1)
        self._pull_C = self._pull_C + features_TC.T @ (rest_T / self._scale / deviation_T)
        self._factor_CC = cholesky(self._precision_CC, lower=True, check_finite=False)
        self._mean_C = cho_solve((self._factor_CC, True), self._pull_C, check_finite=False)

    def _features(self, bits_TS: BoolArray, sizes_T: NDArray[np.int64]) -> FloatArray:
        """Return what the coefficients are multiplied with (T, C)."""
        heads_TS = bits_TS.astype(np.float64)
        pairs_TP = heads_TS[:, self._first] * heads_TS[:, self._second]
        return np.hstack([heads_TS, pairs_TP, self._hinges(sizes_T)])

    def _hinges(self, sizes: NDArray[np.int64]) -> FloatArray:
        hinges: FloatArray = np.maximum(0, sizes[:, None] - self._knots).astype(np.float64)
        return hinges

    def mean_function(self) -> Functions:
        """Return the posterior mean, rounded as `functions` are."""
        return self._as_functions(self._mean_C[None])

    def functions(self, samples: int, rng: np.random.Generator, gains_S: FloatArray) -> Functions:
        """Return the posterior mean, then posterior samples, with the gains of single heads added.

        Coefficients are rounded to multiples of a power of two, so that their sums are exact and a search over
        masks takes the same path on any machine.
        """
        normal_CR = rng.standard_normal((len(self._mean_C), samples))
        around_CR = solve_triangular(self._factor_CC, normal_CR, trans="T", lower=True, check_finite=False)
        return self._as_functions(np.vstack([self._mean_C, self._mean_C + around_CR.T]), gains_S)

    def _as_functions(self, coefficients_RC: FloatArray, gains_S: FloatArray | float = 0.0) -> Functions:
        coefficients_RC = coefficients_RC * np.sqrt(self._variance_C) * self._scale
        coefficients_RC[:, self._group_C == 0] += gains_S
        step = 2.0 ** np.round(np.log2(self._scale)) * _RESOLUTION
        rounded_RC = np.round(coefficients_RC / step) * step
        head_RS, pair_RP, knot_RK = (rounded_RC[:, self._group_C == group] for group in range(3))
        pair_RSS = np.zeros((len(head_RS), self._num_heads, self._num_heads))
        pair_RSS[:, self._first, self._second] = pair_RSS[:, self._second, self._first] = pair_RP
        sizes_N = np.arange(max(self._num_heads, self._largest + BEYOND) + 1)
        return Functions(head_RS, pair_RSS, knot_RK @ self._hinges(sizes_N).T)


class _Fit:
    """Learns the variances of coefficients, and of the noise, by expectation maximisation.

    Args:
        features_TC: what the coefficients are multiplied with.
        rest_T: the values to explain, about 1.
        noise_T: their relative standard deviations.
    """

    variance_C: FloatArray
    noise: float

    def __init__(self, features_TC: FloatArray, rest_T: FloatArray, noise_T: FloatArray) -> None:
        self._rest_T, self._noise_T = rest_T, noise_T**2
        self._seen = np.flatnonzero(features_TC.any(0))
        """The coefficients that trials tell of: many pairs were never ablated together."""
        self._features_TN = features_TC[:, self._seen]

    def run(self, group_C: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which coefficients are kept.

        Args:
            group_C: 0 for heads, 1 for pairs, of which the least likely are left out, and 2 for knots.
        """
        kept = np.arange(len(group_C))
        power = [np.mean((self._features_TN[:, group_C[self._seen] == group] ** 2).sum(1)) for group in range(3)]
        scale_G = np.array([1 / (3 * max(each, MIN_POWER)) for each in power])
        self.variance_C, self.noise = scale_G[group_C], 1e-3
        for iteration in range(ITERATIONS):
            self._improve(group_C[kept])
            if iteration == 1:
                kept = _likeliest(group_C, self._second_C)
                self.variance_C, is_kept_N = self.variance_C[kept], np.isin(self._seen, kept)
                self._features_TN = self._features_TN[:, is_kept_N]
                self._seen = np.searchsorted(kept, self._seen[is_kept_N])
        return kept

    def _improve(self, group_C: NDArray[np.int64]) -> None:
        """Do one iteration."""
        factor_TT, mean_C = self._solved()
        learned_C = self._learned(factor_TT)
        self._second_C = mean_C**2 + self.variance_C * (1 - learned_C)
        scale_G = np.array([max(1e-12, self._second_C[group_C == group].mean()) for group in range(3)])
        self.variance_C = (self._second_C + 2 * SHAPE * scale_G[group_C]) / (1 + 2 * SHAPE)
        error_T = self._rest_T - self._features_TN @ mean_C[self._seen]
        freedom = max(1.0, len(error_T) - float(learned_C.sum()))
        self.noise = max(1e-8, float(np.sum(error_T**2 / self._noise_T)) / freedom)

    def _solved(self) -> tuple[FloatArray, FloatArray]:
        """Return the factor of the trials' covariance, and the posterior mean (C)."""
        covariance_TT = dsyrk(1.0, (self._features_TN * np.sqrt(self.variance_C[self._seen])).T, trans=1, lower=1)
        covariance_TT[np.diag_indices_from(covariance_TT)] += self.noise * self._noise_T
        factor_TT = cholesky(covariance_TT, lower=True, check_finite=False)
        solved_T = cho_solve((factor_TT, True), self._rest_T, check_finite=False)
        mean_C = np.zeros(len(self.variance_C))
        mean_C[self._seen] = self.variance_C[self._seen] * (self._features_TN.T @ solved_T)
        return factor_TT, mean_C

    def _learned(self, factor_TT: FloatArray) -> FloatArray:
        """Return the fraction of each coefficient's prior variance that the trials have removed, 0 to 1."""
        # Single precision is enough for a variance, and twice as fast.
        factor, features = factor_TT.astype(np.float32), self._features_TN.astype(np.float32)
        half_TN = solve_triangular(factor, features, lower=True, check_finite=False)
        learned_C = np.zeros(len(self.variance_C))
        learned_C[self._seen] = self.variance_C[self._seen] * np.einsum("tn,tn->n", half_TN, half_TN)
        return np.minimum(learned_C, 1.0)


def _likeliest(group_C: NDArray[np.int64], second_C: FloatArray) -> NDArray[np.int64]:
    """Return the coefficients but for the pairs that matter least."""
    rank_C = np.where(group_C == 1, -second_C, -np.inf).argsort(kind="stable")
    kept: NDArray[np.int64] = np.sort(rank_C[: int((group_C != 1).sum()) + MAX_PAIRS])
    return kept


def best_and_others(count: int, most: int) -> NDArray[np.int64]:
    """Return which of many trials, best first, teach most: half of them the best ones, half spread over the rest."""
    if count <= most:
        return np.arange(count)
    others = np.linspace(most // 2, count - 1, most - most // 2).astype(np.int64)
    return np.concatenate([np.arange(most // 2), others])
