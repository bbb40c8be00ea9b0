"""Selecting a mask: finalists by the guide on search, of the best ones on confirm the smallest. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headmask.mask import Head, HeadMask
from strategies.space import Limits

AS_GOOD = 0.5
"""Standard errors by which a mask's value may be below that of one with more heads."""
CLOSE = 2.0
"""Standard errors by which the objective of a mask may be below that of the best one for the guide to decide."""
StandardError = Callable[[int, int], float | None]
"""Returns the standard error of the difference of two values, given by their indices; None where it is not known."""


def _unknown(index: int, best: int) -> None:
    """Return that a standard error is not known."""


@dataclass(frozen=True)
class Judged:
    """What finalists are worth on confirm."""

    values: NDArray[np.float64]
    """Of each; NaN for a failure, below zero if a limit of loss is broken."""
    standard_error: StandardError = _unknown


def finalists(masks: Sequence[HeadMask], values: NDArray[np.float64], count: int) -> list[HeadMask]:
    """Return the best masks of the search split, best first, and those with which a smaller one may do as well.

    These are, for each number of heads, the best mask if no smaller one is as good, and the best single head. The empty
    mask is one of them.

    Args:
        masks: all that were scored.
        values: what they were searched by; NaN for a failure.
        count: of the best masks.
    """
    scored = np.flatnonzero(np.isfinite(values)).tolist()
    ranked = [masks[i] for i in sorted(scored, key=lambda i: (-values[i], len(masks[i]), masks[i].words))]
    best_of_size: dict[int, HeadMask] = {}
    for mask in ranked:
        if all(size > len(mask) for size in best_of_size):
            best_of_size[len(mask)] = mask
    chosen = {*ranked[:count], *best_of_size.values(), *[mask for mask in ranked if len(mask) == 1][:1]}
    return [mask for mask in ranked if mask in chosen]


def as_good(value: float, best: float, standard_error: float | None) -> bool:
    """Return whether a mask is as good as the best one: lower by half a standard error of their difference at most.

    Where there are too few clusters for a standard error, only a mask that scores no less is.

    Heads that earn less than that are more often noise. It is the rule of one standard error (Breiman et al. 1984,
    section 3.4.3) at the half of it, where it gained most on test (docs/decisions/0010).
    """
    return best - value <= AS_GOOD * (standard_error or 0.0)


def select(masks: Sequence[HeadMask], objective: Judged, guide: Judged) -> int:
    """Return the index of the mask to select: of all close to the best one, the smallest that is as good by the guide.

    A mask is close if its objective is below the best one's by two standard errors of their difference at most. The
    recall of a small split hardly tells such masks apart; the guide does (docs/decisions/0025). Of equally small masks
    the better one by the guide is selected, then by words; failures never win.

    Args:
        masks: finalists.
        objective: what they are worth by the objective.
        guide: what they are worth by what masks were searched by.

    Raises:
        ValueError: no mask has a value.
    """
    sizes, order = [len(mask) for mask in masks], [mask.words for mask in masks]
    best = _ranked(sizes, order, objective.values)[0]
    return smallest_as_good(
        sizes, order, guide.values, guide.standard_error, lambda index: _is_close(objective, index, best)
    )


def _is_close(judged: Judged, index: int, best: int) -> bool:
    value, most = judged.values[index], judged.values[best]
    if not np.isfinite(value) or value < 0 <= most:
        return False
    return bool(value == most) or bool(most - value <= CLOSE * (judged.standard_error(index, best) or 0.0))


def _ranked(sizes: Sequence[float], order: Sequence[Any], values: NDArray[np.float64]) -> list[int]:
    """Return the indices of what has a value: the best first, of equal ones the smallest, then the first in order."""
    scored = np.flatnonzero(np.isfinite(values)).tolist()
    if not scored:
        raise ValueError("no finalist has a value")
    return sorted(scored, key=lambda i: (-values[i], sizes[i], order[i]))


def smallest_as_good(
    sizes: Sequence[float],
    order: Sequence[Any],
    values: NDArray[np.float64],
    standard_error: StandardError = _unknown,
    counts: Callable[[int], bool] = lambda index: True,
) -> int:
    """Return the index of the smallest of all that are as good as the best one, for anything that has a size.

    Args:
        sizes: of what is compared.
        order: decides between what is equal in value and size.
        values: of each; NaN for a failure.
        standard_error: of the difference of two values.
        counts: returns whether that with an index may be returned; by default, all may. It is asked of few.

    Raises:
        ValueError: nothing has a value.
    """
    ranked = _ranked(sizes, order, values)
    best = next(index for index in ranked if counts(index))
    smaller = [index for index in ranked if sizes[index] < sizes[best]]
    for index in sorted(smaller, key=lambda index: sizes[index]):
        if as_good(values[index], values[best], standard_error(index, best)) and counts(index):
            return index
    return best


def matched_random_masks(
    mask: HeadMask, count: int, rng: np.random.Generator, limits: Limits | None = None
) -> list[HeadMask]:
    """Return distinct random masks with the same number of heads in every layer, the mask itself excluded.

    There may be fewer than `count`: none for the empty mask, and no more than exist.
    """
    free: dict[int, list[Head]] = {layer: [] for layer in range(mask.grid.layers)}
    for head in (limits or Limits()).free_heads(mask.grid):
        free[head.layer].append(head)
    found: dict[HeadMask, None] = {}
    for _ in range(20 * count):
        if mask.is_empty or len(found) == count:
            break
        heads = [
            free[layer][index]
            for layer, size in enumerate(mask.layer_counts)
            for index in rng.choice(len(free[layer]), size=size, replace=False)
        ]
        drawn = HeadMask.from_heads(mask.grid, heads)
        if drawn != mask:
            found[drawn] = None
    return list(found)
