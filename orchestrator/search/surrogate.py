"""The displacement surrogate of a search: what the scan leaves behind, and what that predicts for other masks.

Predictions order masks for the strategy that asks; they never become values of the study. Their quality is
monitored against the exact values of proposed masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headmask.errors import HeadmaskError
from headmask.mask import HeadMask
from orchestrator.search.progress import Listener, Progress
from orchestrator.search.scoring import score_all, scored
from orchestrator.search.session import Session
from orchestrator.study.records import TrialRecord
from workers.pool.protocol import Pool, Result
from workers.scoring.displacement_store import DisplacementStore
from workers.scoring.messages import Stage

# M masks


class Surrogate(Listener):
    """Predicts the search values of masks once a scan is complete, and listens to the search for its data.

    Args:
        pool: computes predictions.
        stage: the stage at which masks are searched.
        store: the displacements of the scan.
        value: the search value from a mask's metrics.
        is_stopping: called while predictions are awaited.
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
        self._search_stage = stage
        self.scan_stage = replace(stage, embeddings=True)
        """The stage at which the masks of the scan are scored."""
        self._predicted_stage = replace(stage, predicted=True)
        self._is_adopted = False
        self._unscanned = set(store.masks)
        """Masks of the scan without a result."""
        self._unwatched: dict[HeadMask, float] = {}
        self._pairs: list[tuple[float, float]] = []
        """Predicted and exact values of proposed masks."""
        self.num_screened = 0
        """Number of predictions so far."""
        self.rank_correlation: float | None = None
        """Spearman's rank correlation of predicted and exact values of proposed masks; None if it is undefined."""

    @property
    def missing(self) -> set[HeadMask]:
        """The masks of the scan that must be scored at its stage before anything is predicted."""
        return set() if self._is_adopted else self._store.missing

    def stage(self, mask: HeadMask) -> Stage:
        """Return the stage at which a mask is scored now; of a mask of the scan, all that is needed is kept."""
        return self.scan_stage if mask in self.missing else self._search_stage

    def on_scored(self, result: Result) -> None:
        """Keep the displacements from the result of a mask of the scan."""
        embeddings = result.score.embeddings
        if result.mask in self.missing and embeddings is not None and not result.score.failure:
            self._store.add(result.mask, embeddings)

    def screen(self, masks: Sequence[HeadMask]) -> NDArray[np.float64]:
        """Return the predicted values (M) of masks, NaN if there is none; each depends on its mask alone.

        Raises:
            Interrupted: the search was asked to stop before all had arrived.
        """
        if not self._is_adopted:
            self._complete_scan()
            self._pool.adopt_displacements(self._store.take())
            self._is_adopted = True
        found = score_all(self._pool, self._predicted_stage, masks, is_stopping=self._is_stopping)
        self.num_screened += len(found)
        scores = [found[mask].score for mask in masks]
        return np.array([np.nan if score.failure else self._value(score.metrics) for score in scores])

    def on_known(self, record: TrialRecord) -> None:
        """Record the exact value of a mask of several heads, to be compared with its prediction.

        Masks with a head that fails alone are not predicted.
        """
        self._unscanned.discard(record.mask)
        if len(record.mask) <= 1:
            if record.value is None and not self._is_adopted:
                self._store.exclude(record.mask)
        elif record.value is not None:
            self._unwatched[record.mask] = record.value

    def on_planning(self, block: int, progress: Progress) -> None:
        """Compare predictions with values, once the scan is complete.

        Raises:
            HeadmaskError: a mask of a stored scan can no longer be scored.
            Interrupted: the search was asked to stop before that was done.
        """
        if block > 0:
            self.on_end(progress)

    def on_end(self, progress: Progress) -> None:
        """Compare predictions with the values that have arrived since the last time."""
        self._compare()
        progress.rank_correlation = self.rank_correlation

    def _complete_scan(self) -> None:
        """Score again what a stored scan lacks."""
        missing = self.missing
        for results in scored(self._pool, self.scan_stage, missing, is_stopping=self._is_stopping) if missing else ():
            for result in results:
                if result.score.failure:
                    raise HeadmaskError(
                        f"the stored study has a value for mask {result.mask}, which cannot be scored any more "
                        f"({result.score.failure}); resume it where it could"
                    )
                self.on_scored(result)

    def _compare(self) -> None:
        if self._unscanned or not self._unwatched:
            return
        unwatched, self._unwatched = self._unwatched, {}
        predicted = self.screen(list(unwatched)).tolist()
        pairs = zip(predicted, unwatched.values(), strict=True)
        self._pairs += [(before, after) for before, after in pairs if np.isfinite(before)]
        if all(len(set(side)) > 1 for side in zip(*self._pairs, strict=True)) and self._pairs:
            from scipy.stats import spearmanr  # The import takes a second, which the first masks need not wait for.

            self.rank_correlation = float(spearmanr(*zip(*self._pairs, strict=True)).statistic)


def make_surrogate(
    session: Session, pool: Pool, say: Callable[[str], None], is_stopping: Callable[[], bool]
) -> Surrogate | None:
    """Return the surrogate of a search, with the data of an earlier run; None for a search without one."""
    if session.config.search.surrogate and not session.surrogate_fits:
        takes, room = (f"{size / 2**30:.2g} GiB" for size in (session.surrogate_bytes, session.surrogate_room))
        if session.uses_surrogate:
            say(f"The surrogate takes {takes}, more than the {room} that it may now; the study began with it")
        else:
            say(
                f"Searching without the surrogate: it takes {takes}, more than the {room} that it may; "
                "allow more with --surrogate-gib"
            )
    if not session.uses_surrogate:
        return None
    shapes = [part.embedding_shape for part in session.payload.splits["search"].values()]
    scan = HeadMask.singles(session.grid, session.limits.free_heads(session.grid))
    store = DisplacementStore(scan, shapes, (*session.decides_embeddings, pool.device))
    return Surrogate(pool, session.search_stage, store, session.search_value, is_stopping=is_stopping)
