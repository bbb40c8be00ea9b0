"""How long a search takes on its replicas, and what part of them it keeps busy: its blocks are gone through in time."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count

import numpy as np

from strategies import Blocks
from strategies.history import FloatArray

# T trials

SPREAD = 0.3
"""Part by which masks take longer or shorter than the average one."""
GOLDEN = 0.6180339887498949
"""Multiples of it are spread evenly between whole numbers, however many there are."""
BLOCK_S, FULL_TRIALS, DRAWN_S = 0.1, 700, 0.0005
"""Seconds to plan a block from as many results as a model is fitted to, and for a mask of it, on a usual core."""
MAX_TRIALS = 20_000
"""Trials that are gone through one by one; later ones take what the last quarter of these took."""


@dataclass(frozen=True)
class Pace:
    """When the masks of a search are done, if nothing else holds it up."""

    ends_T: FloatArray
    """Seconds from the start at which a trial is done, by its number."""
    seconds: float
    """Seconds until all are done."""
    busy: float
    """Part of the replicas' time in which they score or train, 0 to 1."""


def planning_s(blocks: Blocks, block: int) -> float:
    """Return the seconds that planning a block takes; none for block 0, which nothing is learned for."""
    if block == 0:
        return 0.0
    known = min(1.0, blocks.num_known(block) / FULL_TRIALS)
    return BLOCK_S * known**2 + DRAWN_S * len(blocks.numbers(block))


def pace_of(
    blocks: Blocks,
    num_masks: int,
    replicas: int,
    mask_s: float,
    *,
    training_s: float = 0.0,
    plans: bool = True,
) -> Pace:
    """Return the pace of a search: masks are scored in the order of their numbers, by whichever replica is free.

    Args:
        blocks: how trials form blocks, and what a block waits for.
        num_masks: number of masks, at least 1.
        replicas: number of replicas, or of groups that share the images.
        mask_s: seconds that a replica takes for a mask on average.
        training_s: seconds of a replica in which scales are trained first; block 1 waits for that if it is open.
        plans: whether planning takes time.
    """
    simulated = min(num_masks, MAX_TRIALS)
    seconds_T = mask_s * (1 + SPREAD * (2 * (np.arange(simulated) * GOLDEN % 1) - 1))
    ends_T = np.zeros(simulated)
    free = [0.0] * (replicas - 1) + [training_s]
    planned = 0.0
    for block in count():
        numbers = range(simulated)[blocks.numbers(block).start : blocks.numbers(block).stop]
        if not numbers:
            break
        planned = max(planned, float(ends_T[: blocks.num_known(block)].max(initial=0)))
        planned = max(planned, training_s) if block == 1 and blocks.is_open else planned
        planned += planning_s(blocks, block) if plans else 0.0
        for number in numbers:
            ends_T[number] = max(planned, free[0]) + seconds_T[number]
            heapq.heapreplace(free, float(ends_T[number]))
    end = float(ends_T.max())
    later = num_masks - simulated
    rest = (end - float(ends_T[3 * simulated // 4])) / (simulated - 3 * simulated // 4) if later else 0.0
    seconds = end + later * rest
    scored = training_s + float(seconds_T.sum()) + later * mask_s
    return Pace(ends_T, seconds, scored / (replicas * seconds) if seconds else 1.0)
