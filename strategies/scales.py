"""One scale per head, trained by gradients of a loss computed elsewhere. Pure NumPy, in float64.

A scale g acts on a head's output z, which becomes g z + (1 - g) r with r what the ablation puts there. So 1 is the
model as it is, 0 the ablated head. Scales follow Adam (Kingma and Ba 2015, arXiv 1412.6980), without noise or schedule.
Those of a search start at 1 and have no penalty: heads whose scale falls below a threshold are worth ablating, and how
far a scale fell says how much so.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from strategies.history import FloatArray

# F free heads, S steps

RATE, DECAY, SQUARE_DECAY = 0.08, 0.9, 0.99
"""Settings of Adam."""
HIGHEST = 1.5
"""Largest scale; the smallest one is 0."""


class Gradients(Protocol):
    """Computes losses and gradients on micro-batches that never change."""

    @property
    def num_batches(self) -> int:
        """How many micro-batches there are."""
        ...

    @property
    def masks_per_step(self) -> float:
        """How many evaluations of a mask cost about as much as a step, which takes one micro-batch."""
        ...

    def __call__(self, batch: int, scales_F: FloatArray) -> tuple[float, FloatArray]:
        """Return the loss of a micro-batch and its gradient (F) by the scales; NaN and 0 if they are not finite."""
        ...


class Descent:
    """Scales that follow their gradients. Their state after a step is a function of the gradients alone.

    Args:
        start_F: the scales to start from.
        highest: the largest scale.
        pull: weight of a penalty, in nats: the sum over heads of (g - 1) squared.
    """

    def __init__(self, start_F: FloatArray, *, highest: float = HIGHEST, pull: float = 0.0) -> None:
        self.path: list[FloatArray] = []
        """The scales (F) after every step."""
        self.now_F = start_F
        self._highest, self._pull = highest, pull
        self._mean_F, self._square_F = np.zeros(len(start_F)), np.zeros(len(start_F))

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.path)

    def averaged(self, steps: int) -> FloatArray:
        """Return the scales (F) after some steps, averaged over the second half of them.

        Single scales swing from step to step; their averages (Polyak and Juditsky 1992) do not.
        """
        averaged_F: FloatArray = np.mean(self.path[steps // 2 : steps] or [self.now_F], axis=0)
        return averaged_F

    def descend(self, gradient_F: FloatArray) -> None:
        """Take a step, given the gradient of the loss by the present scales."""
        number = self.step + 1
        gradient_F = gradient_F + 2 * self._pull * (self.now_F - 1)
        self._mean_F += (1 - DECAY) * (gradient_F - self._mean_F)
        self._square_F += (1 - SQUARE_DECAY) * (gradient_F**2 - self._square_F)
        mean_F = self._mean_F / (1 - DECAY**number)
        square_F = self._square_F / (1 - SQUARE_DECAY**number)
        self.now_F = (self.now_F - RATE * mean_F / (np.sqrt(square_F) + 1e-12)).clip(0, self._highest)
        self.path.append(self.now_F)


class Scales(Descent):
    """One scale per free head, trained from 1 by the gradients of a search.

    Args:
        gradients: computes losses and gradients.
        num_free: number of free heads.
    """

    def __init__(self, gradients: Gradients, num_free: int) -> None:
        super().__init__(np.ones(num_free))
        self._gradients = gradients
        self.losses: list[float] = []
        """Loss of every step, in nats; NaN if it was not finite."""
        self.first_gradient_F = np.zeros(num_free)
        """The gradient (F) of the first step: how much faster the loss falls if a head's scale does."""

    def advance(self, steps: int) -> None:
        """Train until this many steps are done in total."""
        while self.step < steps:
            loss, gradient_F = self._gradients(self.step % self._gradients.num_batches, self.now_F)
            if not self.path:
                self.first_gradient_F = gradient_F
            self.descend(gradient_F)
            self.losses.append(loss)
