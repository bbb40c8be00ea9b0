"""Synthetic landscapes on which the best mask is known: single heads, pairs that interact, too many heads.

Most heads lose something when ablated, a few win, some hardly matter. Among those that win or hardly matter, pairs
interact; that is where the difficulty lies. `cliff` also loses ever more with every head beyond a size. Values are
recalls: shares of as many queries as COCO's test split has captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, eye_array, hstack, vstack

from headmask.mask import HeadGrid, HeadMask
from strategies import Gradients, Limits

# B heads of the grid, P pairs, K heads beyond the cliff

Kind = Literal["pairwise", "cliff"]
QUERIES = 25_010
BASELINE = 0.5
POINTS = 100
NUM_HELPFUL, NUM_NEUTRAL = 18, 18
PAIR_RATE = 0.12
CLIFF = 14


@dataclass(frozen=True, eq=False)
class Synthetic:
    """A landscape of single changes, pair changes and a cliff, in points."""

    grid: HeadGrid
    gains_B: NDArray[np.float64]
    """Change when a head alone is ablated, by layer and head."""
    pairs_P2: NDArray[np.int64]
    pair_gains_P: NDArray[np.float64]
    """Further change when both heads of a pair are ablated."""
    cliff: int | None = None
    """k heads more than this lose k^1.5 points; None for no loss."""
    limits: Limits = field(default_factory=Limits)
    screen: None = None
    gradients: Gradients | None = None

    def __call__(self, mask: HeadMask) -> float:
        """Return the value of a mask: a recall, in steps of one query."""
        return round((BASELINE + self.change(mask) / POINTS) * QUERIES) / QUERIES

    def values(self, masks: Sequence[HeadMask]) -> list[float]:
        """Return the values of masks, in their order."""
        return [self(mask) for mask in masks]

    def cost(self, masks: Sequence[HeadMask]) -> float:
        """Return the cost of masks scored together if there were a tower whose layers all cost the same.

        Masks that agree on the first layers share these, as in the engine.
        """
        prefixes = {mask.words[:layer] for mask in masks for layer in range(1, self.grid.layers + 1)}
        return len(prefixes) / self.grid.layers

    def change(self, mask: HeadMask) -> float:
        """Return the change against the baseline in points, before it is rounded."""
        ablated_B = mask.to_bools().ravel()
        both_P = ablated_B[self.pairs_P2].all(axis=1)
        beyond = 0 if self.cliff is None else max(0, len(mask) - self.cliff)
        return float(self.gains_B @ ablated_B + self.pair_gains_P @ both_P - beyond**1.5)

    @cached_property
    def best(self) -> HeadMask:
        """A best mask, proved by branch and bound: rounding keeps the order, so none has a larger value."""
        program = self._program()
        found = milp(**program, options={"mip_rel_gap": 0})
        if found.status != 0:
            raise RuntimeError(f"the best mask of a synthetic landscape was not proved: {found.message}")
        return HeadMask.from_bools(found.x[: len(self.grid)].round().astype(bool).reshape(*self._shape))

    @property
    def _shape(self) -> tuple[int, int]:
        return self.grid.layers, self.grid.heads

    def _program(self) -> dict[str, object]:
        """Return the search for the best mask as an integer linear program in steps of one query.

        Variables: a bit per head, the product of bits per pair, a unit per head beyond the cliff. A product is held
        from above where it wins and from below where it loses; units grow dearer, so the cheapest are taken first.
        """
        num_heads, num_pairs = len(self.grid), len(self.pairs_P2)
        num_units = 0 if self.cliff is None else num_heads - self.cliff
        losses_K = np.diff(np.arange(num_units + 1) ** 1.5)
        gains = np.concatenate([self.gains_B, self.pair_gains_P, -losses_K]) * QUERIES / POINTS
        ends_PB = [_chosen(self.pairs_P2[:, end], num_heads) for end in (0, 1)]
        wins_P = self.pair_gains_P > 0
        product_PP, no_units = eye_array(num_pairs, format="csr"), csr_array((num_pairs, num_units))
        above = [hstack([-end_PB, product_PP, no_units], format="csr")[wins_P] for end_PB in ends_PB]
        below = hstack([ends_PB[0] + ends_PB[1], -product_PP, no_units], format="csr")[~wins_P]
        size = hstack([np.ones((1, num_heads)), csr_array((1, num_pairs)), -np.ones((1, num_units))])
        at_most = np.concatenate([np.zeros(2 * wins_P.sum()), np.ones((~wins_P).sum()), [self.cliff or num_heads]])
        return {
            "c": -gains,
            "constraints": LinearConstraint(vstack([*above, below, size], format="csr"), -np.inf, at_most),
            "bounds": Bounds(0, 1),
            "integrality": np.arange(len(gains)) < num_heads,
        }


def _chosen(columns_P: NDArray[np.int64], num_columns: int) -> csr_array:
    """Return (rows, columns) with a one in each row at the column given."""
    rows = np.arange(len(columns_P))
    return coo_array((np.ones(len(rows)), (rows, columns_P)), shape=(len(rows), num_columns)).tocsr()


def make_synthetic(
    kind: Kind,
    grid: HeadGrid,
    seed: int,
    *,
    num_helpful: int = NUM_HELPFUL,
    num_neutral: int = NUM_NEUTRAL,
    cliff: int = CLIFF,
) -> Synthetic:
    """Return the landscape of a seed; both kinds of a seed differ by the cliff alone.

    Changes in points: helpful heads N(.2, .15), near-neutral ones -|N(.08, .05)|, all others -|N(0, .4)|; 12 % of the
    pairs among the helpful and the near-neutral interact by N(0, .25). A larger grid has more of the others.
    """
    rng = np.random.default_rng((seed, *(grid.layers, grid.heads)))
    gains_B = -np.abs(rng.normal(0, 0.4, len(grid)))
    order_B = rng.permutation(len(grid))
    subtle = order_B[: num_helpful + num_neutral]
    gains_B[subtle[:num_helpful]] = rng.normal(0.2, 0.15, num_helpful)
    gains_B[subtle[num_helpful:]] = -np.abs(rng.normal(0.08, 0.05, num_neutral))
    pairs_P2 = np.array(list(combinations(subtle.tolist(), 2)))
    pairs_P2 = pairs_P2[rng.random(len(pairs_P2)) < PAIR_RATE]
    pair_gains_P = rng.normal(0, 0.25, len(pairs_P2))
    return Synthetic(grid, gains_B, pairs_P2, pair_gains_P, cliff if kind == "cliff" else None)
