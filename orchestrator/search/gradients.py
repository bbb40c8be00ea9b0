"""The gradients that train gates: a strategy asks, replicas compute, and the results are kept for a resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from headmask.border.home import cache_folder
from orchestrator.search.scoring import POLL_S, Interrupted
from orchestrator.search.session import Session
from strategies.gates import BATCHES
from strategies.history import FloatArray
from workers.pool.queue import Pool
from workers.scoring.embedding import cache_key
from workers.scoring.gates import REVISION
from workers.scoring.messages import GateGradient, GateTask
from workers.scoring.rows import RowFiles
from workers.tasks.losses import Indices, micro_batches

# B micro-batches, F free heads, L layers, H heads

BACKWARD = 2
"""Cost of a backward pass, in forward passes."""


class GateGradients:
    """Losses and gradients on the micro-batches of a search: a function of a micro-batch and gates.

    Micro-batches come from the search split of every data set whose objective is improved, one data set after another.

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
        """Layers and heads that have a gate."""

    @cached_property
    def _batches(self) -> list[tuple[int, Indices]]:
        """Index of the data set and units of its search split, for every micro-batch."""
        session = self._session
        goals = zip(session.payload.splits["search"].values(), session.objective.goals, strict=True)
        return [
            (place, units_u)
            for place, (arrays, goal) in enumerate(goals)
            if goal.max_loss is None
            for units_u in micro_batches(arrays.targets, len(arrays.inputs), session.config.search.seed)
        ]

    @cached_property
    def _files(self) -> RowFiles | None:
        if self._pool is None:
            return None
        key = cache_key((*self._session.decides_embeddings, REVISION, self._pool.device))
        return RowFiles(
            cache_folder() / f"gradients-{key}", what="gradients", loss="a resumed search trains its gates again"
        )

    @cached_property
    def forwards_per_step(self) -> float:
        """Cost of a step, in plain forward passes of one input."""
        tower, splits = self._session.config.search.tower, list(self._session.payload.splits["search"].values())
        sizes = [
            len(splits[place].targets.micro_batch(units_u, tower, len(splits[place].inputs)).inputs_n)
            for place, units_u in self._batches
        ]
        return (1 + BACKWARD) * min(BATCHES, len(sizes)) * float(np.mean(sizes))

    @property
    def num_batches(self) -> int:
        """How many micro-batches there are."""
        return len(self._batches)

    @property
    def masks_per_step(self) -> float:
        """Number of mask evaluations that cost about as much as a step."""
        return self.forwards_per_step / self._session.num_inputs("search")

    def __call__(self, batches: Sequence[int], gates_BF: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the losses (B) of micro-batches and their gradients (B, F), each for its own gates.

        Raises:
            Interrupted: the search was asked to stop before all had arrived.
        """
        chosen = [self._batches[index] for index in batches]
        name = cache_key((*[part for place, units_u in chosen for part in (place, units_u)], gates_BF, *self._places))
        shapes = (len(batches),), gates_BF.shape
        kept = self._files.read(name, shapes) if self._files else None
        if kept is None:
            gates_BLH = map(self._spread, gates_BF)
            kept = self._computed([GateTask(*batch, each) for batch, each in zip(chosen, gates_BLH, strict=True)])
            if self._files:
                self._files.keep(name, kept)
        losses_B, gradient_BF = kept
        return losses_B, gradient_BF

    def _computed(self, tasks: Sequence[GateTask]) -> tuple[FloatArray, FloatArray]:
        if self._pool is None:
            raise RuntimeError("gradients are computed by a pool, and there is none")
        self._pool.submit_gradients(tasks)
        found: dict[int, GateGradient] = {}
        while len(found) < len(tasks):
            if self._is_stopping():
                raise Interrupted
            found |= self._pool.collect_gradients(POLL_S)
        gradients = [found[place] for place in range(len(tasks))]
        gradient_BF = np.stack([each.gradient_LH[self._places] for each in gradients])
        return np.array([each.loss for each in gradients]), gradient_BF

    def _spread(self, gates_F: FloatArray) -> FloatArray:
        """Return the gates of all heads (L, H); heads that may not be ablated have open gates."""
        gates_LH = np.ones((self._grid.layers, self._grid.heads))
        gates_LH[self._places] = gates_F
        return gates_LH
