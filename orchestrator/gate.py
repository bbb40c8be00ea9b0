"""The sanity gate: no search on a model whose baseline is broken. It looks at a few images, before anything is made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from open_clip.transformer import QuickGELU
from torch import nn

from headmask.errors import ModelError
from headmask.mask import HeadMask
from orchestrator.session import Session
from workers.constants import USUAL_CHUNK
from workers.embedding import embed_images, embed_texts
from workers.metrics import Ranks
from workers.pixels import Pixels
from workers.scorer import Scorer, SplitArrays

NUM_IMAGES = 128
SIGMAS = 4.0


def check_baseline(session: Session) -> None:
    """Score the baseline on the first images of the search split, and refuse a model that is broken.

    Raises:
        ModelError: embeddings are not finite; captions find their image no more often than by chance; or the weights
            do clearly better with the other GELU, the one they were trained with.
    """
    split = _first_images(session)
    score = _ranks(session, split)
    num_images, num_captions = len(score.i2t_N), len(score.t2i_Q)
    chance = min(1.0, 10 / num_images)
    spread = math.sqrt(chance * (1 - chance) / num_captions)
    recall = score.metrics()["t2i_r10"]
    if chance < 1 and recall < chance + SIGMAS * spread:
        raise ModelError(
            f"{session.model} scores at chance level: text-to-image recall@10 is {100 * recall:.1f} % on "
            f"{num_images} images, chance is {100 * chance:.1f} %. Check weights, preprocessing and captions, "
            "or pass --no-gate"
        )
    with _other_gelu(session.model.clip) as (before, after):
        swapped = _ranks(session, _embedded_again(session, split)) if before else score
    gain = swapped.metrics()["mean_recall"] - score.metrics()["mean_recall"]
    if gain > 0.02:
        raise ModelError(
            f"{session.model} scores {100 * gain:.1f} points more with {after} than with {before}, so its weights were "
            f"trained with {after}: use the architecture with that activation (its name ends in -quickgelu, or does "
            "not), or pass --no-gate"
        )


def _first_images(session: Session) -> SplitArrays:
    split = session.payload.splits["search"]
    num_captions = int(np.searchsorted(split.image_of_caption_Q, NUM_IMAGES))
    image_of_caption_Q = split.image_of_caption_Q[:num_captions]
    if isinstance(split.inputs, Pixels):
        return SplitArrays(split.inputs.first(NUM_IMAGES), split.other_E[:num_captions], image_of_caption_Q)
    return SplitArrays(split.inputs[:num_captions], split.other_E[:NUM_IMAGES], image_of_caption_Q)


def _embedded_again(session: Session, split: SplitArrays) -> SplitArrays:
    """Return a split with its other side embedded by the model as it is now."""
    clip, threads = session.model.clip, session.payload.settings.threads
    if isinstance(split.inputs, Pixels):
        texts = list(session.splits["search"].captions[: len(split.other_E)])
        return replace(split, other_E=embed_texts(clip, session.model.tokenizer(texts), threads=threads))
    pixels = session.splits["search"].pixels.first(len(split.other_E))
    return replace(split, other_E=embed_images(clip.visual, pixels, session.payload.normalisation, threads=threads))


def _ranks(session: Session, split: SplitArrays) -> Ranks:
    settings = replace(session.payload.settings, ablation="zero")
    scorer = Scorer(session.view, split, session.payload.normalisation, settings, chunk=USUAL_CHUNK)
    score = scorer.score(HeadMask.empty(session.grid).to_bools()[None], ranks=True)[0]
    if score.ranks is None:
        raise ModelError(f"{session.model} gives {score.failure} on the search split; nothing can be searched on it")
    return score.ranks


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
