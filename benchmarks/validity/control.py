"""Random search at equal budget through the same selection, confirmation and test: the honest control."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.validity.searches import Workload, outcomes, searched, write_scenes
from headmask.mask import HeadGrid, HeadMask
from orchestrator.run.display import Quiet
from orchestrator.run.pools import make_pool
from orchestrator.search.scoring import score_all
from orchestrator.search.session import Session
from orchestrator.statistics.paired import paired_interval
from orchestrator.study.records import TrialRecord
from orchestrator.verdict.decide import Verdict, decide


@dataclass(frozen=True)
class Comparison:
    """A search and a random search on the same data; gains and the difference are mean recall on test."""

    seed: int
    searched: tuple[str, ...]
    random: tuple[str, ...]
    gain_searched: float
    gain_random: float
    interval_searched: tuple[float, float]
    interval_random: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    """Two-sided 95 % interval of what the search gains more."""


def compare(folder: Path, workload: Workload, seed: int) -> Comparison:
    """Return how a search with default settings and a random search do on the demo's model and new scenes."""
    data = write_scenes(folder / f"control{seed}.parquet", seed, workload.sizes)
    outcome = searched(workload, data, folder / f"control{seed}")
    session, ours = outcome.session, outcome.verdict
    theirs = _random_search(session, workload.masks, seed)
    found, control = (outcomes(session, verdict.test[verdict.selected]) for verdict in (ours, theirs))
    baseline = outcomes(session, ours.test[ours.baseline]).objective()
    return Comparison(
        seed=seed,
        searched=tuple(map(str, ours.selected.heads)),
        random=tuple(map(str, theirs.selected.heads)),
        gain_searched=found.objective() - baseline,
        gain_random=control.objective() - baseline,
        interval_searched=ours.evidence.interval,
        interval_random=theirs.evidence.interval,
        difference=found.objective() - control.objective(),
        interval=paired_interval(control, found),
    )


def _random_search(session: Session, masks: int, seed: int) -> Verdict:
    with closing(make_pool(session, Quiet())) as pool:
        pool.settle(session.wanted)
        drawn = random_masks(session.grid, masks, np.random.default_rng(seed))
        found = score_all(pool, session.search_stage, drawn)
        metrics = [found[mask].score.metrics for mask in drawn]
        values = [session.search_value(each) for each in metrics]
        return decide(session, [TrialRecord(i, drawn[i], values[i], metrics[i]) for i in range(masks)], pool)


def random_masks(grid: HeadGrid, count: int, rng: np.random.Generator) -> list[HeadMask]:
    """Return the empty mask and distinct random ones of 1 to a quarter of all heads, small ones more often: as 1/size.

    There is a cliff, beyond which too many ablated heads ruin a model; who knows of it draws such sizes.
    """
    every = list(grid)
    sizes = np.arange(1, max(1, len(every) // 4) + 1)
    shares = 1 / sizes / (1 / sizes).sum()
    found = {HeadMask.empty(grid): None}
    while len(found) < count:
        chosen = rng.choice(len(every), size=rng.choice(sizes, p=shares), replace=False)
        found[HeadMask.from_heads(grid, [every[index] for index in chosen])] = None
    return list(found)
