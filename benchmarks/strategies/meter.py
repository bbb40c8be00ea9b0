"""Counting what a contestant evaluates: distinct masks only, a budget of them, and the best value after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.strategies.landscapes import Landscape
from headmask.mask import BoolArray, HeadGrid, HeadMask
from strategies import Gradients, Limits, Screen
from strategies.history import FloatArray

# M masks, F free heads

MAX_ASKED = 5
"""Masks asked for, new or not, for each one of the budget: a contestant that needs more has converged."""


class BudgetSpent(Exception):
    """A contestant asked for a new mask after its last one, or for hardly anything new."""


class Meter:
    """A landscape as a contestant sees it: masks evaluated before are free, new ones count, and so does training.

    Args:
        landscape: what masks are evaluated on.
        budget: distinct masks that may be; a step of training is as many as cost what it does.
    """

    def __init__(self, landscape: Landscape, budget: int) -> None:
        self._landscape, self._budget = landscape, budget
        self._known: dict[HeadMask, float] = {}
        self._num_asked = 0
        self.best_so_far: list[float] = []
        """The best value after each distinct mask, or what cost as much."""
        self._trained = 0.0
        """Training that is not yet as much as a mask."""

    @property
    def grid(self) -> HeadGrid:
        """Grid of the masks."""
        return self._landscape.grid

    @property
    def limits(self) -> Limits:
        """Which masks may be evaluated."""
        return self._landscape.limits

    @property
    def screen(self) -> Screen | None:
        """The displacement surrogate; None where there is none."""
        return self._landscape.screen

    @property
    def gradients(self) -> Gradients | None:
        """What scales are trained by, counted; None where there is nothing."""
        return None if self._landscape.gradients is None else _Counted(self._landscape.gradients, self._charge)

    def __call__(self, mask: HeadMask) -> float:
        """Return the value of one mask.

        Raises:
            BudgetSpent: it is new, and one too many; or hardly any is.
        """
        return self.values([mask])[0]

    def values(self, masks: Sequence[HeadMask]) -> list[float]:
        """Return the values of masks, in their order; new ones are evaluated together.

        Raises:
            BudgetSpent: there are more new masks than the budget has left, which are evaluated; or hardly
                any is new.
        """
        new = [mask for mask in dict.fromkeys(masks) if mask not in self._known]
        left = self._budget - len(self.best_so_far)
        for mask, value in zip(new[:left], self._landscape.values(new[:left]), strict=True):
            self._known[mask] = value
            self.best_so_far.append(max(value, self.best_so_far[-1]) if self.best_so_far else value)
        self._num_asked += len(masks)
        if len(new) > left:
            raise BudgetSpent(f"all {self._budget:,} masks of the budget are evaluated")
        if self._num_asked > MAX_ASKED * self._budget:
            raise BudgetSpent(f"{self._num_asked:,} masks were asked for, of which {len(self._known):,} were new")
        return [self._known[mask] for mask in masks]

    def _charge(self, masks: float) -> None:
        """Count training that costs as much as so many masks.

        Raises:
            BudgetSpent: the budget has less left.
        """
        self._trained += masks
        while self._trained >= 1:
            if len(self.best_so_far) == self._budget:
                raise BudgetSpent(f"all {self._budget:,} masks of the budget are evaluated, or trained for")
            self._trained -= 1
            self.best_so_far.append(self.best_so_far[-1] if self.best_so_far else -np.inf)

    def bit_values(self, bits_MF: BoolArray) -> NDArray[np.float64]:
        """Return the values (M) of masks that are rows of bits over the heads that may be ablated; see `values`."""
        heads = self.limits.free_heads(self.grid)
        masks = [HeadMask.from_heads(self.grid, [heads[index] for index in np.flatnonzero(row_F)]) for row_F in bits_MF]
        return np.array(self.values(masks))


class _Counted:
    """Gradients of a landscape, of which every step is counted.

    Args:
        gradients: of the landscape.
        charge: told how many masks a step costs as much as.
    """

    def __init__(self, gradients: Gradients, charge: Callable[[float], None]) -> None:
        self._gradients, self._charge = gradients, charge
        self.num_batches, self.masks_per_step = gradients.num_batches, gradients.masks_per_step

    def __call__(self, batch: int, scales_F: FloatArray) -> tuple[float, FloatArray]:
        """Return a loss and its gradient; see `Gradients`."""
        self._charge(self.masks_per_step)
        return self._gradients(batch, scales_F)
