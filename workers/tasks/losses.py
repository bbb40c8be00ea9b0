"""The losses that gates are trained by: how unlikely the right answers are on a part of a split, differentiable.

The embeddings of the other side are there anyway, so every loss is against all of them; on the searched side, against
those of the micro-batch. All have the model's own temperature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from headmask.tower.towers import TowerName
from workers.tasks.base import Targets
from workers.tasks.classification import ClassificationTargets
from workers.tasks.matching import MatchingTargets
from workers.tasks.retrieval import RetrievalTargets

# n inputs and u units of a micro-batch, E embedding, N images, Q captions, C classes

Indices = NDArray[np.int64]
Loss = Callable[[Tensor, Tensor], Tensor]
"""The mean loss, in nats, from L2-normalised embeddings of a micro-batch's inputs (n, E) and of the other side."""

INPUTS = 64
"""Approximate number of inputs in a micro-batch: enough others to contrast with, few enough for any memory."""
LEAST_UNITS = 8


@dataclass(frozen=True)
class MicroBatch:
    """A part of a split, small enough for a backward pass."""

    inputs_n: Indices
    """Rows of the searched tower's inputs."""
    loss: Loss


def micro_batches(targets: Targets, num_inputs: int, seed: int) -> list[Indices]:
    """Return the units (u) of every micro-batch of a split: in random order, all of them, sizes equal or one apart.

    Args:
        targets: targets of the split. A unit is an image with its captions, a labelled image, or a pair.
        num_inputs: number of inputs of the searched tower.
        seed: seed of the order.
    """
    units = np.random.default_rng(seed).permutation(num_units(targets))
    size = max(LEAST_UNITS, INPUTS * len(units) // num_inputs)
    return np.array_split(units, -(-len(units) // size))


@singledispatch
def num_units(targets: Targets) -> int:
    """Return the number of units in a split."""
    raise TypeError(f"no loss for {type(targets).__name__}")


@singledispatch
def micro_batch(targets: Targets, units_u: Indices, tower: TowerName, num_inputs: int) -> MicroBatch:
    """Return the inputs of some units, and the loss on them.

    Args:
        targets: targets of the split.
        units_u: of `num_units`.
        tower: tower whose heads have gates.
        num_inputs: number of inputs of that tower on the split.
    """
    raise TypeError(f"no loss for {type(targets).__name__}")


@num_units.register
def _(targets: RetrievalTargets) -> int:
    return int(targets.image_of_caption_Q[-1]) + 1


@micro_batch.register
def _(targets: RetrievalTargets, units_u: Indices, tower: TowerName, num_inputs: int) -> MicroBatch:
    """Contrast every caption with images, and every image with captions, of which all its own ones are right."""
    image_Q = np.asarray(targets.image_of_caption_Q)
    captions_q = np.flatnonzero(np.isin(image_Q, units_u))
    if tower == "image":
        own_uQ = torch.from_numpy(image_Q == units_u[:, None])

        def loss(image_uE: Tensor, text_QE: Tensor) -> Tensor:
            logits_uQ = targets.scale * image_uE @ text_QE.T
            own = own_uQ.to(logits_uQ.device)
            return (_surprise(logits_uQ, own) + _surprise(logits_uQ[:, captions_q].T, own[:, captions_q].T)) / 2

        return MicroBatch(units_u, loss)
    own_qN = torch.from_numpy(image_Q[captions_q][:, None] == np.arange(num_units(targets)))

    def loss_of_texts(text_qE: Tensor, image_NE: Tensor) -> Tensor:
        logits_qN = targets.scale * text_qE @ image_NE.T
        own = own_qN.to(logits_qN.device)
        return (_surprise(logits_qN, own) + _surprise(logits_qN[:, units_u].T, own[:, units_u].T)) / 2

    return MicroBatch(captions_q, loss_of_texts)


@num_units.register
def _(targets: ClassificationTargets) -> int:
    return len(targets.class_of_image_N)


@micro_batch.register
def _(targets: ClassificationTargets, units_u: Indices, tower: TowerName, num_inputs: int) -> MicroBatch:
    """Cross-entropy over all classes; where prompts have gates, over those of the micro-batch."""
    class_u = np.asarray(targets.class_of_image_N)[units_u]
    if tower == "image":

        def loss(image_uE: Tensor, class_CE: Tensor) -> Tensor:
            return F.cross_entropy(targets.scale * image_uE @ class_CE.T, torch.from_numpy(class_u).to(class_CE.device))

        return MicroBatch(units_u, loss)
    present, own_u = np.unique(class_u, return_inverse=True)
    prompts = num_inputs // targets.num_classes
    fewer = ClassificationTargets(own_u, len(present), scale=targets.scale)

    def loss_of_prompts(text_nE: Tensor, image_NE: Tensor) -> Tensor:
        logits_uc = targets.scale * image_NE[units_u] @ fewer.pooled(text_nE).T
        return F.cross_entropy(logits_uc, torch.from_numpy(own_u).to(logits_uc.device))

    return MicroBatch((present[:, None] * prompts + np.arange(prompts)).ravel(), loss_of_prompts)


@num_units.register
def _(targets: MatchingTargets) -> int:
    return targets.num_pairs


@micro_batch.register
def _(targets: MatchingTargets, units_u: Indices, tower: TowerName, num_inputs: int) -> MicroBatch:
    """Contrast within every pair, images with captions and captions with images."""
    rows_n = (2 * units_u[:, None] + np.arange(2)).ravel()

    def loss(own_nE: Tensor, other_E: Tensor) -> Tensor:
        own_u2E, other_u2E = (torch.unflatten(side, 0, (-1, 2)) for side in (own_nE, other_E[rows_n]))
        logits_u22 = targets.scale * own_u2E @ other_u2E.transpose(1, 2)
        right = torch.eye(2, dtype=torch.bool, device=logits_u22.device).repeat(len(units_u), 1)
        return (_surprise(logits_u22.flatten(0, 1), right) + _surprise(logits_u22.mT.flatten(0, 1), right)) / 2

    return MicroBatch(rows_n, loss)


def _surprise(logits_rc: Tensor, right_rc: Tensor) -> Tensor:
    """Return the mean over rows of -log of the softmax on the right columns, all together."""
    right_r = logits_rc.masked_fill(~right_rc, -torch.inf).logsumexp(1)
    return (logits_rc.logsumexp(1) - right_r).mean()
