"""The losses that scales are trained by: how unlikely the right answers are on a part of a split, differentiable.

The embeddings of the other side are there anyway, so every loss is against all of them; on the searched side, against
those of the micro-batch. All have the model's own temperature. Which loss a task has is said by its
`Targets.micro_batch`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.tasks.base import Targets

# n inputs and u units of a micro-batch, E embedding, r rows, c columns

Indices = NDArray[np.int64]
Loss = Callable[[Tensor, Tensor], Tensor]
"""The mean loss, in nats, from L2-normalised embeddings of a micro-batch's inputs (n, E) and of the other side."""

INPUTS = 64
"""Approximate number of inputs in a micro-batch: enough others to contrast with, few enough for any memory."""
MIN_UNITS = 8


@dataclass(frozen=True)
class MicroBatch:
    """A part of a split, small enough for a backward pass."""

    inputs_n: Indices
    """Rows of the searched tower's inputs."""
    loss: Loss


def micro_batches(targets: Targets, num_inputs: int, seed: int, units: Indices | None = None) -> list[Indices]:
    """Return the units (u) of every micro-batch of a split: in random order, all of them, sizes equal or one apart.

    Args:
        targets: targets of the split. A unit is an image with its captions, a labelled image, or a pair.
        num_inputs: number of inputs of the searched tower.
        seed: seed of the order.
        units: some units; all by default.
    """
    units = np.random.default_rng(seed).permutation(targets.num_units if units is None else units)
    size = max(MIN_UNITS, INPUTS * targets.num_units // num_inputs)
    return np.array_split(units, -(-len(units) // size))


def surprise(logits_rc: Tensor, right_rc: Tensor) -> Tensor:
    """Return the mean over rows of -log of the softmax on the right columns, all together."""
    right_r = logits_rc.masked_fill(~right_rc, -torch.inf).logsumexp(1)
    return (logits_rc.logsumexp(1) - right_r).mean()
