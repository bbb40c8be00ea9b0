"""One gate per head, trained by gradients of a loss computed elsewhere. Pure NumPy, in float64.

Gates are hard-concrete (Louizos et al. 2018, arXiv 1712.01312), with the temperature and stretch of Voita et al. 2019
(arXiv 1905.09418): they are random during training and become more and more surely open or shut. With a penalty of
fixed weight, either all gates are shut in the end or none. Here their number is controlled directly: after each step,
all gates are moved by the same amount in log alpha, so that the expected number of shut gates follows a schedule.
An L0 penalty also moves all gates; here its weight is whatever the schedule needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from headmask.mask import BoolArray
from strategies.history import FloatArray, smallest

# F free heads, B micro-batches, S steps

TEMPERATURE, LOW, HIGH = 0.33, -0.1, 1.1
RATE, DECAY, SQUARE_DECAY = 0.1, 0.9, 0.99
"""Settings of Adam (Kingma and Ba 2015, arXiv 1412.6980)."""
BATCHES = 4
"""Micro-batches of a step, and so the number of replicas that can work on one."""
SWEEP = 24
"""Steps in which the number of shut gates rises from one to the maximum; it falls again in as many."""
MAX_SHUT = 1 / 3
"""Maximum fraction of the free heads that are shut together."""
OPEN, WIDEST = 2.0, 6.0
"""Log alpha of untrained gates, and its bound, which keeps any gate from being shut or open for good."""
_SHIFT = TEMPERATURE * np.log(-LOW / HIGH)


class Gradients(Protocol):
    """Computes losses and gradients on micro-batches that never change."""

    @property
    def num_batches(self) -> int:
        """How many micro-batches there are."""
        ...

    @property
    def masks_per_step(self) -> float:
        """How many evaluations of a mask cost about as much as a step of `BATCHES` micro-batches."""
        ...

    def __call__(self, batches: Sequence[int], gates_BF: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the losses (B) of micro-batches and their gradients (B, F), each for its own gates.

        If a result is not finite, its loss is NaN and its gradient 0.
        """
        ...


class Gates:
    """One gate per free head. Their state after a step is a function of the seed and the gradients alone.

    Args:
        gradients: computes losses and gradients.
        num_free: number of free heads.
        most: maximum number of gates that may be shut.
        seed: seed of the gates' noise.
    """

    def __init__(self, gradients: Gradients, num_free: int, most: int, seed: int) -> None:
        self._gradients, self._seed = gradients, seed
        self._most = max(1, min(most, round(MAX_SHUT * num_free)))
        self.step = 0
        self.losses: list[float] = []
        """Mean loss of every step, in nats; NaN if none was finite."""
        self.path: list[BoolArray] = []
        """The gates (F) shut after every step: the most surely shut ones, as many as the schedule says."""
        self.log_alpha_F = np.full(num_free, OPEN)
        self._mean_F, self._square_F = np.zeros(num_free), np.zeros(num_free)

    @property
    def shut_F(self) -> FloatArray:
        """The probability that each gate is shut."""
        return 1 - _sigmoid(self.log_alpha_F - _SHIFT)

    @property
    def num_shut(self) -> float:
        """How many gates should be shut after the last step."""
        return 1 + (self._most - 1) * (1 - abs(self.step % (2 * SWEEP) / SWEEP - 1))

    def advance(self, steps: int) -> None:
        """Train until this many steps are done in total."""
        while self.step < steps:
            self._step()

    def _step(self) -> None:
        num = min(BATCHES, self._gradients.num_batches)
        batches = [(self.step * num + place) % self._gradients.num_batches for place in range(num)]
        noise_BF = np.random.default_rng((self._seed, self.step)).uniform(1e-6, 1 - 1e-6, (num, len(self.log_alpha_F)))
        gates_BF, slope_BF = hard_concrete(self.log_alpha_F, noise_BF)
        losses_B, gradient_BF = self._gradients(batches, gates_BF)
        self.step += 1
        self._descend((gradient_BF * slope_BF).mean(0))
        finite_B = losses_B[np.isfinite(losses_B)]
        self.losses.append(float(finite_B.mean()) if len(finite_B) else float("nan"))
        self.path.append(smallest(self.log_alpha_F[None], round(self.num_shut))[0])

    def _descend(self, gradient_F: FloatArray) -> None:
        self._mean_F += (1 - DECAY) * (gradient_F - self._mean_F)
        self._square_F += (1 - SQUARE_DECAY) * (gradient_F**2 - self._square_F)
        mean_F = self._mean_F / (1 - DECAY**self.step)
        square_F = self._square_F / (1 - SQUARE_DECAY**self.step)
        moved_F = self.log_alpha_F - RATE * mean_F / (np.sqrt(square_F) + 1e-12)
        self.log_alpha_F = _with_shut(moved_F, self.num_shut)


def hard_concrete(log_alpha_F: FloatArray, uniform_BF: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return random gates (B, F) in [0, 1], and how fast each rises with its log alpha.

    Args:
        log_alpha_F: log alpha of the gates.
        uniform_BF: noise in (0, 1).
    """
    soft_BF = _sigmoid((np.log(uniform_BF) - np.log1p(-uniform_BF) + log_alpha_F) / TEMPERATURE)
    wide_BF = soft_BF * (HIGH - LOW) + LOW
    slope_BF = (HIGH - LOW) * soft_BF * (1 - soft_BF) / TEMPERATURE
    return wide_BF.clip(0, 1), np.where((wide_BF > 0) & (wide_BF < 1), slope_BF, 0.0)


def _with_shut(log_alpha_F: FloatArray, num_shut: float) -> FloatArray:
    """Return gates moved by the same amount, within `WIDEST`, so that `num_shut` are expected to be shut."""
    low, high = -3 * WIDEST, 3 * WIDEST
    for _ in range(50):
        middle = (low + high) / 2
        moved_F = (log_alpha_F + middle).clip(-WIDEST, WIDEST)
        if (1 - _sigmoid(moved_F - _SHIFT)).sum() > num_shut:
            low = middle
        else:
            high = middle
    return (log_alpha_F + high).clip(-WIDEST, WIDEST)


def _sigmoid(x: FloatArray) -> FloatArray:
    return 1 / (1 + np.exp(-x))
