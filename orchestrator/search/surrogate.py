"""The displacement surrogate of a search: what the scan leaves behind, and what it predicts of other masks.

Predictions order masks for the strategy that asks; they never become values of the study. How well they do it is
watched against the exact values of what was proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from headmask.mask import HeadMask
from orchestrator.search.loop import score_all
from orchestrator.search.session import Session
from workers.pool.queue import Pool, Result
from workers.scoring.displacement_store import DisplacementStore
from workers.scoring.messages import Stage

# M masks


class Surrogate:
    """Predicts the search values of masks once a scan is complete.

    Args:
        pool: computes predictions.
        stage: what masks are searched on.
        store: the displacements of the scan.
        value: the search value from a mask's metrics.
        is_stopping: asked while predictions are awaited.
    """

    def __init__(
        self,
        pool: Pool,
        stage: Stage,
        store: DisplacementStore,
        value: Callable[[Mapping[str, float]], float],
        *,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._pool, self._store, self._value, self._is_stopping = pool, store, value, is_stopping
        self.scan_stage = replace(stage, embeddings=True)
        """What the masks of the scan are scored on."""
        self._stage = replace(stage, predicted=True)
        self._is_adopted = False
        self._unwatched: dict[HeadMask, float] = {}
        self._pairs: list[tuple[float, float]] = []
        """Predicted and exact values of what was proposed."""
        self.num_screened = 0
        """Predictions so far."""
        self.rank_correlation: float | None = None
        """Spearman's, between predictions and exact values of what was proposed; None where it is undefined."""

    @property
    def missing(self) -> set[HeadMask]:
        """The masks of the scan that have to be scored, on its stage, before anything is predicted."""
        return set() if self._is_adopted else self._store.missing

    def learn(self, result: Result) -> None:
        """Take the result of a mask; only those of the scan leave something behind."""
        embeddings = result.score.embeddings
        if result.mask in self.missing and embeddings is not None and not result.score.failure:
            self._store.add(result.mask, embeddings)

    def screen(self, masks: Sequence[HeadMask]) -> NDArray[np.float64]:
        """Return the predicted values (M) of masks, NaN where there is none: a function of each mask alone.

        Raises:
            Interrupted: asked to stop before all were there.
        """
        if not self._is_adopted:
            self._pool.adopt_displacements(self._store.take())
            self._is_adopted = True
        found = score_all(self._pool, self._stage, list(masks), is_stopping=self._is_stopping)
        self.num_screened += len(found)
        scores = [found[mask].score for mask in masks]
        return np.array([np.nan if score.failure else self._value(score.metrics) for score in scores])

    def watch(self, mask: HeadMask, value: float | None) -> None:
        """Note the exact value of a mask, None for a failure.

        Those of several heads are compared with predictions. Nothing is predicted with a head that fails alone.
        """
        if len(mask) <= 1:
            if value is None and not self._is_adopted:
                self._store.exclude(mask)
        elif value is not None:
            self._unwatched[mask] = value

    def compare(self) -> None:
        """Compare what was noted since the last time."""
        if not self._unwatched:
            return
        unwatched, self._unwatched = self._unwatched, {}
        predicted = self.screen(list(unwatched)).tolist()
        pairs = zip(predicted, unwatched.values(), strict=True)
        self._pairs += [(before, after) for before, after in pairs if np.isfinite(before)]
        if all(len(set(side)) > 1 for side in zip(*self._pairs, strict=True)) and self._pairs:
            self.rank_correlation = float(spearmanr(*zip(*self._pairs, strict=True)).statistic)


def make_surrogate(
    session: Session, pool: Pool, say: Callable[[str], None], is_stopping: Callable[[], bool]
) -> Surrogate | None:
    """Return the surrogate of a search, with what an earlier run has left of it; None for a search without."""
    search = session.config.search
    if search.surrogate and not session.surrogate_fits:
        say(
            f"Searching without the surrogate: it takes {session.surrogate_bytes / 2**30:.2g} GiB, more than the "
            f"{search.surrogate_gib:g} GiB that it may; allow more with --surrogate-gib"
        )
    if not session.uses_surrogate:
        return None
    shapes = [part.embedding_shape for part in session.payload.splits["search"].values()]
    scan = HeadMask.singles(session.grid, session.limits.free_heads(session.grid))
    store = DisplacementStore(scan, shapes, (*session.decides_embeddings, pool.device))
    return Surrogate(pool, session.search_stage, store, session.search_value, is_stopping=is_stopping)
