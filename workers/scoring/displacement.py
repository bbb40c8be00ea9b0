"""Displacements: how far every embedding moves when one head is ablated. Their sums predict the embeddings of any mask.

A scan computes the embeddings of all inputs without head h. Before normalisation, e(mask) is close to e(baseline) plus
the sum over the mask's heads of d_h = e({h}) - e(baseline): what a mask does to the embeddings is nearly additive where
what it does to a metric is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headmask.mask import Head, HeadMask
from workers.scoring.inputs import shared_tensor

# N inputs of the searched tower, E embedding

MEMORY_SHARE = 0.25
"""Part of what is free, on a GPU and on its host, that displacements may take."""


@dataclass(frozen=True)
class Displacements:
    """Embeddings of the inputs of one data set, and how far they move."""

    baseline_NE: NDArray[np.float32]
    """Embeddings with nothing ablated, not normalised."""
    moved: Mapping[Head, NDArray[np.float16]]
    """By head, how its ablation moves the embeddings (N, E)."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.baseline_NE.nbytes + sum(moved_NE.nbytes for moved_NE in self.moved.values())

    def part(self, rows: slice) -> Displacements:
        """Return the displacements of consecutive inputs, which share the memory of all."""
        return Displacements(self.baseline_NE[rows], {head: moved_NE[rows] for head, moved_NE in self.moved.items()})


def displacement_bytes(num_heads: int, shapes: Sequence[tuple[int, int]]) -> int:
    """Return the size of displacements, given the shapes (N, E) of the embeddings of every data set."""
    return sum(rows * width * (2 * num_heads + 4) for rows, width in shapes)


def displacement(embedding_NE: NDArray[np.float32], baseline_NE: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return how far embeddings are from the baseline's; values beyond float16 become infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        moved_NE: NDArray[np.float16] = (embedding_NE - baseline_NE).astype(np.float16)
    return moved_NE


class Predictor:
    """Predicts embeddings under masks, on a device.

    A prediction is a function of its mask alone, to the last bit: heads are added in the order of the grid, in float32.

    Args:
        displacements: kept on the device if there is room.
        device: where predictions are wanted.
    """

    def __init__(self, displacements: Displacements, device: torch.device) -> None:
        self._device = device
        self._baseline_NE = shared_tensor(displacements.baseline_NE).to(device)
        self._moved = {head: shared_tensor(moved_NE) for head, moved_NE in displacements.moved.items()}
        if device.type == "cuda" and displacements.nbytes <= MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
            self._moved = {head: moved_NE.to(device) for head, moved_NE in self._moved.items()}

    @torch.inference_mode()
    def embed(self, mask: HeadMask) -> Tensor:
        """Return the predicted embeddings (N, E) of a mask in float32, not normalised."""
        predicted_NE = self._baseline_NE.clone()
        for head in mask.heads:
            predicted_NE += self._moved[head].to(self._device).float()
        return predicted_NE
