"""Image-text retrieval by counted ranks, after CLIP_benchmark's protocol.

Embeddings are L2-normalised float32, the score of a pair is their dot product, all captions are used. A rank is the
number of competitors *not strictly less* than the target. The target's score is read from the same tile of the
similarity matrix as its competitors' scores, because a separate dot product rounds differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.ranking import CLIP_SCALE, clipped, competitors, logarithmic, odds_against, probability, reciprocal, within
from workers.tasks import DIRECTIONS, KS, RANK_METRICS, RECALLS, Chance, Ranks, Share, Targets

# N images, Q captions, E embedding, t captions in a tile

_TILE_SCORES = 1 << 22


@dataclass(frozen=True, eq=False)
class RetrievalTargets(Targets):
    """Which image each caption belongs to.

    `t2i` ranks, for each caption, the images that score not less than its own; `i2t`, for each image, the captions of
    other images that score not less than its best own caption. Their probabilities are those of the own image, and of
    the best own caption, among the same competitors.
    """

    image_of_caption_Q: NDArray[np.int64]
    """Ascending from 0; every image has a caption."""
    scale: float = CLIP_SCALE
    """The model's logit scale."""

    task = "retrieval"
    default_objective = "mean_recall"
    guides = dict.fromkeys(("mean_recall", *RECALLS, *RANK_METRICS), "probability")

    @cached_property
    def shares(self) -> Mapping[str, tuple[Share, ...]]:
        """Recall at 1, 5 and 10, reciprocal rank, log rank, probability: in both directions, and the mean of them."""
        recalls = {f"{way}_r{k}": (Share(way, within(k)),) for way in DIRECTIONS for k in KS}
        shares = {"mean_recall": tuple(share for (share,) in recalls.values()), **recalls}
        graded = {
            "mrr": [Share(way, reciprocal()) for way in DIRECTIONS],
            "log_rank": [Share(way, logarithmic()) for way in DIRECTIONS],
            "probability": [Share(f"{way}_probability") for way in DIRECTIONS],
        }
        for name, parts in graded.items():
            shares[name] = tuple(parts)
            shares |= {f"{way}_{name}": (part,) for way, part in zip(DIRECTIONS, parts, strict=True)}
        return shares

    @property
    def image_of_queries(self) -> Mapping[str, NDArray[np.int64]]:
        """Captions belong to their image, images to themselves."""
        images_N = np.arange(int(self.image_of_caption_Q[-1]) + 1)
        ways = {"t2i": self.image_of_caption_Q, "i2t": images_N}
        return ways | {f"{way}_probability": image_of_query for way, image_of_query in ways.items()}

    def measure(self, image_NE: Tensor, text_QE: Tensor) -> Ranks:
        """Return the ranks and probabilities of all captions and images."""
        return retrieval_ranks(image_NE, text_QE, torch.from_numpy(np.array(self.image_of_caption_Q)), self.scale)

    def at_scale(self, scale: float) -> RetrievalTargets:
        """Return the targets with a model's logit scale."""
        return replace(self, scale=scale)

    def first(self, num_images: int) -> tuple[RetrievalTargets, slice]:
        """Return the targets of the first images, and which captions they have."""
        part = slice(int(np.searchsorted(self.image_of_caption_Q, num_images)))
        return replace(self, image_of_caption_Q=self.image_of_caption_Q[part]), part

    @property
    def chance(self) -> Chance:
        """Text-to-image recall@10."""
        share = min(1.0, 10 / (int(self.image_of_caption_Q[-1]) + 1))
        return Chance("t2i_r10", "text-to-image recall@10", share, len(self.image_of_caption_Q), "captions")


def retrieval_ranks(image_NE: Tensor, text_QE: Tensor, image_of_caption_Q: Tensor, scale: float = CLIP_SCALE) -> Ranks:
    """Return the ranks and probabilities of all captions and images.

    Tiles have the same shapes for every mask, and the whole matrix is never held.

    Args:
        image_NE: (N, E) float32, L2-normalised, finite.
        text_QE: (Q, E) float32, L2-normalised.
        image_of_caption_Q: (Q,) int64, the image that each caption belongs to; every image has a caption.
        scale: the model's logit scale.
    """
    image_of_caption_Q = image_of_caption_Q.to(image_NE.device)
    num_images, num_captions = len(image_NE), len(text_QE)
    tile = max(1, _TILE_SCORES // num_images)
    slices = [slice(start, start + tile) for start in range(0, num_captions, tile)]
    t2i_Q = torch.empty(num_captions, dtype=torch.int64, device=image_NE.device)
    target_Q, odds_Q = (torch.empty(num_captions, device=image_NE.device) for _ in range(2))
    for part in slices:
        scores_tN, target_Q[part] = competitors(text_QE[part], image_NE, image_of_caption_Q[part])
        t2i_Q[part] = (scores_tN >= target_Q[part, None]).sum(1)
        odds_Q[part] = odds_against(scores_tN, target_Q[part, None], scale).sum(1)
    best_N = torch.full((num_images,), -torch.inf, device=image_NE.device)
    best_N.scatter_reduce_(0, image_of_caption_Q, target_Q, "amax")
    i2t_N = torch.zeros(num_images, dtype=torch.int64, device=image_NE.device)
    odds_N = torch.zeros(num_images, device=image_NE.device)
    for part in slices:
        scores_tN, _ = competitors(text_QE[part], image_NE, image_of_caption_Q[part])
        i2t_N += (scores_tN >= best_N).sum(0)
        odds_N += odds_against(scores_tN, best_N, scale).sum(0)
    return {
        "t2i": clipped(t2i_Q),
        "i2t": clipped(i2t_N),
        "t2i_probability": probability(odds_Q),
        "i2t_probability": probability(odds_N),
    }
