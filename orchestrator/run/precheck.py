"""The precheck: a model whose baseline is broken is refused. Replicas look at a few images, before anything is made."""

from __future__ import annotations

import math
from dataclasses import replace

from headmask.border.shown import counted
from headmask.errors import ModelError
from orchestrator.search.session import Session
from orchestrator.settings.objective import Goal
from workers.data.pixels import Pixels
from workers.pool.protocol import Pool
from workers.scoring.gelu import gelu_names
from workers.scoring.messages import Probe

NUM_IMAGES = 128
SIGMAS = 4.0


def check_baseline(session: Session, pool: Pool) -> None:
    """Score the baseline on the first images of the search split, and refuse a model that is broken.

    Args:
        session: ready for the pool.
        pool: its replicas compute.

    Raises:
        ModelError: embeddings are not finite; captions find their image no more often than by chance; or the weights
            do clearly better with the other GELU, the one they were trained with.
    """
    for number, goal in enumerate(session.objective.goals):
        _check_goal(session, pool, number, goal)


def _check_goal(session: Session, pool: Pool, number: int, goal: Goal) -> None:
    probe, other = _first_images(session, goal)
    score = _metrics(session, pool, probe)
    if (chance := probe.targets.chance) is not None and chance.value < 1:
        spread = math.sqrt(chance.value * (1 - chance.value) / chance.num_queries)
        if score[chance.metric] < chance.value + SIGMAS * spread:
            raise ModelError(
                f"{session.model} scores at chance level: {chance.words} is {100 * score[chance.metric]:.1f} % on "
                f"{counted(chance.num_queries, 'query', 'queries')} of {goal.data}, chance is "
                f"{100 * chance.value:.1f} %. Check weights, preprocessing and {chance.suspects}, or pass --no-precheck"
            )
    if (names := gelu_names(session.model.clip)) is None:
        return
    split = session.splits["search"][number]
    other_E = session.other.of(split, pool, lambda text: None, part=other, swaps_gelu=True)
    swapped = _metrics(session, pool, replace(probe, other_E=other_E, swaps_gelu=True))
    gain = goal.mix.value(swapped) - goal.mix.value(score)
    if gain > 0.02:
        before, after = names
        raise ModelError(
            f"{session.model} scores {100 * gain:.1f} points more with {after} than with {before}, so its weights were "
            f"trained with {after}: use the architecture with that activation (its name ends in -quickgelu, or does "
            "not), or pass --no-precheck"
        )


def _first_images(session: Session, goal: Goal) -> tuple[Probe, slice]:
    """Return the first images as they are probed, and which inputs of the other side belong to them."""
    split = session.payload.splits["search"][goal.prefix]
    targets, images, texts = split.targets.first(NUM_IMAGES)
    own, other = (images, texts) if isinstance(split.inputs, Pixels) else (texts, images)
    return Probe(goal.prefix, own, split.other_E[other], targets), other


def _metrics(session: Session, pool: Pool, probe: Probe) -> dict[str, float]:
    score = pool.probe(probe)
    if score.failure:
        raise ModelError(f"{session.model} gives {score.failure} on the search split; nothing can be searched on it")
    return score.metrics
