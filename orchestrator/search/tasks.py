"""Gradients and scores under scales: computed by replicas, and kept in the cache, so that what is killed goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from headmask.border.home import cache_folder
from orchestrator.search.scoring import POLL_S, Interrupted
from orchestrator.search.session import Session
from strategies.history import FloatArray
from workers.pool.protocol import Pool
from workers.scoring.embedding import cache_key
from workers.scoring.messages import MaskScore, ScaledStage, ScaleGradient, ScaleTask, Stage, Task
from workers.scoring.replica import merged
from workers.scoring.rows import Row, RowFiles
from workers.scoring.scales import REVISION
from workers.scoring.scorer import score_of

# L layers, H heads


class KeptTasks:
    """What a pool computes under scales. Each result is a function of its task, and computed once.

    Args:
        session: the session, settled.
        pool: does the tasks.
        is_stopping: called while results are awaited; True raises `Interrupted`.
    """

    def __init__(self, session: Session, pool: Pool, is_stopping: Callable[[], bool] = lambda: False) -> None:
        self._session, self._pool, self._is_stopping = session, pool, is_stopping
        self.num_gradients = 0
        """How many gradients were asked for, those that were kept among them."""
        self.num_scored: Counter[str] = Counter()
        """How many scales were asked for, by split."""
        key = cache_key((*session.decides_embeddings, REVISION, pool.device))
        self._files = RowFiles(
            cache_folder() / f"gradients-{key}", what="gradients and scores", loss="what resumes computes them again"
        )

    def gradients(self, tasks: Sequence[ScaleTask]) -> list[ScaleGradient]:
        """Return losses and gradients, in the order of the tasks.

        Raises:
            Interrupted: the search was asked to stop before all had arrived.
        """
        self.num_gradients += len(tasks)
        names = [cache_key((task.data, task.units_u, task.scales_LH)) for task in tasks]
        shapes = (), (self._session.grid.layers, self._session.grid.heads)

        def read(row: Row) -> ScaleGradient:
            return ScaleGradient(float(row[0]), row[1])

        return self._done(tasks, names, shapes, read, lambda found: (np.array(found.loss), found.gradient_LH))

    def scores(self, stage: Stage, scales: Sequence[FloatArray]) -> list[MaskScore]:
        """Return the scores of scales (L, H) at a stage that keeps ranks, in the order given.

        Raises:
            Interrupted: the search was asked to stop before all had arrived.
        """
        self.num_scored[stage.split] += len(scales)
        arrays = self._session.payload.splits[stage.split]
        queries = [part.targets.image_of_queries for part in arrays.values()]
        digests = [split.digest for split in self._session.splits[stage.split]]
        names = [cache_key((stage.split, stage.precision, digests, scales_LH)) for scales_LH in scales]
        shapes = tuple(image_q.shape for kinds in queries for image_q in kinds.values())

        def read(row: Row) -> MaskScore:
            tables = iter(row)
            ranks = [{kind: next(tables) for kind in kinds} for kinds in queries]
            parts = zip(arrays.items(), ranks, strict=True)
            return merged({prefix: score_of(part.targets, found, ranks=True) for (prefix, part), found in parts})

        def written(found: MaskScore) -> Row | None:
            if found.ranks is None:
                return None
            return tuple(ranks[kind] for ranks, kinds in zip(found.ranks, queries, strict=True) for kind in kinds)

        tasks = [ScaledStage(stage, scales_LH) for scales_LH in scales]
        return self._done(tasks, names, shapes, read, written)

    def _done(
        self,
        tasks: Sequence[Task],
        names: Sequence[str],
        shapes: tuple[tuple[int, ...], ...],
        read: Callable[[Row], Any],
        written: Callable[[Any], Row | None],
    ) -> list[Any]:
        """Return the results of tasks: those that are kept under their names, and the others computed and kept."""
        rows = [self._files.read(name, shapes) for name in names]
        results = [None if row is None else read(row) for row in rows]
        missing = [place for place, row in enumerate(rows) if row is None]
        for place, found in self._computed([tasks[place] for place in missing]):
            results[missing[place]] = found
            if (row := written(found)) is not None:
                self._files.keep(names[missing[place]], row)
        return results

    def _computed(self, tasks: Sequence[Task]) -> Iterator[tuple[int, ScaleGradient | MaskScore]]:
        """Yield results as they arrive, by the index of the task."""
        if tasks:
            self._pool.submit_tasks(tasks)
        missing = len(tasks)
        while missing:
            found = self._pool.collect_tasks(POLL_S)
            missing -= len(found)
            yield from found.items()
            if missing and self._is_stopping():
                raise Interrupted
