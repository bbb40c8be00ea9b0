"""Full searches on data from which nothing can be learnt: the captions of every split are dealt at random.

Each caption is as likely any image's as the next one's, so every mask's recall is that of chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.validity.searches import Workload, searched, write_scenes


@dataclass(frozen=True)
class NullSearch:
    """What a search has found where there is nothing; scores are mean recall."""

    seed: int
    selected: tuple[str, ...]
    gain_on_search: float
    gain_on_test: float
    interval: tuple[float, float]
    is_reliable: bool


def search_nothing(folder: Path, workload: Workload, seed: int) -> NullSearch:
    """Return what a full search finds on shuffled captions; without the precheck, which refuses them."""
    data = write_scenes(folder / f"shuffled{seed}.parquet", seed, workload.sizes, shuffled=True)
    outcome = searched(workload, data, folder / f"shuffled{seed}", precheck=False)
    splits, verdict = outcome.result.splits, outcome.verdict
    return NullSearch(
        seed=seed,
        selected=tuple(map(str, verdict.selected.heads)),
        gain_on_search=splits.search.delta["mean_recall"],
        gain_on_test=splits.test.delta["mean_recall"],
        interval=verdict.evidence.interval,
        is_reliable=verdict.is_reliable,
    )
