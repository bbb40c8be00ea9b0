"""Zero-shot classification: images against the embeddings of class prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workers.tasks.base import Chance, Partial, Share, Targets, blocks, padded
from workers.tasks.ranking import CLIP_SCALE, clipped, odds_against, probability, reciprocal, within

if TYPE_CHECKING:
    from torch import Tensor

# N images, n images of a part, b of a block, C classes, P prompts of a class, E embedding


@dataclass(frozen=True, eq=False)
class ClassificationTargets(Targets):
    """The class of every image, and its group if there are groups.

    A rank is the number of other classes that score not less than the right one, the probability that of the right one
    among them all. A class is embedded as the normalised mean of its normalised prompts (Radford et al. 2021, arXiv
    2103.00020).
    """

    class_of_image_N: NDArray[np.int64]
    num_classes: int
    group_of_image_N: NDArray[np.int64] | None = None
    scale: float = CLIP_SCALE
    """The model's logit scale."""

    task = "classification"
    default_objective = "top1"

    @cached_property
    def shares(self) -> Mapping[str, tuple[Share, ...]]:
        """Top-1, top-5 from five classes on, reciprocal rank, probability, mean class recall, worst group's top-1."""
        shares = {"top1": (Share("class", within(1)),)}
        if self.num_classes >= 5:
            shares["top5"] = (Share("class", within(5)),)
        shares["mrr"] = (Share("class", reciprocal()),)
        shares["probability"] = (Share("class_probability"),)
        shares["mean_per_class_recall"] = (Share("class", within(1), self.class_of_image_N),)
        if self.group_of_image_N is not None:
            shares["worst_group"] = (Share("class", within(1), self.group_of_image_N, smallest=True),)
        return shares

    @property
    def image_of_queries(self) -> Mapping[str, NDArray[np.int64]]:
        """Every image is a query."""
        return dict.fromkeys(("class", "class_probability"), np.arange(len(self.class_of_image_N)))

    def pooled(self, text_QE: Tensor) -> Tensor:
        """Return the embeddings of the classes (C, E) from those of their prompts, class by class."""
        import torch.nn.functional as F  # noqa: N812

        return F.normalize(text_QE.reshape(self.num_classes, -1, text_QE.shape[1]).mean(1), dim=-1)

    def partial(self, image_nE: Tensor, text_QE: Tensor, part: slice, own_Q: Tensor, block: int) -> Partial:
        """Return the rank and the probability of the class of every image of a part."""
        import torch

        class_n = torch.from_numpy(np.array(self.class_of_image_N[part])).to(image_nE.device)
        ranks, odds = [class_n[:0]], [class_n[:0].double()]
        for images in blocks(slice(0, len(image_nE)), block):
            image_bE, own_b1 = image_nE[images], class_n[images, None]
            scores_bC = (padded(image_bE, block) @ text_QE.T)[: len(image_bE)]
            target_b1 = scores_bC.gather(1, own_b1)
            scores_bC.scatter_(1, own_b1, -torch.inf)
            ranks.append((scores_bC >= target_b1).sum(1))
            odds.append(odds_against(scores_bC, target_b1, self.scale, 1))
        return {"class": clipped(torch.cat(ranks)), "class_probability": probability(torch.cat(odds))}

    def at_scale(self, scale: float) -> ClassificationTargets:
        """Return the targets with a model's logit scale."""
        return replace(self, scale=scale)

    def first(self, num_images: int) -> tuple[ClassificationTargets, slice]:
        """Return the targets of the first images, which are compared with all classes."""
        groups = None if self.group_of_image_N is None else self.group_of_image_N[:num_images]
        fewer = replace(self, class_of_image_N=self.class_of_image_N[:num_images], group_of_image_N=groups)
        return fewer, slice(None)

    @property
    def chance(self) -> Chance:
        """Top-1."""
        return Chance("top1", "top-1", 1 / self.num_classes, len(self.class_of_image_N), "labels")
