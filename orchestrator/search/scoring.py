"""Scoring of masks at one stage, waiting for the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headmask.mask import HeadMask
    from workers.pool.protocol import Pool, Result
    from workers.scoring.messages import Stage

POLL_S = 0.5


class Interrupted(Exception):
    """The search was asked to stop; what was scored is stored."""


def score_all(
    pool: Pool,
    stage: Stage,
    masks: Iterable[HeadMask],
    *,
    is_stopping: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[HeadMask, Result]:
    """Return the results of masks at a stage; results of other stages that arrive meanwhile stay in the pool.

    Args:
        pool: scores the masks.
        stage: the split, and how masks are scored on it.
        masks: the masks; a mask may occur twice.
        is_stopping: called between batches; True raises `Interrupted`.
        on_progress: called with the number of masks scored and the number of all masks.

    Raises:
        Interrupted: the search was asked to stop before all had arrived.
    """
    wanted = set(masks)
    results: dict[HeadMask, Result] = {}
    for batch in scored(pool, stage, wanted, is_stopping=is_stopping):
        results |= {result.mask: result for result in batch}
        on_progress(len(results), len(wanted))
    return results


def scored(
    pool: Pool, stage: Stage, masks: set[HeadMask], *, is_stopping: Callable[[], bool] = lambda: False
) -> Iterator[list[Result]]:
    """Yield the results of masks at a stage as they arrive, in batches; see `score_all`."""
    pool.submit(stage, sorted(masks))
    missing = set(masks)
    others: list[Result] = []
    try:
        while missing:
            if is_stopping():
                raise Interrupted
            collected = pool.collect(POLL_S)
            results = [result for result in collected if result.stage == stage]
            others += [result for result in collected if result.stage != stage]
            missing -= {result.mask for result in results}
            yield results
    finally:
        pool.put_back(others)
