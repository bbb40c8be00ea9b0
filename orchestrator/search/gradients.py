"""The gradients that train scales: a strategy asks, replicas compute, and the results are kept for a resume."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import zip_longest

import numpy as np

from headmask.border.home import cache_folder
from orchestrator.search.scoring import POLL_S, Interrupted
from orchestrator.search.session import Session
from strategies.history import FloatArray
from workers.pool.queue import Pool
from workers.scoring.embedding import cache_key
from workers.scoring.messages import ScaleTask
from workers.scoring.rows import RowFiles
from workers.scoring.scales import REVISION
from workers.tasks.losses import Indices, micro_batches

# B micro-batches, F free heads, L layers, H heads

BACKWARD = 2
"""Cost of a backward pass, in forward passes."""


class ScaleGradients:
    """Losses and gradients on the micro-batches of a search: a function of a micro-batch and scales.

    Micro-batches come from the search split of every data set whose objective is improved, in turn.

    Args:
        session: the session of the search, settled.
        pool: computes gradients; None if only their cost is needed.
        is_stopping: called while gradients are awaited; True raises `Interrupted`.
    """

    def __init__(
        self, session: Session, pool: Pool | None = None, *, is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._session, self._pool, self._is_stopping = session, pool, is_stopping
        self._grid, free_heads = session.grid, session.limits.free_heads(session.grid)
        self._places = tuple(np.array(free_heads).T)
        """Layers and heads that have a scale."""

    @cached_property
    def _batches(self) -> list[tuple[int, Indices]]:
        """Index of the data set and units of its search split, for every micro-batch."""
        session, seed = self._session, self._session.config.search.seed
        goals = zip(session.payload.splits["search"].values(), session.objective.goals, strict=True)
        each = [
            [(place, units_u) for units_u in micro_batches(arrays.targets, len(arrays.inputs), seed)]
            for place, (arrays, goal) in enumerate(goals)
            if goal.max_loss is None
        ]
        return [batch for turn in zip_longest(*each) for batch in turn if batch is not None]

    @cached_property
    def _files(self) -> RowFiles | None:
        if self._pool is None:
            return None
        key = cache_key((*self._session.decides_embeddings, REVISION, self._pool.device))
        return RowFiles(
            cache_folder() / f"gradients-{key}", what="gradients", loss="a resumed search trains its scales again"
        )

    @cached_property
    def forwards_per_step(self) -> float:
        """Cost of a step, in plain forward passes of one input."""
        tower, splits = self._session.config.search.tower, list(self._session.payload.splits["search"].values())
        sizes = [
            len(splits[place].targets.micro_batch(units_u, tower, len(splits[place].inputs)).inputs_n)
            for place, units_u in self._batches
        ]
        return (1 + BACKWARD) * float(np.mean(sizes))

    @property
    def num_batches(self) -> int:
        """How many micro-batches there are."""
        return len(self._batches)

    @property
    def masks_per_step(self) -> float:
        """Number of mask evaluations that cost about as much as a step."""
        return self.forwards_per_step / self._session.num_inputs("search")

    def __call__(self, batch: int, scales_F: FloatArray) -> tuple[float, FloatArray]:
        """Return the loss of a micro-batch and its gradient (F) by the scales.

        Raises:
            Interrupted: the search was asked to stop before they had arrived.
        """
        place, units_u = self._batches[batch]
        name = cache_key((place, units_u, scales_F, *self._places))
        kept = self._files.read(name, ((), scales_F.shape)) if self._files else None
        if kept is None:
            kept = self._computed(ScaleTask(place, units_u, self._spread(scales_F)))
            if self._files:
                self._files.keep(name, kept)
        loss, gradient_F = kept
        return float(loss), gradient_F

    def _computed(self, task: ScaleTask) -> tuple[FloatArray, FloatArray]:
        if self._pool is None:
            raise RuntimeError("gradients are computed by a pool, and there is none")
        self._pool.submit_gradients([task])
        while not (found := self._pool.collect_gradients(POLL_S)):
            if self._is_stopping():
                raise Interrupted
        return np.array(found[0].loss), found[0].gradient_LH[self._places]

    def _spread(self, scales_F: FloatArray) -> FloatArray:
        """Return the scales of all heads (L, H); heads that may not be ablated keep a scale of 1."""
        scales_LH = np.ones((self._grid.layers, self._grid.heads))
        scales_LH[self._places] = scales_F
        return scales_LH
