"""Counting what a contestant spends: distinct masks or image forwards, a budget of them, and the best value so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.strategies.landscapes import Landscape
from headmask.mask import BoolArray, HeadGrid, HeadMask
from strategies import Gradients, Limits, Screen
from strategies.history import FloatArray

# M masks, F free heads

MAX_ASKED = 5
"""Masks asked for, new or not, for each one of the budget: a contestant that needs more has converged."""
ROUNDING = 1e-9
"""Less than this is left of a budget only because sums are rounded."""
Unit = Literal["masks", "forwards"]
"""A distinct mask, or as many image forwards as a mask takes that shares nothing: one of every image."""


class BudgetSpent(Exception):
    """A contestant asked for a new mask after its last one, or for hardly anything new."""


@dataclass(frozen=True)
class Budget:
    """What a contestant may spend."""

    amount: int
    unit: Unit = "masks"
    width: int | None = None
    """Number of masks in a round, none of which is chosen by a result of the same round; None for no rounds."""


class Meter:
    """A landscape as a contestant sees it: masks evaluated before are free, new ones cost, and so does training.

    Args:
        landscape: what masks are evaluated on.
        budget: what may be spent; a step of training costs what its forward and backward passes do.
    """

    def __init__(self, landscape: Landscape, budget: Budget) -> None:
        self._landscape, self._budget = landscape, budget
        self._known: dict[HeadMask, float] = {}
        self._num_asked = 0
        self._best = -np.inf
        self.best_so_far: list[float] = []
        """The best value after each unit of the budget."""
        self.best_by_round: list[float] = []
        """The best value after each round, if there are rounds; training takes none."""
        self._owed = 0.0
        """What was spent and is not yet a whole unit."""

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
    def width(self) -> int | None:
        """Number of masks in a round; None for no rounds."""
        return self._budget.width

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

        Their cost is shared equally among them. A mask is begun as long as something is left.

        Raises:
            BudgetSpent: the budget has too little left for the new masks; those that it has enough for are evaluated.
                Or hardly any is new.
        """
        new = [mask for mask in dict.fromkeys(masks) if mask not in self._known]
        each = self._landscape.cost(new) / len(new) if new and self._budget.unit == "forwards" else 1.0
        affordable = new[: max(0, ceil((self._left - self._owed) / each - ROUNDING))]
        for place, value in enumerate(self._landscape.values(affordable), 1):
            self._known[affordable[place - 1]] = value
            self._best = max(self._best, value)
            self._owed += each
            self._settle()
            if self.width is not None and (place % self.width == 0 or place == len(affordable)):
                self.best_by_round.append(self._best)
        self._num_asked += len(masks)
        if len(new) > len(affordable):
            raise BudgetSpent(f"all {self._budget.amount:,} {self._budget.unit} of the budget are evaluated")
        if self._num_asked > MAX_ASKED * max(self._budget.amount, len(self._known)):
            raise BudgetSpent(f"{self._num_asked:,} masks were asked for, of which {len(self._known):,} were new")
        return [self._known[mask] for mask in masks]

    @property
    def _left(self) -> int:
        return self._budget.amount - len(self.best_so_far)

    def _settle(self) -> None:
        """Record the best value for every whole unit that is owed and within the budget."""
        while self._owed >= 1 - ROUNDING and self._left:
            self._owed -= 1
            self.best_so_far.append(self._best)

    def _charge(self, masks: float) -> None:
        """Count training that costs as much as so many masks.

        Raises:
            BudgetSpent: the budget has less left.
        """
        self._owed += masks
        self._settle()
        if self._owed >= 1 - ROUNDING:
            raise BudgetSpent(f"all {self._budget.amount:,} {self._budget.unit} are evaluated, or trained for")

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
