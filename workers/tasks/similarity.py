"""Image-to-image retrieval: every image looks for the others of its label, among all others of the split.

R@k and mAP at R are those of Musgrave et al. 2020 (A Metric Learning Reality Check, arXiv 2003.08505). Ties count
against the model, as everywhere: images of other labels that score not less come first. An image whose label no other
image has is no query, but others find it in their way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from headmask.errors import DataError
from workers.tasks.base import Chance, Partial, QueryKind, Rows, Targets, Words, blocks, padded
from workers.tasks.metrics import Share
from workers.tasks.ranking import CLIP_SCALE, clipped, within

if TYPE_CHECKING:
    from torch import Tensor

    from headmask.tower.towers import TowerName
    from workers.tasks.losses import Indices, MicroBatch

# N images, n of a part, t of a tile, R most other images of a label, Q queries, E embedding, u units of training

_TILE_SCORES = 1 << 22


@dataclass(frozen=True, eq=False)
class SimilarityTargets(Targets):
    """The label of every image.

    `i2i` ranks, for each query, the images of other labels that score not less than the best one of its own label;
    `i2i_precision` is its average precision at R, where R is the number of other images of its label.
    """

    label_of_image_N: NDArray[np.int64]
    scale: float = CLIP_SCALE
    """The model's logit scale."""

    task = "similarity"
    metrics = ("map_at_r", "i2i_r1", "i2i_r5")
    default_objective = "map_at_r"
    needs = ("image", "label")
    towers = ("image",)
    kinds: ClassVar[Mapping[str, QueryKind]] = {
        "i2i": QueryKind(
            "Images looking for images of their label",
            text="class",
            graded="i2i_precision",
            symbol="AP",
            shows_graded=True,
        ),
    }

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """Return the label of every image.

        Raises:
            DataError: no two images have the same label.
        """
        targets = cls(np.array(rows.labels, dtype=np.int64))
        if not len(targets.image_of_query_Q):
            raise DataError(f"split {rows.split} has no two images of one label; similarity looks for images by others")
        return targets

    @classmethod
    def texts_of(cls, rows: Rows) -> tuple[str, ...]:
        """Return no texts: images are compared with images."""
        return ()

    @classmethod
    def described(cls, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the label of every image in words."""
        return [(rows.class_names[label],) for label in rows.labels]

    def words_of(self, image: int, words: Words) -> list[str]:
        """Return the label of an image in words."""
        return [words.class_names[self.label_of_image_N[image]]]

    def columns(self) -> Mapping[str, Any]:
        """Return the label of every query."""
        return {"label": self.label_of_image_N[self.image_of_query_Q]}

    @classmethod
    def restored(cls, columns: Mapping[str, Mapping[str, Any]]) -> Self:
        """Return the targets from the labels of queries; images between them have a label each of their own."""
        image_Q, label_Q = (columns["i2i"][name] for name in ("image", "label"))
        label_N = -1 - np.arange(int(image_Q.max()) + 1)
        label_N[image_Q] = label_Q
        return cls(label_N)

    @cached_property
    def num_right_N(self) -> NDArray[np.int64]:
        """How many other images have the label of each image: R."""
        _, place_N, count = np.unique(self.label_of_image_N, return_inverse=True, return_counts=True)
        right_N: NDArray[np.int64] = count[place_N] - 1
        return right_N

    @cached_property
    def image_of_query_Q(self) -> NDArray[np.int64]:
        """All images but those whose label no other image has."""
        return np.flatnonzero(self.num_right_N)

    @cached_property
    def shares(self) -> Mapping[str, tuple[Share, ...]]:
        """Mean average precision at R, recall at 1 and 5."""
        recalls = {f"i2i_r{k}": (Share("i2i", within(k)),) for k in (1, 5)}
        return {"map_at_r": (Share("i2i_precision"),), **recalls}

    @property
    def image_of_queries(self) -> Mapping[str, NDArray[np.int64]]:
        """Every query is an image."""
        return dict.fromkeys(("i2i", "i2i_precision"), self.image_of_query_Q)

    def resampled(self, clusters_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the resampling cluster of every query, and -1 of the other images."""
        found_N = np.full(len(clusters_N), -1, dtype=np.int64)
        found_N[self.image_of_query_Q] = np.unique(clusters_N[self.image_of_query_Q], return_inverse=True)[1]
        return found_N

    def num_compared(self, width: int) -> int:
        """Return the numbers of all embeddings: every image is compared with all."""
        return len(self.label_of_image_N) * width

    def own_scores(self, image_nE: Tensor, text_QE: Tensor, part: slice, block: int) -> Tensor:
        """Return the embeddings of a part's images, one after another: what those of other parts look among."""
        return image_nE.flatten()

    def partial(self, image_nE: Tensor, text_QE: Tensor, part: slice, own_Q: Tensor, block: int) -> Partial:
        """Return the rank and the average precision of a part's queries."""
        import torch

        num_images, device = len(self.label_of_image_N), image_nE.device
        image_NE = own_Q.reshape(num_images, -1)
        label_N, right_N = (torch.from_numpy(each).to(device) for each in (self.label_of_image_N, self.num_right_N))
        size = min(block, max(1, _TILE_SCORES // num_images))
        ranks, precisions = [label_N[:0]], [image_nE.new_empty(0)]
        for images in (tile for whole in blocks(part, block) for tile in blocks(whole, size)):
            # Rows that fill a tile up are the first image again: sums over a row are in one order then.
            places_t = torch.arange(images.start, images.start + size, device=device)
            places_t[images.stop - images.start :] = 0
            rows_tE = padded(image_nE[images.start - part.start : images.stop - part.start], size)
            scores_tN, is_right_tN = rows_tE @ image_NE.T, label_N[places_t, None] == label_N
            wrong_tN = scores_tN.masked_fill(is_right_tN, -torch.inf)
            right_tN = scores_tN.masked_fill(~is_right_tN, -torch.inf).scatter_(1, places_t[:, None], -torch.inf)
            is_query_t = right_N[places_t] > 0
            is_query_t[images.stop - images.start :] = False
            ranks.append((wrong_tN >= right_tN.amax(1, keepdim=True)).sum(1)[is_query_t])
            precision_t = average_precision(right_tN, wrong_tN, right_N[places_t], int(self.num_right_N.max()))
            precisions.append(precision_t[is_query_t])
        return {"i2i": clipped(torch.cat(ranks)), "i2i_precision": torch.cat(precisions).cpu().numpy()}

    @cached_property
    def _units(self) -> list[NDArray[np.int64]]:
        """Images of one label by twos, the last ones by threes: so each has one to be like in its micro-batch."""
        of_labels = [np.flatnonzero(self.label_of_image_N == label) for label in np.unique(self.label_of_image_N)]
        return [unit for images in of_labels if len(images) > 1 for unit in np.array_split(images, len(images) // 2)]

    @property
    def num_units(self) -> int:
        """All twos and threes of images of one label."""
        return len(self._units)

    @property
    def image_of_units(self) -> NDArray[np.int64]:
        """The first image of every unit."""
        return np.array([images[0] for images in self._units])

    def micro_batch(self, units_u: Indices, tower: TowerName, num_inputs: int) -> MicroBatch:
        """Contrast every image with the others of the micro-batch, of which all of its label are right."""
        import torch

        from workers.tasks.losses import MicroBatch, surprise

        images_n = np.concatenate([self._units[unit] for unit in units_u.tolist()])
        label_n = self.label_of_image_N[images_n]
        itself_nn = torch.eye(len(images_n), dtype=torch.bool)
        right_nn = torch.from_numpy(label_n[:, None] == label_n) & ~itself_nn

        def loss(image_nE: Tensor, other_E: Tensor) -> Tensor:
            logits_nn = self.scale * image_nE @ image_nE.T
            device = logits_nn.device
            return surprise(logits_nn.masked_fill(itself_nn.to(device), -torch.inf), right_nn.to(device))

        return MicroBatch(images_n, loss)

    def at_scale(self, scale: float) -> SimilarityTargets:
        """Return the targets with a model's logit scale."""
        return replace(self, scale=scale)

    def first(self, num_images: int) -> tuple[SimilarityTargets, slice, slice]:
        """Return the targets of the first images, and of as many more as it takes for half of them to be queries."""
        wanted = min(num_images // 2, len(self.image_of_query_Q))
        count = min(num_images, len(self.label_of_image_N))
        while len((fewer := replace(self, label_of_image_N=self.label_of_image_N[:count])).image_of_query_Q) < wanted:
            count = min(2 * count, len(self.label_of_image_N))
        return fewer, slice(count), slice(0)

    @property
    def chance(self) -> Chance:
        """R@1."""
        right_Q = self.num_right_N[self.image_of_query_Q]
        share = float(right_Q.mean()) / (len(self.label_of_image_N) - 1)
        return Chance("i2i_r1", "image-to-image recall@1", share, len(right_Q), "labels")


def average_precision(right_tN: Tensor, wrong_tN: Tensor, num_right_t: Tensor, most: int) -> Tensor:
    """Return the average precision at R of every query (t,) float32; 0 of those without right images.

    Args:
        right_tN: scores of right images, -inf elsewhere.
        wrong_tN: scores of wrong images, -inf elsewhere.
        num_right_t: R of every query.
        most: the largest R. No image beyond the first R counts, so no more need to be in order.
    """
    import torch

    right_tR, wrong_tR = (scores_tN.topk(most, 1).values for scores_tN in (right_tN, wrong_tN))
    # Those that score not less, up to `most`: all but those that score less.
    before_tR = most - torch.searchsorted(wrong_tR.flip(1).contiguous(), right_tR.contiguous())
    number_R = torch.arange(1, most + 1, device=right_tN.device)
    place_tR, num_right_t1 = number_R + before_tR, num_right_t[:, None]
    counts_tR = (number_R <= num_right_t1) & (place_tR <= num_right_t1)
    precision_tR = torch.where(counts_tR, number_R.double() / place_tR, 0.0)
    return (precision_tR.sum(1) / num_right_t.clamp(min=1)).float()
