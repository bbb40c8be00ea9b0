"""One replica of a group that divides the images: its work on its part of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headmask.mask import HeadGrid, HeadMask, bools_of
from workers.scoring.displacement import Displacements
from workers.scoring.messages import Stage
from workers.scoring.replica import Replica
from workers.scoring.scorer import Scorer
from workers.tasks.base import Partial, block_of, part_of

# M masks, D data sets, S shards, n images of a shard, Q queries

Own = NDArray[np.float32] | None
"""Scores of a shard's queries with their right answers; None for a mask whose embeddings are not finite there."""


@dataclass(frozen=True)
class Found:
    """One shard's part of a mask's ranks on one data set; None if embeddings are not finite."""

    partial: Partial | None
    embedding_nE: NDArray[np.float32] | None = None


@dataclass
class Shard(Replica):
    """One replica of a group: embeds and ranks its part of the images; predicts and does tasks like any replica."""

    _part: tuple[int, int] = field(init=False, default=(0, 1), repr=False)
    _embedded: tuple[int, list[Tensor]] | None = field(init=False, default=None, repr=False)
    """The last embedded batch, and its embeddings (M, n, E) on every data set."""
    _has_all: bool = field(init=False, default=True, repr=False)
    """Whether it predicts for all images, or for its part alone."""

    @property
    def part(self) -> tuple[int, int]:
        """Index of its part of the images, and the number of parts."""
        return self._part

    def take_part(self, part: tuple[int, int]) -> None:
        """Embed this part of the images from now on."""
        self._part = part

    def adopt_displacements(self, displacements: Sequence[Displacements], by_parts: bool = False) -> None:
        """Predict from now on by the displacements of every data set on the search split.

        Args:
            displacements: those of all images.
            by_parts: predict for its own part of the images alone; nothing else is kept on the device.
        """
        if by_parts:
            displacements = [each.part(rows) for each, rows in zip(displacements, self._rows, strict=True)]
        self._has_all = not by_parts
        super().adopt_displacements(displacements)

    @property
    def _rows(self) -> list[slice]:
        """Its part of the images of every data set on the search split."""
        if self.constants is None:
            raise RuntimeError("a shard adopts the constants of the study before it predicts")
        sizes = [len(split.inputs) for split in self.payload.splits["search"].values()]
        return [part_of(size, block_of(size, self.constants.chunk), *self.part) for size in sizes]

    def embed(self, batch: int, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[list[Own]]:
        """Return a shard's queries' scores with their right answers, by data set and mask; keep the embeddings."""
        parts = zip(self._scorers_of(stage), self._embeddings(batch, stage, grid, words), strict=True)
        return [[scorer.own_scores(each_nE) for each_nE in embedding_MnE] for scorer, embedding_MnE in parts]

    def rank(
        self, batch: int, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]], own: list[list[Own]]
    ) -> list[list[Found]]:
        """Return a shard's part of the ranks of a batch, by data set and mask.

        Args:
            batch: number of the batch; a replacement for the replica that embedded it embeds it now.
            stage: stage at which it is scored.
            grid: grid of the masks.
            words: words of the masks.
            own: the own scores of all shards, concatenated; None for masks that cannot be ranked.
        """
        embedded = self._embeddings(batch, stage, grid, words)
        self._embedded = None
        return [
            [
                Found(
                    None if own_Q is None else scorer.partial(embedding_nE, own_Q),
                    embedding_nE.cpu().numpy() if stage.embeddings else None,
                )
                for embedding_nE, own_Q in zip(embedding_MnE, own_M, strict=True)
            ]
            for scorer, embedding_MnE, own_M in zip(self._scorers_of(stage), embedded, own, strict=True)
        ]

    def _embeddings(self, batch: int, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[Tensor]:
        """Return the embeddings (M, n, E) of a batch on every data set; they are kept."""
        if self._embedded is None or self._embedded[0] != batch:
            masks = [HeadMask(grid, word) for word in words]
            if stage.predicted and not self._has_all:
                found = [torch.stack(list(map(each.embed, masks))) for each in self._predictors]
            else:
                found = [scorer.embed(bools_of(masks)) for scorer in self._scorers_of(stage)]
            self._embedded = batch, found
        return self._embedded[1]

    def _scorers_of(self, stage: Stage) -> list[Scorer]:
        return [self.scorer(stage, prefix, self.part) for prefix in self.payload.splits[stage.split]]


def joined(own_SDM: Sequence[Sequence[Sequence[Own]]]) -> list[list[Own]]:
    """Return the own scores of all shards, concatenated, by data set and mask; None if a shard has none."""

    def all_of(own_S: Sequence[Own]) -> Own:
        parts = [own_q for own_q in own_S if own_q is not None]
        return np.concatenate(parts) if len(parts) == len(own_S) else None

    return [[all_of(own_S) for own_S in zip(*own_SM, strict=True)] for own_SM in zip(*own_SDM, strict=True)]
