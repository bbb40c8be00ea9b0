"""Image-text retrieval by counted ranks, after CLIP_benchmark's protocol.

Embeddings are L2-normalised float32, the score of a pair is their dot product, all captions are used. A rank is the
number of competitors *not strictly less* than the target. The target's score is read from a tile of the similarity
matrix that is computed in the same shape as its competitors' tiles, because another product rounds differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from workers.tasks.base import Chance, Partial, QueryKind, Rows, Targets, Words, blocks, padded
from workers.tasks.metrics import Ranks, Share
from workers.tasks.ranking import (
    CLIP_SCALE,
    MAX_RANK,
    clipped,
    logarithmic,
    odds_against,
    probability,
    reciprocal,
    within,
)

if TYPE_CHECKING:
    from torch import Tensor

    from headmask.tower.towers import TowerName
    from workers.tasks.losses import Indices, MicroBatch

# N images, n of a part, b of a block, Q captions, t of a tile, r of a tile whose own image is in the block, E embedding

KS = (1, 5, 10)
DIRECTIONS = ("t2i", "i2t")
RECALLS = tuple(f"{direction}_r{k}" for direction in DIRECTIONS for k in KS)
RANK_METRICS = tuple(f"{way}{name}" for name in ("mrr", "log_rank") for way in ("", "t2i_", "i2t_"))
PROBABILITIES = ("probability", "t2i_probability", "i2t_probability")
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
    metrics = ("mean_recall", *RECALLS, *RANK_METRICS, *PROBABILITIES)
    graded_metrics = (*RANK_METRICS, *PROBABILITIES)
    default_objective = "mean_recall"
    guides = dict.fromkeys(("mean_recall", *RECALLS, *RANK_METRICS), "probability")
    needs = ("image", "caption")
    told_by = ("caption",)
    marks_digest = False
    kinds: ClassVar[Mapping[str, QueryKind]] = {
        "t2i": QueryKind("Captions looking for their image", text="caption", graded="t2i_probability"),
        "i2t": QueryKind("Images looking for their caption", graded="i2t_probability"),
    }

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """Return which image each caption belongs to."""
        return cls(np.repeat(np.arange(len(rows.captions)), list(map(len, rows.captions))))

    def words_of(self, image: int, words: Words) -> list[str]:
        """Return the captions of an image."""
        return [words.texts[query] for query in np.flatnonzero(self.image_of_caption_Q == image)]

    @classmethod
    def restored(cls, columns: Mapping[str, Mapping[str, Any]]) -> Self:
        """Return the targets from the images of captions."""
        return cls(columns["t2i"]["image"])

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

    @property
    def num_units(self) -> int:
        """All images, each with its captions."""
        return int(self.image_of_caption_Q[-1]) + 1

    def micro_batch(self, units_u: Indices, tower: TowerName, num_inputs: int) -> MicroBatch:
        """Contrast every caption with images, and every image with captions, of which all its own ones are right."""
        import torch

        from workers.tasks.losses import MicroBatch, surprise

        image_Q = np.asarray(self.image_of_caption_Q)
        captions_q = np.flatnonzero(np.isin(image_Q, units_u))
        if tower == "image":
            own_uQ = torch.from_numpy(image_Q == units_u[:, None])

            def loss(image_uE: Tensor, text_QE: Tensor) -> Tensor:
                logits_uQ = self.scale * image_uE @ text_QE.T
                own = own_uQ.to(logits_uQ.device)
                return (surprise(logits_uQ, own) + surprise(logits_uQ[:, captions_q].T, own[:, captions_q].T)) / 2

            return MicroBatch(units_u, loss)
        own_qN = torch.from_numpy(image_Q[captions_q][:, None] == np.arange(self.num_units))

        def loss_of_texts(text_qE: Tensor, image_NE: Tensor) -> Tensor:
            logits_qN = self.scale * text_qE @ image_NE.T
            own = own_qN.to(logits_qN.device)
            return (surprise(logits_qN, own) + surprise(logits_qN[:, units_u].T, own[:, units_u].T)) / 2

        return MicroBatch(captions_q, loss_of_texts)

    def num_compared(self, width: int) -> int:
        """Return the number of captions."""
        return len(self.image_of_caption_Q)

    def own_scores(self, image_nE: Tensor, text_QE: Tensor, part: slice, block: int) -> Tensor:
        """Return what the captions of a part's images score with their own image."""
        captions = self._captions_of(part)
        own_q = text_QE.new_empty(captions.stop - captions.start)
        for tile in self._tiles(image_nE, text_QE, part, block, only_own=True):
            rows = slice(tile.own.start - captions.start, tile.own.stop - captions.start)
            own_q[rows] = tile.own_rows().gather(1, tile.own_image_r1)[:, 0]
        return own_q

    def partial(self, image_nE: Tensor, text_QE: Tensor, part: slice, own_Q: Tensor, block: int) -> Partial:
        """Return the competitors of all captions among a part's images, and the ranks of these images."""
        import torch

        device, num_images, num_captions = text_QE.device, len(image_nE), len(text_QE)
        t2i_Q, i2t_n = (torch.zeros(size, dtype=torch.int64, device=device) for size in (num_captions, num_images))
        odds_Q, odds_n = (torch.zeros(size, dtype=torch.float64, device=device) for size in (num_captions, num_images))
        captions = self._captions_of(part)
        image_q = torch.from_numpy(self.image_of_caption_Q[captions] - part.start).to(device)
        best_n = torch.full((num_images,), -torch.inf, device=device)
        best_n.scatter_reduce_(0, image_q, own_Q[captions], "amax")
        for tile in self._tiles(image_nE, text_QE, part, block):
            here = slice(tile.images.start - part.start, tile.images.stop - part.start)
            tile.own_rows().scatter_(1, tile.own_image_r1, -torch.inf)
            scores_tb, own_t1, best_1b = tile.scores_tb, own_Q[tile.captions, None], best_n[None, here]
            t2i_Q[tile.captions] += (scores_tb >= own_t1).sum(1)
            i2t_n[here] += (scores_tb >= best_1b).sum(0)
            odds_n[here] += odds_against(scores_tb.clone(), best_1b, self.scale, 0)
            odds_Q[tile.captions] += odds_against(scores_tb, own_t1, self.scale, 1)
        return {
            "t2i": clipped(t2i_Q),
            "t2i_odds": odds_Q.cpu().numpy(),
            "i2t": clipped(i2t_n),
            "i2t_probability": probability(odds_n),
        }

    def combined(self, parts: Sequence[Partial]) -> Ranks:
        """Return the ranks and probabilities of all captions and images."""
        import torch

        counts_Q = np.sum([part["t2i"] for part in parts], axis=0, dtype=np.int64)
        odds_Q = np.sum([part["t2i_odds"] for part in parts], axis=0)
        return {
            # Where one of the counts was clipped, so is their sum.
            "t2i": np.minimum(counts_Q, MAX_RANK).astype(np.uint8),
            "i2t": np.concatenate([part["i2t"] for part in parts]),
            "t2i_probability": probability(torch.from_numpy(odds_Q)),
            "i2t_probability": np.concatenate([part["i2t_probability"] for part in parts]),
        }

    def _captions_of(self, images: slice) -> slice:
        first, last = np.searchsorted(self.image_of_caption_Q, [images.start, images.stop]).tolist()
        return slice(first, last)

    def _tiles(
        self, image_nE: Tensor, text_QE: Tensor, part: slice, block: int, *, only_own: bool = False
    ) -> Iterator[_Tile]:
        """Yield the scores of all captions and a part's images; or only tiles in which captions meet their own image.

        All are computed in one shape.
        """
        import torch

        size = min(max(1, _TILE_SCORES // block), len(text_QE))
        for images in blocks(part, block):
            of_images = self._captions_of(images)
            image_bE = padded(image_nE[images.start - part.start : images.stop - part.start], block)
            for captions in blocks(slice(0, len(text_QE)), size):
                own = slice(max(of_images.start, captions.start), min(of_images.stop, captions.stop))
                if own.start >= own.stop:
                    own = slice(captions.start, captions.start)
                    if only_own:
                        continue
                scores_tb = padded(text_QE[captions], size) @ image_bE.T
                scores_tb = scores_tb[: captions.stop - captions.start, : images.stop - images.start]
                own_image_r = torch.from_numpy(self.image_of_caption_Q[own] - images.start)
                yield _Tile(captions, images, scores_tb, own, own_image_r[:, None].to(scores_tb.device))

    def at_scale(self, scale: float) -> RetrievalTargets:
        """Return the targets with a model's logit scale."""
        return replace(self, scale=scale)

    def first(self, num_images: int) -> tuple[RetrievalTargets, slice, slice]:
        """Return the targets of the first images, and which captions they have."""
        part = slice(int(np.searchsorted(self.image_of_caption_Q, num_images)))
        return replace(self, image_of_caption_Q=self.image_of_caption_Q[part]), slice(num_images), part

    @property
    def chance(self) -> Chance:
        """Text-to-image recall@10."""
        share = min(1.0, 10 / (int(self.image_of_caption_Q[-1]) + 1))
        return Chance("t2i_r10", "text-to-image recall@10", share, len(self.image_of_caption_Q), "captions")


@dataclass(frozen=True, eq=False)
class _Tile:
    """The scores of some captions and a block of images."""

    captions: slice
    images: slice
    scores_tb: Tensor
    own: slice
    """The captions among them whose own image is in the block: r."""
    own_image_r1: Tensor
    """Its place in the block."""

    def own_rows(self) -> Tensor:
        """Return the rows (r, b) of these captions, in the scores' own memory."""
        return self.scores_tb[self.own.start - self.captions.start : self.own.stop - self.captions.start]
