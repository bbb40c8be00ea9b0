"""A replica: one copy of the tower on one device, scoring masks for any split. Ray actors and the inline pool hold one.

Everything that a replica needs arrives as a `Payload` of arrays, so a node needs the installed package and no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headmask.mask import HeadGrid, HeadMask, stack
from headmask.towers import VisionTowerView
from workers.engine import Normalisation
from workers.scorer import MaskScore, Precision, Scorer, ScorerSettings, SplitArrays, device_kind, proven_view


@dataclass(frozen=True)
class PackedTower:
    """A tower as its structure, without storage, and its tensors as numpy arrays."""

    skeleton: nn.Module
    arrays: Mapping[str, NDArray]

    @classmethod
    def pack(cls, tower: nn.Module) -> PackedTower:
        """Return a tower packed; its parameters and buffers (those that no checkpoint holds, too) become arrays."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in _tensors(tower).items()}
        return cls(deepcopy(tower).to("meta"), arrays)

    def unpack(self) -> nn.Module:
        """Return the tower on the CPU, with storage of its own."""
        tower = deepcopy(self.skeleton).to_empty(device="cpu")
        with torch.no_grad():
            for name, tensor in _tensors(tower).items():
                tensor.copy_(torch.from_numpy(np.array(self.arrays[name])))
        return tower.eval()


def _tensors(tower: nn.Module) -> dict[str, Tensor]:
    return dict(tower.named_parameters()) | dict(tower.named_buffers())


@dataclass(frozen=True)
class Payload:
    """All that a replica needs to score masks."""

    tower: PackedTower
    splits: Mapping[str, SplitArrays]
    normalisation: Normalisation
    settings: ScorerSettings
    means_LHd: NDArray[np.float32] | None = None

    def with_means(self, means_LHd: NDArray[np.float32]) -> Payload:
        """Return the payload with calibrated mean outputs, for ablation `mean`."""
        return replace(self, means_LHd=means_LHd)

    def gathered(self) -> Payload:
        """Return the payload with its pixels in arrays of their own, fit to travel."""
        splits = {name: replace(split, pixels=split.pixels.gathered()) for name, split in self.splits.items()}
        return replace(self, splits=splits)


@dataclass(frozen=True)
class Stage:
    """What masks are scored on: a split, at a precision, keeping every query's rank or not."""

    split: str
    precision: Precision = "float32"
    ranks: bool = False


@dataclass
class Replica:
    """Scores masks at any stage; scorers are made when first needed and kept."""

    payload: Payload
    device: str = "cpu"
    _tower: nn.Module = field(init=False, repr=False)
    _views: dict[str, VisionTowerView] = field(init=False, default_factory=dict, repr=False)
    """The proven view of each precision."""
    _scorers: dict[tuple[str, str], Scorer] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._tower = self.payload.tower.unpack()

    def device_kind(self) -> str:
        """Return the kind of device and version that decide the last bits of a score."""
        return device_kind(self.device)

    def score(self, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[MaskScore]:
        """Return the scores of masks given by their words, in the order given."""
        scorer = self._scorer(stage)
        return scorer.score(stack(HeadMask(grid, word) for word in words), ranks=stage.ranks)

    def _scorer(self, stage: Stage) -> Scorer:
        key = stage.split, stage.precision
        if key not in self._scorers:
            split, means_LHd = self.payload.splits[stage.split], self.payload.means_LHd
            if stage.precision not in self._views:
                self._views[stage.precision] = proven_view(
                    self._tower,
                    split.pixels,
                    self.payload.normalisation,
                    precision=stage.precision,
                    device=self.device,
                )
            self._scorers[key] = Scorer(
                self._views[stage.precision],
                split,
                self.payload.normalisation,
                self.payload.settings,
                means_LHd=None if means_LHd is None else torch.from_numpy(np.array(means_LHd)),
            )
        return self._scorers[key]
