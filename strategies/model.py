"""A pairwise additive model of masks' values, learned from trials.

    value(m) = offset(m) + sum_h u_h m_h + sum_{h<k} w_hk m_h m_k + sum_t c_t max(0, |m| - t)

with m_h = 1 where head h is ablated. Most coefficients are near zero, so each has a Student-t prior: a normal
prior whose variance is learned by expectation maximisation (sparse Bayesian learning, Tipping 2001, with the
inverse-gamma hyperprior kept). The size terms follow the cliff beyond which too many ablated heads ruin a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.blas import dsyrk
from threadpoolctl import threadpool_limits

from headmask.mask import BoolArray
from strategies.history import FloatArray

# T trials, B masks, S shortlisted heads, P pairs, K size knots, C coefficients = S + P + K, R samples

ITERATIONS = 8
SHAPE = 0.02
"""Shape of the inverse-gamma hyperprior: half the Student-t's degrees of freedom. Small values give sparsity."""
NUM_KNOTS = 28
"""Number of sizes, from 1 on, at which the size curve may bend; beyond them it may bend at every fourth size."""
MAX_PAIRS = 600
"""Number of pairs kept after the first iterations, or the number of trials if that is larger."""
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
        bits_TS: masks over the shortlist; True ablates that head.
        rest_T: their values minus the offset.
        noise_T: relative standard deviations of the values; 1 for the best ones.
        sizes_T: number of ablated heads.
    """

    def __init__(self, bits_TS: BoolArray, rest_T: FloatArray, noise_T: FloatArray, sizes_T: NDArray[np.int64]) -> None:
        self._num_heads = bits_TS.shape[1]
        self._first, self._second = np.triu_indices(self._num_heads, 1)
        self._largest = int(sizes_T.max(initial=2))
        self._knots = np.r_[np.arange(1, min(self._largest, NUM_KNOTS)), np.arange(NUM_KNOTS, self._largest, 4)]
        heads_TS = bits_TS.astype(np.float64)
        self._features_TC = np.hstack(
            [heads_TS, heads_TS[:, self._first] * heads_TS[:, self._second], self._hinges(sizes_T)]
        )
        self._scale = float(np.sqrt(np.mean(rest_T**2))) or 1.0
        self._rest_T, self._noise_T = rest_T / self._scale, noise_T**2
        groups = (self._num_heads, len(self._first), len(self._knots))
        self._group_C = np.repeat(np.arange(3), groups)
        # One thread: the last bits depend on the number of threads, and a resumed study must get the same bits.
        with threadpool_limits(1):
            self._fit()

    def _hinges(self, sizes: NDArray[np.int64]) -> FloatArray:
        hinges: FloatArray = np.maximum(0, sizes[:, None] - self._knots).astype(np.float64)
        return hinges

    def _fit(self) -> None:
        power = [np.mean((self._features_TC[:, self._group_C == group] ** 2).sum(1)) for group in range(3)]
        scale_G = np.array([1 / (3 * max(each, 1e-9)) for each in power])
        variance_C, noise = scale_G[self._group_C], 1e-3
        for iteration in range(ITERATIONS):
            self._solve(variance_C, noise)
            learned_C = self._learned()
            second_C = self._mean_C**2 + variance_C * (1 - learned_C)
            scale_G = np.array([max(1e-12, second_C[self._group_C == group].mean()) for group in range(3)])
            variance_C = (second_C + 2 * SHAPE * scale_G[self._group_C]) / (1 + 2 * SHAPE)
            error_T = self._rest_T - self._features_TC @ self._mean_C
            freedom = max(1.0, len(error_T) - float(learned_C.sum()))
            noise = max(1e-8, float(np.sum(error_T**2 / self._noise_T)) / freedom)
            if iteration == 1:
                variance_C = self._prune(variance_C, second_C)
        self._solve(variance_C, noise)

    def _prune(self, variance_C: FloatArray, second_C: FloatArray) -> FloatArray:
        """Keep the pairs that may matter most, and return the variances of the remaining coefficients."""
        rank_C = np.where(self._group_C == 1, -second_C, -np.inf).argsort(kind="stable")
        kept = np.sort(rank_C[: max(MAX_PAIRS, len(self._rest_T))])
        self._features_TC, self._group_C = self._features_TC[:, kept], self._group_C[kept]
        pairs = kept[self._group_C == 1] - self._num_heads
        self._first, self._second = self._first[pairs], self._second[pairs]
        return variance_C[kept]

    def _learned(self) -> FloatArray:
        """Return the fraction of each coefficient's prior variance that the trials have removed, 0 to 1."""
        # Single precision is enough for a variance, and twice as fast.
        factor_TT, features_TC = (part.astype(np.float32) for part in (self._factor_TT, self._features_TC))
        half_TC = solve_triangular(factor_TT, features_TC, lower=True, check_finite=False)
        learned_C: FloatArray = np.minimum(self._variance_C * np.einsum("tc,tc->c", half_TC, half_TC), 1.0)
        return learned_C

    def _solve(self, variance_C: FloatArray, noise: float) -> None:
        self._variance_C, self._noise = variance_C, noise
        covariance_TT = dsyrk(1.0, (self._features_TC * np.sqrt(variance_C)).T, trans=1, lower=1)
        covariance_TT[np.diag_indices_from(covariance_TT)] += noise * self._noise_T
        self._factor_TT = cholesky(covariance_TT, lower=True, check_finite=False)
        self._mean_C = self._coefficients(self._rest_T)

    def _coefficients(self, rest: FloatArray) -> FloatArray:
        """Return the posterior mean (C, ...) given the values to explain (T, ...)."""
        solved = cho_solve((self._factor_TT, True), rest, check_finite=False)
        coefficients: FloatArray = (self._variance_C * (self._features_TC.T @ solved).T).T
        return coefficients

    def mean_function(self) -> Functions:
        """Return the posterior mean, rounded as `functions` are."""
        return self._as_functions(self._mean_C[None] * self._scale)

    def functions(self, samples: int, rng: np.random.Generator, gains_S: FloatArray) -> Functions:
        """Return the posterior mean, then posterior samples (by Matheron's rule), with the gains of single heads added.

        Coefficients are rounded to multiples of a power of two, so that their sums are exact and a search over
        masks takes the same path on any machine.
        """
        with threadpool_limits(1):
            coefficients_RC = np.vstack([self._mean_C, self._samples(samples, rng)]) * self._scale
        coefficients_RC[:, self._group_C == 0] += gains_S
        return self._as_functions(coefficients_RC)

    def _samples(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return samples (R, C) of the posterior."""
        num_coefficients = len(self._variance_C)
        normal_R = rng.standard_normal((count, num_coefficients + len(self._rest_T)))
        prior_RC = normal_R[:, :num_coefficients] * np.sqrt(self._variance_C)
        noise_RT = normal_R[:, num_coefficients:] * np.sqrt(self._noise * self._noise_T)
        rest_RT = self._rest_T - prior_RC @ self._features_TC.T - noise_RT
        samples_RC: FloatArray = prior_RC + self._coefficients(rest_RT.T).T
        return samples_RC

    def _as_functions(self, coefficients_RC: FloatArray) -> Functions:
        step = 2.0 ** np.round(np.log2(self._scale)) * _RESOLUTION
        rounded_RC = np.round(coefficients_RC / step) * step
        head_RS, pair_RP, knot_RK = (rounded_RC[:, self._group_C == group] for group in range(3))
        pair_RSS = np.zeros((len(head_RS), self._num_heads, self._num_heads))
        pair_RSS[:, self._first, self._second] = pair_RSS[:, self._second, self._first] = pair_RP
        sizes_N = np.arange(max(self._num_heads, self._largest + BEYOND) + 1)
        return Functions(head_RS, pair_RSS, knot_RK @ self._hinges(sizes_N).T)
