"""What further search could bring, and how much of it would exceed noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from headmask.mask import HeadMask
from orchestrator.outcome.schema import Prospects
from orchestrator.search.scoring import score_all
from orchestrator.search.session import Session
from orchestrator.statistics.paired import paired_standard_error
from orchestrator.statistics.pareto import front
from orchestrator.study.records import TrialRecord
from orchestrator.verdict.decide import improved_outcomes
from workers.pool.protocol import Pool
from workers.scoring.messages import Stage

SEARCH = Stage("search", "float32", ranks=True)


def look_ahead(
    session: Session,
    records: Sequence[TrialRecord],
    pool: Pool,
    *,
    is_exhausted: bool = False,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Prospects | None:
    """Return what the same number of masks again would bring on the search split, and how large noise is there.

    The best mask and the baseline are scored once more there, for the ranks of their queries.

    Args:
        session: session of the search.
        records: all trials, in order of proposal.
        pool: scores the two masks.
        is_exhausted: whether the strategy has no mask left.
        is_stopping: asked between batches; True raises `Interrupted`.

    Returns:
        None if no mask but the baseline has a value.
    """
    values = session.gains(records)
    baseline = HeadMask.empty(session.grid)
    masked = front({mask: value for mask, value in values.items() if not mask.is_empty})
    if not masked:
        return None
    best = masked[-1].mask
    scored = score_all(pool, SEARCH, [baseline, best], is_stopping=is_stopping)
    before, after = (scored[mask].score for mask in (baseline, best))
    if before.failure or after.failure:
        return None
    sides = [improved_outcomes(session, "search", score, session.objective) for score in (before, after)]
    # Single heads first, whenever they were scanned.
    scan_first = sorted(records, key=lambda record: len(record.mask) > 1)
    num_scan = sum(len(record.mask) <= 1 for record in records)
    grown = growth(
        [values.get(record.mask, math.nan) for record in scan_first],
        num_scan=num_scan,
        fewest=4 * session.config.search.block_size,
    )
    num_more = 0 if is_exhausted else min(len(records), session.limits.num_masks(session.grid) - len(records))
    return Prospects(
        best=list(map(str, best.heads)),
        delta=session.objective.gain(after.metrics) - session.objective.gain(before.metrics),
        standard_error=paired_standard_error(*sides, combine=session.objective.over_draws),
        growth=list(grown),
        num_more=num_more,
        expected=expected_gain(grown, num_more / (len(records) - num_scan)) if grown else None,
    )


def growth(values: Sequence[float], *, num_scan: int, fewest: int) -> tuple[float, ...]:
    """Return the growth of the best value in the last doubling of the masks after the scan, and in the one before.

    Args:
        values: the objective of all masks in order of proposal; NaN if there is none.
        num_scan: how many of them are the scan, which no strategy chose.
        fewest: masks after the scan below which nothing is said: the result is empty then.
    """
    found = len(values) - num_scan
    if found < fewest:
        return ()
    best_M = np.fmax.accumulate(np.array(values))
    now, half, quarter = (float(best_M[num_scan + count - 1]) for count in (found, found // 2, found // 4))
    return now - half, half - quarter


def expected_gain(grown: Sequence[float], more: float) -> float:
    """Return the expected growth of the best value, continuing the last two doublings geometrically.

    The largest of n independent draws grows by a constant with every doubling of n where their tail falls off
    exponentially (Gumbel's limit), and by a constant factor less than in the doubling before where the tail has an end
    (Weibull's: what is missing to the end shrinks like a power of n). A strategy's masks are no independent draws, but
    its curves look alike: docs/decisions/0006-what-more-masks-would-bring.md has the comparison.

    Args:
        grown: over the last doubling, and the one before.
        more: masks to come, as a multiple of those that the doublings are counted in.
    """
    last, before = grown
    ratio, doublings = (min(1.0, last / before) if before else 1.0), math.log2(1 + more)
    return last * (doublings if ratio == 1 else ratio * (1 - ratio**doublings) / (1 - ratio))
