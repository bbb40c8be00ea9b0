"""Retrieval metrics by counted ranks, after CLIP_benchmark's protocol.

Embeddings are L2-normalised float32, the score of a pair is their dot product, all captions are used. A rank is the
number of competitors *not strictly less* than the target: pessimistic and deterministic, so that a collapsed model
cannot score by luck. The target's score is read from the same tile of the similarity matrix as its competitors'
scores, because a separate dot product rounds differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# N images, Q captions, E embedding, C resampling clusters, K ratio metrics, t captions in a tile

KS = (1, 5, 10)
RECALLS = tuple(f"{direction}_r{k}" for direction in ("t2i", "i2t") for k in KS)
METRICS = ("mean_recall", *RECALLS)
MAX_RANK = 255
_TILE_SCORES = 1 << 22


@dataclass(frozen=True)
class Ranks:
    """Rank of every query's target, clipped to 255: all that recalls up to 255 and paired statistics need."""

    t2i_Q: NDArray[np.uint8]
    """For each caption, the images that score not less than its own."""
    i2t_N: NDArray[np.uint8]
    """For each image, the captions of other images that score not less than its best own caption."""

    def metrics(self) -> dict[str, float]:
        """Return recall at 1, 5 and 10 in both directions and their mean, in [0, 1]."""
        recalls = [float(np.mean(ranks < k)) for ranks in (self.t2i_Q, self.i2t_N) for k in KS]
        return {"mean_recall": sum(recalls) / len(recalls), **dict(zip(RECALLS, recalls, strict=True))}


def retrieval_ranks(image_NE: Tensor, text_QE: Tensor, image_of_caption_Q: Tensor) -> Ranks:
    """Return the ranks of all captions and images.

    Tiles have the same shapes for every mask, and the whole matrix is never held.

    Args:
        image_NE: (N, E) float32, L2-normalised, finite.
        text_QE: (Q, E) float32, L2-normalised.
        image_of_caption_Q: (Q,) int64, the image that each caption belongs to; every image has a caption.
    """
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
    return Ranks(_clipped(t2i_Q), _clipped(not_less_N - own_N))


def _clipped(ranks: Tensor) -> NDArray[np.uint8]:
    clipped: NDArray[np.uint8] = ranks.clamp(max=MAX_RANK).to(torch.uint8).cpu().numpy()
    return clipped


def objective_weights(objective: str) -> NDArray[np.float64]:
    """Return the (K,) weight of each of `RECALLS` in an objective named in `METRICS`."""
    if objective == "mean_recall":
        return np.full(len(RECALLS), 1 / len(RECALLS))
    return np.array([float(name == objective) for name in RECALLS])


def outcome_tables(
    ranks: Ranks, image_of_caption_Q: NDArray[np.int64], clusters_N: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return hits and queries per resampling cluster, (C, K) each: recall k is the ratio of their sums over clusters.

    Args:
        ranks: of one mask on one split.
        image_of_caption_Q: the image of each caption.
        clusters_N: the cluster of each image, numbered from 0.
    """
    num_clusters = int(clusters_N.max()) + 1
    columns = []
    for ranks_of_queries, cluster_of_queries in (
        (ranks.t2i_Q, clusters_N[image_of_caption_Q]),
        (ranks.i2t_N, clusters_N),
    ):
        queries_C = np.bincount(cluster_of_queries, minlength=num_clusters).astype(np.float64)
        for k in KS:
            hits_C = np.bincount(cluster_of_queries, weights=ranks_of_queries < k, minlength=num_clusters)
            columns.append((hits_C, queries_C))
    return np.stack([hits for hits, _ in columns], axis=1), np.stack([queries for _, queries in columns], axis=1)
