"""Landscapes of a real model: the demo's, by exact scores on the search split, and by the displacement surrogate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from headmask.mask import HeadGrid, HeadMask
from orchestrator.config import flags_of, read_config
from orchestrator.contest.memo import Memo
from orchestrator.contest.surrogate import Surrogate
from orchestrator.demo import DEMO_CHUNK, unpack_demo
from orchestrator.session import Session, prepare
from strategies import Limits
from workers.pixels import cache_folder
from workers.replica import Replica, Stage

# M masks

TABLE_EVERY = 4
"""The table is over every fourth of the demo's 48 heads, layer by layer: 12 heads, from all layers."""
SEARCH = Stage("search")
_DECIDES = ("model", "data", "preprocess", "ablation", "engine", "precision", "image_chunk", "threads")


class Measured:
    """A model's search split as a landscape: exact scores, kept on disk for all contestants, seeds and runs.

    Args:
        session: model and data, with an image chunk and a precision that need no measuring.
        limits: which masks may be evaluated.
    """

    def __init__(self, session: Session, limits: Limits) -> None:
        self.limits = limits
        self._session = session
        self._replica = Replica(session.payload)
        self._replica.settle(session.wanted)
        constants = {key: session.fingerprint[key] for key in _DECIDES}
        decides = {**constants, "device": self._replica.device_kind(), "objective": str(session.objective)}
        self._key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
        self._exact = Memo(cache_folder() / f"values-{self._key}.sqlite")

    @property
    def grid(self) -> HeadGrid:
        """Of the masks."""
        return self._session.grid

    @property
    def best_known(self) -> float:
        """The largest value of a mask within the limits that was ever evaluated."""
        return self._exact.best(self.limits.free_heads(self.grid))

    def values(self, masks: Sequence[HeadMask]) -> list[float]:
        """Return the exact values of masks, in their order."""
        return self._exact.values(masks, self._score)

    def screen(self, masks: Sequence[HeadMask]) -> NDArray[np.float64]:
        """Return the values (M) of masks as the displacement surrogate predicts them, NaN where there is none."""
        return np.array(self._predicted.values(masks, self._surrogate))

    def _score(self, masks: Sequence[HeadMask]) -> list[float]:
        scores = self._replica.score(SEARCH, self.grid, [mask.words for mask in masks])
        return [np.nan if score.failure else self._session.objective.gain(score.metrics) for score in scores]

    @cached_property
    def _predicted(self) -> Memo:
        return Memo(cache_folder() / f"predictions-{self._key}.sqlite")

    @cached_property
    def _surrogate(self) -> Surrogate:
        engine = self._replica.engine(SEARCH.split, SEARCH.precision, DEMO_CHUNK)
        (arrays,) = self._session.payload.splits[SEARCH.split].values()
        singles = HeadMask.singles(self.grid, self.limits.free_heads(self.grid))
        return Surrogate(singles, engine.embed(singles), arrays, self._session.objective.gain)


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
    folder = cache_folder() / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        paths = unpack_demo(folder)
    options = {"model": f"local-dir:{paths.model}", "data": paths.data, "out": folder, "image_chunk": DEMO_CHUNK}
    return prepare(read_config(None, flags_of(options)))
