"""The displacements of one search: collected during the scan, and kept on disk for resuming."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headmask.border.home import cache_folder
from headmask.mask import HeadMask
from workers.scoring.displacement import Displacements, displacement
from workers.scoring.embedding import cache_key
from workers.scoring.rows import Row, RowFiles

# N inputs of the searched tower, E embedding


class DisplacementStore:
    """Collects the displacements of a scan, mask by mask.

    A row has one array (N, E) for each data set: embeddings in float32 for the empty mask, displacements in float16 for
    others.

    Args:
        masks: masks of the scan: the empty one, then single heads.
        shapes: (N, E) of the embeddings of every data set.
        decides: everything that decides embeddings; see `workers.scoring.embedding.kept`.
        folder: folder of the cache; see `headmask.border.home.cache_folder`.
    """

    def __init__(
        self,
        masks: Sequence[HeadMask],
        shapes: Sequence[tuple[int, int]],
        decides: tuple[Any, ...],
        *,
        folder: Path | None = None,
    ) -> None:
        self.masks = tuple(masks)
        self._baseline, *self._singles = masks
        self._shapes = tuple(shapes)
        self._files = RowFiles(
            (folder or cache_folder()) / f"displacements-{cache_key(decides)}",
            what="displacements",
            loss="a resumed search scans again",
        )
        self._early: dict[HeadMask, Row] = {}
        """Embeddings that arrived before those of the empty mask."""
        self._rows = {mask: row for mask in masks if (row := self._files.read(_name(mask), self._shapes))}

    @property
    def missing(self) -> set[HeadMask]:
        """Masks of the scan whose row is missing."""
        return {self._baseline, *self._singles} - self._rows.keys()

    def exclude(self, mask: HeadMask) -> None:
        """Make a mask of the scan count as not finite, whatever is on disk: nothing is predicted with it.

        Without the empty mask, nothing is predicted at all.
        """
        for each in (self._baseline, *self._singles) if mask == self._baseline else (mask,):
            self._rows[each] = tuple(np.full(shape, np.nan, dtype=np.float32) for shape in self._shapes)

    def add(self, mask: HeadMask, embeddings: Row) -> None:
        """Add the embeddings of a mask of the scan."""
        if mask != self._baseline and self._baseline not in self._rows:
            self._early[mask] = embeddings
            return
        if mask == self._baseline:
            # A copy, because what arrives may be a part of something larger.
            self._keep(mask, tuple(np.array(embedding_NE) for embedding_NE in embeddings))
            early, self._early = self._early, {}
            for each, its_embeddings in early.items():
                self.add(each, its_embeddings)
        else:
            self._keep(mask, tuple(map(displacement, embeddings, self._rows[self._baseline])))

    def take(self) -> list[Displacements]:
        """Return the displacements of every data set, which are no longer kept here.

        Raises:
            ValueError: a row is missing.
        """
        if self.missing:
            raise ValueError(f"{len(self.missing)} rows of displacements are missing")
        rows, self._rows = self._rows, {}
        return [
            Displacements(baseline_NE, {mask.heads[0]: rows[mask][index] for mask in self._singles})
            for index, baseline_NE in enumerate(rows[self._baseline])
        ]

    def _keep(self, mask: HeadMask, row: Row) -> None:
        self._rows[mask] = row
        self._files.keep(_name(mask), row)


def _name(mask: HeadMask) -> str:
    return str(mask) if len(mask) else "baseline"
