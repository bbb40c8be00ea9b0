"""Image-text retrieval by counted ranks, after CLIP_benchmark's protocol.

Embeddings are L2-normalised float32, the score of a pair is their dot product, all captions are used. A rank is the
number of competitors *not strictly less* than the target. The target's score is read from the same tile of the
similarity matrix as its competitors' scores, because a separate dot product rounds differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.tasks import (
    DIRECTIONS,
    KS,
    Chance,
    Ranks,
    Share,
    Targets,
    clipped,
    logarithmic,
    reciprocal,
    within,
)

# N images, Q captions, E embedding, t captions in a tile

_TILE_SCORES = 1 << 22


@dataclass(frozen=True, eq=False)
class RetrievalTargets(Targets):
    """Which image each caption belongs to.

    `t2i` ranks, for each caption, the images that score not less than its own; `i2t`, for each image, the captions of
    other images that score not less than its best own caption.
    """

    image_of_caption_Q: NDArray[np.int64]
    """Ascending from 0; every image has a caption."""

    task = "retrieval"
    default_objective = "mean_recall"
    guides = {"mean_recall": "mrr"} | {f"{way}_r{k}": f"{way}_mrr" for way in DIRECTIONS for k in KS}

    @cached_property
    def shares(self) -> Mapping[str, tuple[Share, ...]]:
        """Recall at 1, 5 and 10, mean reciprocal rank and log rank: in both directions, and the mean of them."""
        recalls = {f"{way}_r{k}": (Share(way, within(k)),) for way in DIRECTIONS for k in KS}
        shares = {"mean_recall": _together(recalls), **recalls}
        for name, credit in (("mrr", reciprocal()), ("log_rank", logarithmic())):
            ways = {f"{way}_{name}": (Share(way, credit),) for way in DIRECTIONS}
            shares |= {name: _together(ways), **ways}
        return shares

    @property
    def image_of_queries(self) -> Mapping[str, NDArray[np.int64]]:
        """Captions belong to their image, images to themselves."""
        return {"t2i": self.image_of_caption_Q, "i2t": np.arange(int(self.image_of_caption_Q[-1]) + 1)}

    def measure(self, image_NE: Tensor, text_QE: Tensor) -> Ranks:
        """Return the ranks of all captions and images."""
        return retrieval_ranks(image_NE, text_QE, torch.from_numpy(np.array(self.image_of_caption_Q)))

    def first(self, num_images: int) -> tuple[RetrievalTargets, slice]:
        """Return the targets of the first images, and which captions they have."""
        part = slice(int(np.searchsorted(self.image_of_caption_Q, num_images)))
        return RetrievalTargets(self.image_of_caption_Q[part]), part

    @property
    def chance(self) -> Chance:
        """Text-to-image recall@10."""
        share = min(1.0, 10 / (int(self.image_of_caption_Q[-1]) + 1))
        return Chance("t2i_r10", "text-to-image recall@10", share, len(self.image_of_caption_Q), "captions")


def _together(parts: Mapping[str, tuple[Share, ...]]) -> tuple[Share, ...]:
    return tuple(share for shares in parts.values() for share in shares)


def retrieval_ranks(image_NE: Tensor, text_QE: Tensor, image_of_caption_Q: Tensor) -> Ranks:
    """Return the ranks of all captions and images.

    Tiles have the same shapes for every mask, and the whole matrix is never held.

    Args:
        image_NE: (N, E) float32, L2-normalised, finite.
        text_QE: (Q, E) float32, L2-normalised.
        image_of_caption_Q: (Q,) int64, the image that each caption belongs to; every image has a caption.
    """
    image_of_caption_Q = image_of_caption_Q.to(image_NE.device)
    num_images = len(image_NE)
    tile = max(1, _TILE_SCORES // num_images)
    slices = [slice(start, start + tile) for start in range(0, len(text_QE), tile)]
    t2i_Q = torch.empty(len(text_QE), dtype=torch.int64, device=image_NE.device)
    target_Q = torch.empty(len(text_QE), dtype=torch.float32, device=image_NE.device)
    for part in slices:
        scores_tN = text_QE[part] @ image_NE.T
        target_Q[part] = scores_tN.gather(1, image_of_caption_Q[part, None]).squeeze(1)
        t2i_Q[part] = (scores_tN >= target_Q[part, None]).sum(1) - 1
    best_N = torch.full((num_images,), -torch.inf, device=image_NE.device)
    best_N.scatter_reduce_(0, image_of_caption_Q, target_Q, "amax")
    not_less_N = torch.zeros(num_images, dtype=torch.int64, device=image_NE.device)
    for part in slices:
        not_less_N += (text_QE[part] @ image_NE.T >= best_N).sum(0)
    own_N = torch.zeros_like(not_less_N)
    own_N.index_add_(0, image_of_caption_Q, (target_Q >= best_N[image_of_caption_Q]).long())
    return {"t2i": clipped(t2i_Q), "i2t": clipped(not_less_N - own_N)}
