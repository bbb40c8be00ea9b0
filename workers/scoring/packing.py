"""Towers on their way to another process."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class PackedTower:
    """A tower as its structure, without storage, and its tensors as numpy arrays."""

    skeleton: nn.Module
    arrays: Mapping[str, NDArray]

    @classmethod
    def pack(cls, tower: nn.Module) -> PackedTower:
        """Return a tower packed: its parameters and buffers, including those in no checkpoint, as arrays."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in _tensors(tower).items()}
        return cls(deepcopy(tower).to("meta"), arrays)

    def unpack(self) -> nn.Module:
        """Return the tower on the CPU, with its own storage."""
        tower = deepcopy(self.skeleton).to_empty(device="cpu")
        with torch.no_grad():
            for name, tensor in _tensors(tower).items():
                tensor.copy_(torch.from_numpy(np.array(self.arrays[name])))
        return tower.eval()


def _tensors(tower: nn.Module) -> dict[str, Tensor]:
    return dict(tower.named_parameters()) | dict(tower.named_buffers())
