"""What the masks of a real search change, image by image, kept to draw null data sets from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.validity.searches import Workload, scores_on_test, searched, write_scenes
from headmask.mask import HeadMask
from orchestrator.statistics.paired import Outcomes, paired_standard_error
from orchestrator.statistics.selection import Judged
from orchestrator.study.store import StudyStore
from orchestrator.verdict.decide import ERROR_DRAWS, TEST, improved_outcomes

# M masks, C clusters (scenes with their captions), K ratio metrics


@dataclass(frozen=True)
class Differences:
    """Hits of the baseline, and how those of every mask differ from them, on one gallery."""

    before: Outcomes
    """Outcomes of the baseline."""
    delta_MCK: NDArray[np.float64]

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        return len(self.before.hits_CK)

    def values(self, signs_C: NDArray[np.float64], part: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the objective (M) of all masks on some clusters, each cluster's difference times its sign."""
        gained_MK = np.einsum("c,mck->mk", signs_C[part], self.delta_MCK[:, part])
        hits_MK = self.before.hits_CK[part].sum(0) + gained_MK
        return self.before.value(hits_MK / self.before.queries_CK[part].sum(0))

    def outcomes(self, index: int, signs_C: NDArray[np.float64], part: NDArray[np.int64]) -> Outcomes:
        """Return one mask's outcomes on some clusters, each cluster's difference times its sign.

        A hit that a flipped sign takes twice, or gives twice, is no hit of any mask; the statistics are of sums and
        do not mind.
        """
        hits_CK = self.before.hits_CK[part] + signs_C[part, None] * self.delta_MCK[index, part]
        return Outcomes(hits_CK, self.before.queries_CK[part], self.before.value)

    def judged(self, chosen: Sequence[int], signs_C: NDArray[np.float64], part: NDArray[np.int64]) -> Judged:
        """Return what some masks are worth on some clusters, as selection sees it."""

        def standard_error(index: int, best: int) -> float | None:
            sides = [self.outcomes(chosen[each], signs_C, part) for each in (best, index)]
            return paired_standard_error(*sides, draws=ERROR_DRAWS)

        return Judged(self.values(signs_C, part)[list(chosen)], standard_error)


@dataclass(frozen=True)
class Searched:
    """The masks of a search, with their differences by what is reported and by what they were searched by."""

    masks: tuple[HeadMask, ...]
    objective: Differences
    guide: Differences


def measure(folder: Path, workload: Workload, seed: int) -> Searched:
    """Return the differences that all masks of one search make on its test split."""
    data = write_scenes(folder / f"differences{seed}.parquet", seed, workload.sizes)
    session = searched(workload, data, folder / f"differences{seed}").session
    with StudyStore.open(session.config.storage, session.config.study_name) as store:
        found = sorted(mask for mask, record in store.records(session.grid).items() if record.failure is None)
    scores = scores_on_test(session, [HeadMask.empty(session.grid), *found])
    sides = []
    for objective in (session.objective, session.guide):
        before, *after = (improved_outcomes(session, TEST.split, score, objective)[0] for score in scores)
        sides.append(Differences(before, np.stack([each.hits_CK - before.hits_CK for each in after])))
    return Searched(tuple(found), *sides)
