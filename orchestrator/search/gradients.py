"""The gradients that train scales: a strategy asks, replicas compute, and the results are kept for a resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import zip_longest

import numpy as np

from orchestrator.search.session import Session
from orchestrator.search.tasks import KeptTasks
from strategies.history import FloatArray
from workers.pool.protocol import Pool
from workers.scoring.messages import ScaleTask
from workers.tasks.losses import Indices, micro_batches

# B micro-batches, F free heads, L layers, H heads

BACKWARD = 2
"""Cost of a backward pass, in forward passes."""


class ScaleGradients:
    """Losses and gradients on the micro-batches of a search: a function of a micro-batch and scales.

    Args:
        session: the session of the search, settled.
        pool: computes gradients; None if only their cost is needed.
        is_stopping: called while gradients are awaited; True raises `Interrupted`.
    """

    def __init__(
        self, session: Session, pool: Pool | None = None, *, is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._session = session
        self._tasks = None if pool is None else KeptTasks(session, pool, is_stopping)
        self._places = tuple(np.array(session.limits.free_heads(session.grid)).T)
        """Layers and heads that have a scale."""

    @cached_property
    def _batches(self) -> list[tuple[int, Indices]]:
        """Index of the data set and units of its search split, for every micro-batch."""
        return batches_of(self._session)

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
        if self._tasks is None:
            raise RuntimeError("gradients are computed by a pool, and there is none")
        scales_LH = np.ones((self._session.grid.layers, self._session.grid.heads))
        scales_LH[self._places] = scales_F
        (found,) = self._tasks.gradients([ScaleTask(*self._batches[batch], scales_LH)])
        return found.loss, found.gradient_LH[self._places]


def batches_of(session: Session, units: Sequence[Indices | None] | None = None) -> list[tuple[int, Indices]]:
    """Return the micro-batches of a search, each by the index of its data set and the units of its search split.

    They come from every data set whose objective is improved, in turn.

    Args:
        session: the session of the search.
        units: for every data set, the units of its search split; all by default.
    """
    seed, goals = session.config.search.seed, session.objective.goals
    parts = list(session.payload.splits["search"].values())
    each = [
        [(place, units_u) for units_u in micro_batches(arrays.targets, len(arrays.inputs), seed, chosen)]
        for place, (arrays, goal, chosen) in enumerate(zip(parts, goals, units or [None] * len(parts), strict=True))
        if goal.max_loss is None
    ]
    return [batch for turn in zip_longest(*each) for batch in turn if batch is not None]
