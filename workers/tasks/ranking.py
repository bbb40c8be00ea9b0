"""From similarities to ranks and probabilities, and the credit of a rank.

A rank counts the competitors that score not less than the target. A probability is the target's share in the softmax at
the model's temperature: 1 / (1 + the competitors' odds), so a reciprocal rank in which every competitor counts by how
far it leads, exp(scale * lead), instead of by 1 or 0. Both are read from the same tile of scores.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

# t queries of a tile, Q queries of a kind, G competitors with the target

MAX_RANK = 255
CLIP_SCALE = 100.0
"""Logit scale of the published CLIP models, and the maximum that CLIP is trained to."""
ODDS_UNIT = 2.0**-20


def clipped(ranks: Tensor) -> NDArray[np.uint8]:
    """Return ranks as they are stored."""
    kept: NDArray[np.uint8] = ranks.clamp(max=MAX_RANK).cpu().numpy().astype(np.uint8)
    return kept


def odds_against(scores_tG: Tensor, target: Tensor, scale: float, dim: int) -> Tensor:
    """Return the competitors' odds exp(scale * lead over the target), summed over a dimension, in `ODDS_UNIT`, float64.

    Every competitor counts in whole units and 2^20 at most, so that no order of adding, and no way of sharing the
    competitors out, changes the last bit of a sum. It is computed in the scores' own memory.
    """
    import torch

    most = -math.log(ODDS_UNIT)
    odds_tG = scores_tG.sub_(target).mul_(scale).add_(most).clamp_(max=2 * most).exp_()
    return odds_tG.round_().sum(dim, dtype=torch.float64)


def probability(odds_Q: Tensor) -> NDArray[np.float32]:
    """Return the probability of every query's target from the sum of its competitors' odds, see `odds_against`."""
    # Beyond 2^53 a float64 does not count every unit.
    probability_Q: NDArray[np.float32] = (1 / (1 + ODDS_UNIT * odds_Q.clamp(max=2.0**52))).float().cpu().numpy()
    return probability_Q


def within(k: int) -> NDArray[np.float64]:
    """Return the credit of a hit, by rank: 1 below k, else 0."""
    return (np.arange(MAX_RANK + 1) < k).astype(np.float64)


def reciprocal() -> NDArray[np.float64]:
    """Return the credit of the reciprocal rank (Voorhees 1999): 1 / (1 + rank), 0 where ranks are clipped.

    So the clipping costs a query at most 1/256; it is never to a mask's advantage.
    """
    credits = 1 / np.arange(1.0, MAX_RANK + 2)
    credits[MAX_RANK] = 0.0
    return credits


def logarithmic() -> NDArray[np.float64]:
    """Return a credit that every halving of 1 + rank raises alike: 1 - log(1 + rank) / log(256), 0 where clipped."""
    credits: NDArray[np.float64] = 1 - np.log2(np.arange(1.0, MAX_RANK + 2)) / np.log2(MAX_RANK + 1)
    return credits
