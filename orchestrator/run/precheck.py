"""The precheck: a model whose baseline is broken is refused. It looks at a few images, before anything is made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from open_clip.transformer import QuickGELU
from torch import nn

from headmask.border.shown import counted
from headmask.errors import ModelError
from headmask.mask import HeadMask
from orchestrator.search.session import Session, tokens_of
from orchestrator.settings.objective import Goal
from workers.data.pixels import Pixels
from workers.scoring.constants import USUAL_CHUNK
from workers.scoring.embedding import embed_images, embed_texts
from workers.scoring.scorer import Scorer, SplitArrays

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
    if (chance := split.targets.chance) is not None and chance.value < 1:
        spread = math.sqrt(chance.value * (1 - chance.value) / chance.num_queries)
        if score[chance.metric] < chance.value + SIGMAS * spread:
            raise ModelError(
                f"{session.model} scores at chance level: {chance.words} is {100 * score[chance.metric]:.1f} % on "
                f"{counted(chance.num_queries, 'query', 'queries')} of {goal.data}, chance is "
                f"{100 * chance.value:.1f} %. Check weights, preprocessing and {chance.suspects}, or pass --no-precheck"
            )
    with _other_gelu(session.model.clip) as (before, after):
        swapped = _metrics(session, _embedded_again(session, split, number)) if before else score
    gain = goal.mix.value(swapped) - goal.mix.value(score)
    if gain > 0.02:
        raise ModelError(
            f"{session.model} scores {100 * gain:.1f} points more with {after} than with {before}, so its weights were "
            f"trained with {after}: use the architecture with that activation (its name ends in -quickgelu, or does "
            "not), or pass --no-precheck"
        )


def _first_images(session: Session, goal: Goal) -> SplitArrays:
    split = session.payload.splits["search"][goal.prefix]
    targets, images, texts = split.targets.first(NUM_IMAGES)
    if isinstance(split.inputs, Pixels):
        return SplitArrays(split.inputs.part(images), split.other_E[texts], targets)
    return SplitArrays(split.inputs[texts], split.other_E[images], targets)


def _embedded_again(session: Session, split: SplitArrays, number: int) -> SplitArrays:
    """Return a split of a data set with its other side embedded by the model in its current state."""
    clip, threads = session.model.clip, session.payload.settings.threads
    whole = session.splits["search"][number]
    if isinstance(split.inputs, Pixels):
        _, _, part = whole.targets.first(NUM_IMAGES)
        text_QE = embed_texts(clip, tokens_of(session.model, whole.texts[part]), threads=threads)
        return replace(split, other_E=split.targets.pooled(torch.from_numpy(text_QE)).numpy())
    pixels = whole.pixels.part(slice(len(split.other_E)))
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
    """Swap GELU and QuickGELU in a model, and swap back; yields both names, or empty ones if it has neither."""
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
