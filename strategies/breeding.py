"""Breeding masks: where a genetic search starts, and how parents produce children."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from headmask.mask import BoolArray
from strategies.history import History, smallest

# R children, P parents, F free heads, L layers

NUM_PARENTS = 32
TOURNAMENT = 3
SEED_SIZES = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32)
SEED_PAIRS = 5
"""Pairs among this many of the best single heads start the search."""


def seeds(history: History) -> BoolArray:
    """Return masks of the scan's best heads, from two heads to many, and pairs of the very best."""
    heads = [head for head in history.promising.tolist() if history.is_usable_F[head]]
    together = [heads[:size] for size in SEED_SIZES if size <= len(heads)]
    return history.rows([*together, *combinations(heads[:SEED_PAIRS], 2)])


def bred(parents_PF: BoolArray, count: int, history: History, rng: np.random.Generator, *, extra: int = 0) -> BoolArray:
    """Return children (R, F) of good masks, best parents first.

    Args:
        parents_PF: sorted, best first.
        count: number of children.
        history: gives the scan gains and the maximum size of a child.
        rng: random state.
        extra: heads flipped beyond the usual number.
    """
    first_R, second_R = (rng.integers(len(parents_PF), size=(2, count, TOURNAMENT))).min(2)
    children_RF = _crossed(parents_PF[first_R], parents_PF[second_R], history, rng)
    children_RF = _mutated(children_RF, history, rng, extra)
    largest = max(3, int(parents_PF[: NUM_PARENTS // 2].sum(1).max()) + 2)
    return _shrunk(children_RF, min(history.max_heads, largest), rng)


def _crossed(first_RF: BoolArray, second_RF: BoolArray, history: History, rng: np.random.Generator) -> BoolArray:
    """Return children that take every layer, or every bit, from either parent."""
    layer_F = np.array([head.layer for head in history.free_heads])
    take_RL = rng.random((len(first_RF), history.grid.layers)) < 0.5
    take_RF = np.where(rng.random((len(first_RF), 1)) < 0.5, take_RL[:, layer_F], rng.random(first_RF.shape) < 0.5)
    return np.where(take_RF, first_RF, second_RF)


def _mutated(bits_RF: BoolArray, history: History, rng: np.random.Generator, extra: int) -> BoolArray:
    """Return masks with a few heads flipped, added as often as dropped; half of the additions favour scan gains."""
    bits_RF = bits_RF.copy()
    num_free = bits_RF.shape[1]
    for row_F, flips in zip(bits_RF, (rng.poisson(1.0, size=len(bits_RF)) + extra).tolist(), strict=True):
        for _ in range(flips):
            heads = np.flatnonzero(row_F)
            if len(heads) and rng.random() < 0.5:
                row_F[heads[rng.integers(len(heads))]] ^= True
            else:
                power = 1.0 if rng.random() < 0.5 else 2.5
                row_F[history.promising[int(num_free * rng.random() ** power)]] ^= True
    return bits_RF


def _shrunk(bits_RF: BoolArray, largest: int, rng: np.random.Generator) -> BoolArray:
    """Return masks with random heads removed from the ablated ones until they are small enough."""
    return bits_RF & smallest(np.where(bits_RF, rng.random(bits_RF.shape), 2.0), largest)
