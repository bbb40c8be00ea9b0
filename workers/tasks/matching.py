"""Matching two images with two captions each way, as Winoground and Cola do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from headmask.errors import DataError
from workers.tasks.base import MIN_ROWS, Partial, QueryKind, Rows, Targets, padded
from workers.tasks.metrics import Share
from workers.tasks.ranking import CLIP_SCALE, clipped, within

if TYPE_CHECKING:
    from torch import Tensor

    from headmask.tower.towers import TowerName
    from workers.tasks.losses import Indices, MicroBatch

# P pairs, p pairs and n images of a part, E embedding


@dataclass(frozen=True, eq=False)
class MatchingTargets(Targets):
    """Pairs of images, each with a caption that fits it and not the other.

    Images 2p and 2p + 1 and the captions at the same places are pair p. The text score counts pairs in which both
    images prefer their own caption, the image score those in which both captions prefer their own image, the group
    score those in which both hold (Thrush et al. 2022, arXiv 2204.03162). A tie is no preference.
    """

    num_pairs: int
    scale: float = CLIP_SCALE
    """The model's logit scale."""

    task = "matching"
    metrics = ("text_score", "image_score", "group_score")
    default_objective = "group_score"
    needs = ("image", "caption", "pair")
    told_by = ("pair", "caption")
    kinds: ClassVar[Mapping[str, QueryKind]] = {
        "text": QueryKind(num_images=2, is_ranked=False),
        "image": QueryKind(num_images=2, is_ranked=False),
        "group": QueryKind("Pairs of images and captions", num_images=2, is_ranked=False),
    }

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """Return the number of pairs.

        Raises:
            DataError: one image of a pair is in another split.
        """
        if rows.pairs[::2] != rows.pairs[1::2]:
            raise DataError(f"split {rows.split} holds one image of a pair without the other")
        return cls(len(rows.pairs) // 2)

    @classmethod
    def restored(cls, columns: Mapping[str, Mapping[str, Any]]) -> Self:
        """Return the targets from the number of queries."""
        return cls(len(columns["text"]["image"]))

    @cached_property
    def shares(self) -> Mapping[str, tuple[Share, ...]]:
        """Text, image and group score."""
        return {f"{kind}_score": (Share(kind, within(1)),) for kind in ("text", "image", "group")}

    @property
    def image_of_queries(self) -> Mapping[str, NDArray[np.int64]]:
        """A pair belongs to its first image, with which the other one is resampled."""
        return dict.fromkeys(self.kinds, 2 * np.arange(self.num_pairs))

    @property
    def num_units(self) -> int:
        """All pairs."""
        return self.num_pairs

    @property
    def image_of_units(self) -> NDArray[np.int64]:
        """The first image of every pair."""
        return 2 * np.arange(self.num_pairs)

    def micro_batch(self, units_u: Indices, tower: TowerName, num_inputs: int) -> MicroBatch:
        """Contrast within every pair, images with captions and captions with images."""
        import torch

        from workers.tasks.losses import MicroBatch, surprise

        rows_n = (2 * units_u[:, None] + np.arange(2)).ravel()

        def loss(own_nE: Tensor, other_E: Tensor) -> Tensor:
            own_u2E, other_u2E = (torch.unflatten(side, 0, (-1, 2)) for side in (own_nE, other_E[rows_n]))
            logits_u22 = self.scale * own_u2E @ other_u2E.transpose(1, 2)
            right = torch.eye(2, dtype=torch.bool, device=logits_u22.device).repeat(len(units_u), 1)
            return (surprise(logits_u22.flatten(0, 1), right) + surprise(logits_u22.mT.flatten(0, 1), right)) / 2

        return MicroBatch(rows_n, loss)

    def partial(self, image_nE: Tensor, text_QE: Tensor, part: slice, own_Q: Tensor, block: int) -> Partial:
        """Return 0 for every pair of a part that is matched, 1 for the others."""
        rows = max(MIN_ROWS, len(image_nE))
        image_p2E, text_p2E = (padded(side, rows).reshape(rows // 2, 2, -1) for side in (image_nE, text_QE[part]))
        # Scores (image, caption) of a pair; elementwise, so that a pair's bits do not depend on how many there are.
        scores_p22 = (image_p2E[:, :, None] * text_p2E[:, None]).sum(-1)[: len(image_nE) // 2]
        own_p2 = scores_p22.diagonal(dim1=1, dim2=2)
        text_p = (own_p2 > scores_p22.flip(2).diagonal(dim1=1, dim2=2)).all(1)
        image_p = (own_p2 > scores_p22.flip(1).diagonal(dim1=1, dim2=2)).all(1)
        kinds = {"text": text_p, "image": image_p, "group": text_p & image_p}
        return {kind: clipped((~right_p).long()) for kind, right_p in kinds.items()}

    def first(self, num_images: int) -> tuple[MatchingTargets, slice, slice]:
        """Return the first pairs, and which captions they have."""
        num_pairs = min(self.num_pairs, max(1, num_images // 2))
        return replace(self, num_pairs=num_pairs), slice(2 * num_pairs), slice(2 * num_pairs)

    def at_scale(self, scale: float) -> MatchingTargets:
        """Return the targets with a model's logit scale, which only a loss depends on."""
        return replace(self, scale=scale)
