"""Who competes: our strategies, and what people do by hand. Every contestant runs until its budget or its plan ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.strategies import rivals
from benchmarks.strategies.meter import Meter
from headmask.mask import Head, HeadMask
from strategies import MIN_WIDTH, STRATEGIES, Books, make_sampler

MAX_RANDOM_HEADS = 8
SURROGATE = "+surrogate"
Contestant = Callable[[Meter, int], None]
"""Evaluates masks of a meter by a seed, until `BudgetSpent` or until its plan ends."""

TRAINED = ("scales", "importance")
"""Those that need gradients, which takes a landscape of a tower."""
OURS = tuple(name for name in STRATEGIES if name not in ("scan", "scales"))
DEFAULT_OURS = ("mixture", "genetic")
"""Those of ours that compete when nobody is named; with the surrogate, too."""


def contestants() -> dict[str, Contestant]:
    """Return every contestant by its name, ours first."""
    return {
        **{name: partial(ours, name) for name in OURS},
        **{name + SURROGATE: partial(ours, name, screened=True) for name in OURS},
        "scales": partial(ours, "scales"),
        "importance": importance,
        "random": random_masks,
        "greedy-top-k": greedy_top_k,
        "greedy-forward-backward": greedy_forward_backward,
        "hill-climb": hill_climb,
        "optuna-tpe": rivals.optuna_tpe,
        "optuna-nsga2": rivals.optuna_nsga2,
        "cma-es": rivals.cma_es,
        "pymoo-ga": rivals.pymoo_ga,
    }


def default_names() -> list[str]:
    """Return the names of those who compete when nobody is named."""
    own = [*DEFAULT_OURS, *(name + SURROGATE for name in DEFAULT_OURS)]
    return own + [name for name in contestants() if name.removesuffix(SURROGATE) not in (*OURS, *TRAINED)]


def ours(name: str, meter: Meter, seed: int, *, screened: bool = False) -> None:
    """Run one of our strategies as shipped: a block knows the results that the block rule allows, and no others.

    A round takes masks from the blocks that may be proposed before it. If these are too few, it is not full.
    """
    sampler = make_sampler(
        name,
        meter.grid,
        seed=seed,
        limits=meter.limits,
        screen=meter.screen if screened else None,
        gradients=meter.gradients,
        width=max(MIN_WIDTH, meter.width or 1),
    )
    books = sampler.new_books()
    waiting: deque[tuple[int, HeadMask]] = deque()
    while waiting or not books.is_exhausted:
        while len(waiting) < (meter.width or 1) and _may_propose(books):
            start, masks = len(books), sampler.block_masks(books.next_block, books)
            books.add(masks)
            waiting.extend(enumerate(masks, start))
        asked = [waiting.popleft() for _ in range(min(meter.width or len(waiting), len(waiting)))]
        values = meter.values([mask for _, mask in asked])
        for (number, _), value in zip(asked, values, strict=True):
            books.tell(number, value)


def _may_propose(books: Books) -> bool:
    return not books.is_exhausted and books.is_known_for(books.next_block)


def random_masks(meter: Meter, seed: int) -> None:
    """Evaluate the empty mask, then random ones of 1 to 8 heads."""
    rng = np.random.default_rng(seed)
    heads = meter.limits.free_heads(meter.grid)
    masks = [HeadMask.empty(meter.grid)]
    while True:
        while len(masks) < (meter.width or 1):
            size = rng.integers(1, min(MAX_RANDOM_HEADS, len(heads)) + 1)
            chosen = rng.choice(len(heads), size=size, replace=False)
            masks.append(HeadMask.from_heads(meter.grid, [heads[index] for index in chosen]))
        meter.values(masks)
        masks = []


def greedy_top_k(meter: Meter, seed: int) -> None:
    """Scan, then ablate the best heads together, two to all of them: what people do by hand. Then it ends."""
    heads = scanned(meter)
    meter.values([HeadMask.from_heads(meter.grid, heads[:size]) for size in range(2, len(heads) + 1)])


def greedy_forward_backward(meter: Meter, seed: int) -> None:
    """Scan, then flip the one head that improves most, again and again until none does. Then it ends."""
    heads = scanned(meter)
    mask = HeadMask.empty(meter.grid)
    best = meter(mask)
    while True:
        flipped = [mask.flipped(head) for head in heads]
        values = meter.values(flipped)
        if max(values) <= best:
            return
        mask, best = flipped[int(np.argmax(values))], max(values)


def importance(meter: Meter, seed: int) -> None:
    """Ablate the least important heads together, one to all of them, by a first-order estimate (Michel et al. 2019).

    The estimate is the gradient of the loss by scales, over all micro-batches: one backward pass.
    """
    gradients, heads = meter.gradients, meter.limits.free_heads(meter.grid)
    if gradients is None:
        raise TypeError("importance needs gradients")
    meter(HeadMask.empty(meter.grid))
    ones_F = np.ones(len(heads))
    gradient_F = np.mean([gradients(batch, ones_F)[1] for batch in range(gradients.num_batches)], axis=0)
    ranked = [heads[index] for index in np.argsort(-gradient_F, kind="stable")]
    meter.values([HeadMask.from_heads(meter.grid, ranked[:size]) for size in range(1, len(ranked) + 1)])


def hill_climb(meter: Meter, seed: int) -> None:
    """Scan, then walk through the heads, best first, and flip whatever improves, until nothing does.

    Then it starts again from nothing, through the heads in a random order. In a round, it flips the best one of as many
    heads as the round holds; without rounds it waits for every single value.
    """
    rng = np.random.default_rng(seed)
    heads = scanned(meter)
    while True:
        _climb(meter, heads)
        heads = [heads[index] for index in rng.permutation(len(heads))]


def scanned(meter: Meter) -> list[Head]:
    """Return the free heads by their value when they alone are ablated, best first."""
    heads = meter.limits.free_heads(meter.grid)
    _, *values = meter.values(HeadMask.singles(meter.grid, heads))
    return [heads[index] for index in np.argsort(values, kind="stable")[::-1]]


def _climb(meter: Meter, heads: list[Head]) -> None:
    mask = HeadMask.empty(meter.grid)
    best, improved = meter(mask), True
    while improved:
        improved = False
        for start in range(0, len(heads), meter.width or 1):
            flipped = [mask.flipped(head) for head in heads[start : start + (meter.width or 1)]]
            values = meter.values(flipped)
            if max(values) > best:
                mask, best, improved = flipped[int(np.argmax(values))], max(values), True
