"""A steady-state genetic search on masks, seeded from the scan."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from headmask.mask import Head, HeadMask
from strategies.base import MaskSampler
from strategies.history import History

NUM_PARENTS = 32
TOURNAMENT = 3
TRIES = 16
SEED_SIZES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
SEED_PAIRS = 5
"""Pairs among this many of the best single heads start the search."""


class GeneticSampler(MaskSampler):
    """Tournament, uniform crossover by layer or by bit, bit-flip mutation; children are as large as good masks are.

    It starts from the scan: the best heads together, two to many of them, and pairs of the very best.
    """

    label = "genetic"

    def propose(self, number: int, history: History, rng: np.random.Generator) -> HeadMask | None:
        """Return the next unseen seed, else a new child of two good masks."""
        for seed in _seeds(history):
            if history.is_new(seed):
                return seed
        parents = history.ranked[:NUM_PARENTS]
        if not parents:
            return None
        largest = _size_limit(history, parents)
        for attempt in range(TRIES):
            first, second = (history.masks[parents[_tournament(len(parents), rng)]] for _ in range(2))
            child = _mutated(_crossed(first, second, rng), history, rng, extra=attempt // 4)
            child = _shrunk(child, largest, history, rng)
            if history.is_new(child):
                return child
        return None


def _seeds(history: History) -> list[HeadMask]:
    heads = [head for head in history.promising if head in history.scan_gains]
    together = [HeadMask.from_heads(history.grid, heads[:size]) for size in SEED_SIZES if size <= len(heads)]
    pairs = [HeadMask.from_heads(history.grid, pair) for pair in combinations(heads[:SEED_PAIRS], 2)]
    return together + pairs


def _tournament(count: int, rng: np.random.Generator) -> int:
    """Return the rank of the best of a few random contestants."""
    return int(rng.integers(count, size=TOURNAMENT).min())


def _crossed(first: HeadMask, second: HeadMask, rng: np.random.Generator) -> HeadMask:
    """Return a child that takes every layer, or every bit, from either parent."""
    grid = first.grid
    if rng.random() < 0.5:
        take_L = rng.integers(2, size=grid.layers) * ((1 << grid.heads) - 1)
    else:
        take_L = rng.integers(1 << grid.heads, size=grid.layers)
    words = (a & take | b & ~take for a, b, take in zip(first.words, second.words, take_L.tolist(), strict=True))
    return HeadMask(grid, tuple(words))


def _mutated(mask: HeadMask, history: History, rng: np.random.Generator, *, extra: int) -> HeadMask:
    """Return the mask with a few heads flipped: as often added as dropped, by the scan's favour half of the time."""
    for _ in range(int(rng.poisson(1.0)) + extra):
        heads = mask.heads
        if heads and rng.random() < 0.5:
            mask = mask.flipped(heads[rng.integers(len(heads))])
        else:
            mask = mask.flipped(_favoured(history, rng))
    return mask


def _favoured(history: History, rng: np.random.Generator) -> Head:
    count = len(history.promising)
    if rng.random() < 0.5:
        return history.promising[int(rng.integers(count))]
    return history.promising[int(count * rng.random() ** 2.5)]


def _size_limit(history: History, parents: list[int]) -> int:
    """Return how large a child may be: there is a cliff, beyond which too many ablated heads ruin the model."""
    largest = max(len(history.masks[index]) for index in parents[: NUM_PARENTS // 2])
    return min(history.most_heads, max(3, largest + 2))


def _shrunk(mask: HeadMask, largest: int, history: History, rng: np.random.Generator) -> HeadMask:
    """Return the mask with random heads kept again until it is small enough."""
    surplus = len(mask) - largest
    if surplus <= 0:
        return mask
    heads = mask.heads
    dropped = rng.choice(len(heads), size=surplus, replace=False)
    kept = [head for index, head in enumerate(heads) if index not in set(dropped.tolist())]
    return HeadMask.from_heads(mask.grid, kept)
