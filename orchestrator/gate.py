"""The sanity gate: no search on a model whose baseline is broken. It looks at a few images, before anything is made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from open_clip.transformer import QuickGELU
from torch import nn

from headmask.errors import ModelError
from headmask.mask import HeadMask
from orchestrator.objective import Goal
from orchestrator.session import Session
from workers.classification import ClassificationTargets
from workers.constants import USUAL_CHUNK
from workers.embedding import embed_images, embed_texts
from workers.pixels import Pixels
from workers.retrieval import RetrievalTargets
from workers.scorer import Scorer, SplitArrays
from workers.tasks import Targets

NUM_IMAGES = 128
SIGMAS = 4.0


def check_baseline(session: Session) -> None:
    """Score the baseline on the first images of the search split, and refuse a model that is broken.

    Raises:
        ModelError: embeddings are not finite; captions find their image no more often than by chance; or the weights
            do clearly better with the other GELU, the one they were trained with.
    """
    for number, goal in enumerate(session.objective.goals):
        _check_goal(session, number, goal)


def _check_goal(session: Session, number: int, goal: Goal) -> None:
    split = _first_images(session, goal)
    score = _metrics(session, split)
    kind, metric, chance, num_queries = _chance(split.targets)
    spread = math.sqrt(chance * (1 - chance) / num_queries)
    if chance < 1 and score[metric] < chance + SIGMAS * spread:
        raise ModelError(
            f"{session.model} scores at chance level: {kind} is {100 * score[metric]:.1f} % on "
            f"{num_queries} queries of {goal.data}, chance is {100 * chance:.1f} %. Check weights, preprocessing and "
            f"{'labels' if metric == 'top1' else 'captions'}, or pass --no-gate"
        )
    with _other_gelu(session.model.clip) as (before, after):
        swapped = _metrics(session, _embedded_again(session, split, number)) if before else score
    gain = goal.mix.value(swapped) - goal.mix.value(score)
    if gain > 0.02:
        raise ModelError(
            f"{session.model} scores {100 * gain:.1f} points more with {after} than with {before}, so its weights were "
            f"trained with {after}: use the architecture with that activation (its name ends in -quickgelu, or does "
            "not), or pass --no-gate"
        )


def _chance(targets: Targets) -> tuple[str, str, float, int]:
    """Return the metric that tells a model from chance, in words and by name, its value by chance, its queries."""
    if isinstance(targets, RetrievalTargets):
        num_images = len(targets.image_of_queries["i2t"])
        return "text-to-image recall@10", "t2i_r10", min(1.0, 10 / num_images), len(targets.image_of_caption_Q)
    if isinstance(targets, ClassificationTargets):
        return "top-1", "top1", 1 / targets.num_classes, len(targets.class_of_image_N)
    # Good models match pairs that differ in the order of words little better than chance.
    return "", "group_score", 1.0, 1


def _first_images(session: Session, goal: Goal) -> SplitArrays:
    split = session.payload.splits["search"][goal.prefix]
    targets, num_texts = split.targets.first(NUM_IMAGES)
    if isinstance(split.inputs, Pixels):
        return SplitArrays(split.inputs.first(NUM_IMAGES), split.other_E[:num_texts], targets)
    # Of classification, every prompt is an input, and they are pooled afterwards.
    num_inputs = len(split.inputs) if isinstance(targets, ClassificationTargets) else num_texts
    return SplitArrays(split.inputs[:num_inputs], split.other_E[:NUM_IMAGES], targets)


def _embedded_again(session: Session, split: SplitArrays, number: int) -> SplitArrays:
    """Return a split of a data set with its other side embedded by the model as it is now."""
    clip, threads = session.model.clip, session.payload.settings.threads
    whole = session.splits["search"][number]
    if isinstance(split.inputs, Pixels):
        num_texts = len(whole.texts) if isinstance(split.targets, ClassificationTargets) else len(split.other_E)
        text_QE = embed_texts(clip, session.model.tokenizer(list(whole.texts[:num_texts])), threads=threads)
        return replace(split, other_E=split.targets.pooled(torch.from_numpy(text_QE)).numpy())
    pixels = whole.pixels.first(len(split.other_E))
    return replace(split, other_E=embed_images(clip.visual, pixels, session.payload.normalisation, threads=threads))


def _metrics(session: Session, split: SplitArrays) -> dict[str, float]:
    settings = replace(session.payload.settings, ablation="zero")
    scorer = Scorer(session.view, split, session.payload.normalisation, settings, chunk=USUAL_CHUNK)
    (score,) = scorer.score(HeadMask.empty(session.grid).to_bools()[None])
    if score.failure:
        raise ModelError(f"{session.model} gives {score.failure} on the search split; nothing can be searched on it")
    return score.metrics


@contextmanager
def _other_gelu(clip: nn.Module) -> Iterator[tuple[str, str]]:
    """Swap GELU and QuickGELU in a model, and swap back; yields both names, or empty ones where it has neither."""
    places = [
        (module, name, child)
        for module in clip.modules()
        for name, child in module.named_children()
        if type(child) in (nn.GELU, QuickGELU)
    ]
    kinds = {type(child) for _, _, child in places}
    if len(kinds) != 1:
        yield "", ""
        return
    quick = kinds == {QuickGELU}
    try:
        for module, name, _ in places:
            setattr(module, name, nn.GELU() if quick else QuickGELU())
        yield ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    finally:
        for module, name, child in places:
            setattr(module, name, child)
