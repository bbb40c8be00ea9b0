"""Selecting a mask: finalists by the guide on search, the smallest that is as good on confirm. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headmask.mask import Head, HeadMask
from strategies.space import Limits

AS_GOOD = 0.5
"""Standard errors by which a mask's value may be below that of one with more heads."""


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


def select(
    masks: Sequence[HeadMask],
    values: NDArray[np.float64],
    standard_error: Callable[[int, int], float | None] = lambda index, best: None,
) -> int:
    """Return the index of the mask to select by values on confirm: of those as good as the best one, the smallest.

    Of equally small masks the better one is selected, then by words; NaN never wins.

    Args:
        masks: finalists.
        values: of each on confirm; NaN for a failure.
        standard_error: of the difference of two masks' values, given by their indices; None, the
            default, where it is not known.

    Raises:
        ValueError: no mask has a value.
    """
    return smallest_as_good([len(mask) for mask in masks], [mask.words for mask in masks], values, standard_error)


def smallest_as_good(
    sizes: Sequence[float],
    order: Sequence[Any],
    values: NDArray[np.float64],
    standard_error: Callable[[int, int], float | None] = lambda index, best: None,
) -> int:
    """Return the index that `select` describes, for anything that has a size.

    Args:
        sizes: of what is compared.
        order: decides between what is equal in value and size.
        values: as for `select`.
        standard_error: likewise.

    Raises:
        ValueError: nothing has a value.
    """
    scored = np.flatnonzero(np.isfinite(values)).tolist()
    if not scored:
        raise ValueError("no finalist has a value")
    best = min(scored, key=lambda i: (-values[i], sizes[i], order[i]))
    smaller = [i for i in scored if sizes[i] < sizes[best]]
    for i in sorted(smaller, key=lambda i: (sizes[i], -values[i], order[i])):
        if as_good(values[i], values[best], standard_error(i, best)):
            return i
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
