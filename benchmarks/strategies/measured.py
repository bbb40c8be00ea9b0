"""Landscapes of a tower: exact scores on a search split, the displacement surrogate, gradients by scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from benchmarks.strategies.memo import Memo
from headmask.border.home import cache_folder
from headmask.mask import HeadGrid, HeadMask
from orchestrator.demo import DEMO_CONSTANTS, unpack_demo
from orchestrator.search.gradients import ScaleGradients
from orchestrator.search.preparing import prepare
from orchestrator.search.session import Session
from orchestrator.settings.config import read_config
from orchestrator.settings.options import flags_of
from strategies import Limits
from workers.pool.inline import InlinePool
from workers.scoring.displacement import Displacements, displacement
from workers.scoring.embedding import cache_key
from workers.scoring.messages import MaskScore, Stage

# M masks

TABLE_EVERY = 4
"""The table is over every fourth of the demo's 48 heads, layer by layer: 12 heads, from all layers."""


class Measured:
    """A model's search split as a landscape: exact scores, kept on disk for all contestants, seeds and runs.

    Args:
        session: model and data, with an image chunk and a precision that need no measuring.
        limits: which masks may be evaluated.
    """

    def __init__(self, session: Session, limits: Limits) -> None:
        self.limits = limits
        self._pool = InlinePool(session.payload, "cpu")
        settled = replace(session, limits=limits).settled(self._pool.settle(session.wanted))
        self._session = settled.surveyed(self._pool.survey())
        decides = *self._session.decides_embeddings, self._pool.device, str(session.guide)
        self._key = cache_key(decides)
        self._exact = Memo(cache_folder() / f"values-{self._key}.sqlite")

    @property
    def grid(self) -> HeadGrid:
        """Grid of the masks."""
        return self._session.grid

    @property
    def best_known(self) -> float:
        """The largest value of a mask within the limits that was ever evaluated."""
        return self._exact.best(self.limits.free_heads(self.grid))

    def values(self, masks: Sequence[HeadMask]) -> list[float]:
        """Return the exact values of masks, in their order; one that cannot be scored is worth nothing."""
        return self._exact.values(masks, self._score)

    def cost(self, masks: Sequence[HeadMask]) -> float:
        """Return the predicted cost of masks scored together, in plain forward passes of every image."""
        return self._session.cost(masks)

    def screen(self, masks: Sequence[HeadMask]) -> NDArray[np.float64]:
        """Return the values (M) of masks as the displacement surrogate predicts them, NaN where there is none."""
        return np.array(self._predicted.values(masks, self._predict))

    @cached_property
    def gradients(self) -> ScaleGradients:
        """Gradients of the search's loss, kept on disk like scores."""
        return ScaleGradients(self._session, self._pool)

    def _score(self, masks: Sequence[HeadMask]) -> list[float]:
        scores = self._scores(self._session.search_stage, masks)
        return [0.0 if score.failure else self._session.search_value(score.metrics) for score in scores]

    def _predict(self, masks: Sequence[HeadMask]) -> list[float]:
        scores = self._scores(self._predicting, masks)
        return [np.nan if score.failure else self._session.search_value(score.metrics) for score in scores]

    def _scores(self, stage: Stage, masks: Sequence[HeadMask]) -> list[MaskScore]:
        self._pool.submit(stage, masks)
        found: dict[HeadMask, MaskScore] = {}
        while len(found) < len(masks):
            found |= {result.mask: result.score for result in self._pool.collect(timeout_s=0.0)}
        return [found[mask] for mask in masks]

    @cached_property
    def _predicted(self) -> Memo:
        return Memo(cache_folder() / f"predictions-{self._key}.sqlite")

    @cached_property
    def _predicting(self) -> Stage:
        """The stage that masks are predicted at, once the replica has the displacements of all heads."""
        stage = self._session.search_stage
        scan = HeadMask.singles(self.grid)
        scores = self._scores(replace(stage, embeddings=True), scan)
        # One data set, so the embeddings of one.
        baseline_NE, *others = [score.embeddings[0] for score in scores if score.embeddings is not None]
        moved = {mask.heads[0]: displacement(each, baseline_NE) for mask, each in zip(scan[1:], others, strict=True)}
        self._pool.adopt_displacements([Displacements(baseline_NE, moved)])
        return replace(stage, predicted=True)


@cache
def demo_landscape() -> Measured:
    """Return the demo's model on its search split, all heads free."""
    return Measured(_demo_session(), Limits())


@cache
def table_landscape() -> Measured:
    """Return the demo's model on its search split, 12 heads free: few enough that all 4,096 masks can be scored."""
    session = _demo_session()
    protected = [str(head) for number, head in enumerate(session.grid) if number % TABLE_EVERY]
    return Measured(session, Limits(protect=frozenset(protected)))


@cache
def _demo_session() -> Session:
    folder = folder_of("demo")
    with FileLock(folder / ".lock"):
        paths = unpack_demo(folder)
    return session_of(paths.model, paths.data)


def folder_of(name: str) -> Path:
    """Return a folder for the files of a landscape, in the cache."""
    folder = cache_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def session_of(model: Path, data: Path) -> Session:
    """Return the session of a model folder and a data set."""
    options = {"model": f"local-dir:{model}", "data": data, "out": model.parent, **DEMO_CONSTANTS}
    return prepare(read_config(None, flags_of(options)))
