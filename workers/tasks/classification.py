"""Zero-shot classification: images against the embeddings of class prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from workers.tasks.base import Chance, Partial, QueryKind, Rows, Targets, Words, blocks, padded
from workers.tasks.metrics import Share
from workers.tasks.ranking import CLIP_SCALE, clipped, odds_against, probability, reciprocal, within

if TYPE_CHECKING:
    from torch import Tensor

    from headmask.tower.towers import TowerName
    from workers.tasks.losses import Indices, MicroBatch

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
    metrics = ("top1", "top5", "mrr", "probability", "mean_per_class_recall", "worst_group")
    default_objective = "top1"
    needs = ("image", "label")
    may_have = ("group", "split")
    told_by = ("label",)
    has_prompts = True
    kinds: ClassVar[Mapping[str, QueryKind]] = {
        "class": QueryKind("Images and their class", text="class", graded="class_probability", shows_graded=True),
    }

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """Return the class of every image, and its group where there are groups."""
        group_of_image_N = np.unique(rows.groups, return_inverse=True)[1] if rows.groups else None
        return cls(np.array(rows.labels, dtype=np.int64), len(rows.class_names), group_of_image_N)

    @classmethod
    def texts_of(cls, rows: Rows) -> tuple[str, ...]:
        """Return the prompts of all classes."""
        return rows.prompts

    @classmethod
    def described(cls, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the name of every image's class, and its group."""
        groups: list[tuple[str, ...]] = [(group,) for group in rows.groups] or [()] * len(rows.labels)
        return [(rows.class_names[label], *group) for label, group in zip(rows.labels, groups, strict=True)]

    def words_of(self, image: int, words: Words) -> list[str]:
        """Return the name of an image's class."""
        return [words.class_names[self.class_of_image_N[image]]]

    def columns(self) -> Mapping[str, Any]:
        """Return the number of classes, and the class and the group of every image."""
        return {"num_classes": self.num_classes, "label": self.class_of_image_N, "group": self.group_of_image_N}

    @classmethod
    def restored(cls, columns: Mapping[str, Mapping[str, Any]]) -> Self:
        """Return the targets from the classes and groups of images."""
        found = columns["class"]
        return cls(found["label"], int(found["num_classes"][0]), found["group"])

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

    @property
    def num_units(self) -> int:
        """All images."""
        return len(self.class_of_image_N)

    def micro_batch(self, units_u: Indices, tower: TowerName, num_inputs: int) -> MicroBatch:
        """Return the cross-entropy over all classes; where prompts have scales, over those of the micro-batch."""
        import torch
        import torch.nn.functional as F  # noqa: N812

        from workers.tasks.losses import MicroBatch

        class_u = np.asarray(self.class_of_image_N)[units_u]
        if tower == "image":

            def loss(image_uE: Tensor, class_CE: Tensor) -> Tensor:
                own_u = torch.from_numpy(class_u).to(class_CE.device)
                return F.cross_entropy(self.scale * image_uE @ class_CE.T, own_u)

            return MicroBatch(units_u, loss)
        present, own_u = np.unique(class_u, return_inverse=True)
        prompts = num_inputs // self.num_classes
        fewer = ClassificationTargets(own_u, len(present), scale=self.scale)

        def loss_of_prompts(text_nE: Tensor, image_NE: Tensor) -> Tensor:
            logits_uc = self.scale * image_NE[units_u] @ fewer.pooled(text_nE).T
            return F.cross_entropy(logits_uc, torch.from_numpy(own_u).to(logits_uc.device))

        return MicroBatch((present[:, None] * prompts + np.arange(prompts)).ravel(), loss_of_prompts)

    def at_scale(self, scale: float) -> ClassificationTargets:
        """Return the targets with a model's logit scale."""
        return replace(self, scale=scale)

    def first(self, num_images: int) -> tuple[ClassificationTargets, slice, slice]:
        """Return the targets of the first images, which are compared with all classes."""
        groups = None if self.group_of_image_N is None else self.group_of_image_N[:num_images]
        fewer = replace(self, class_of_image_N=self.class_of_image_N[:num_images], group_of_image_N=groups)
        return fewer, slice(num_images), slice(None)

    @property
    def chance(self) -> Chance:
        """Top-1."""
        return Chance("top1", "top-1", 1 / self.num_classes, len(self.class_of_image_N), "labels")
