"""From ranks to the tables that paired statistics resample."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.statistics.paired import Outcomes
from workers.tasks.base import Targets
from workers.tasks.metrics import Mix, Ranks

# N images


class Clustered(Protocol):
    """The right answers of a split, and the clusters of its images."""

    @property
    def targets(self) -> Targets: ...  # noqa: D102
    @property
    def clusters_N(self) -> NDArray[np.int64]: ...  # noqa: D102


def outcomes_of(split: Clustered, ranks: Ranks, mix: Mix) -> Outcomes:
    """Return the paired-statistics table of one mask's ranks on a data set."""
    table = split.targets.table(ranks, mix, split.clusters_N)
    return Outcomes(table.hits_CK, table.queries_CK, table.value, np.bincount(split.clusters_N[split.clusters_N >= 0]))
