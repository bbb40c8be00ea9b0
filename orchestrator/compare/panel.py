"""Paired statistics of many masks on the same queries: common parts are read and drawn once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headmask.errors import DataError
from orchestrator.settings.objective import Objective
from orchestrator.statistics.clusters import Clusters, too_few
from orchestrator.statistics.paired import Outcomes, drawn_values, permutation_p_values
from orchestrator.verdict.outcomes import outcomes_of
from orchestrator.verdict.queries import Earned, Queries, read_earned
from workers.tasks.metrics import Mix, Ranks

# C clusters, K kinds of queries, R draws, M masks

SPLITS = ("confirm", "test")


@dataclass(frozen=True)
class Ranked:
    """Results of one run's selected mask on confirm and test."""

    earned: Mapping[tuple[str, str], Earned]

    @classmethod
    def read(cls, path: Path, digests: Mapping[str, tuple[str, ...]]) -> Ranked:
        """Return the content of a run folder's `queries.parquet`.

        Raises:
            DataError: the file is not valid, or has other data than its result.
        """
        ranked = cls(read_earned(path, "selected"))
        for split in SPLITS:
            if tuple(each.digest for each in ranked.of(split)) != digests[split]:
                raise DataError(f"{path} is of another {split} split than the result.json beside it; resume the run")
        return ranked

    def of(self, split: str) -> list[Earned]:
        """Return its results on a split, data set by data set."""
        return [each for (_, name), each in self.earned.items() if name == split]


class Panel:
    """Masks on the queries of one split, in order: the empty mask, then the given ones.

    Intervals and p-values of two of them equal those that a search computes for its selected mask.
    """

    def __init__(self, split: str, queries: Sequence[Queries], objective: Objective, runs: Sequence[Ranked]) -> None:
        found = {part.data: part for part in queries if part.split == split}
        # A single data set's metrics are named without it.
        goals = [(found[goal.data] if goal.data else next(iter(found.values())), goal.mix) for goal in objective.goals]
        self._objective = objective
        self._split = split
        self._clusters = [Clusters.of(part.data, part.clusters_N) for part, _ in goals]
        columns = [_Columns(part, mix) for part, mix in goals]
        self._masks = [
            [column.outcomes(part.ranks["baseline"]) for column, (part, _) in zip(columns, goals, strict=True)],
            *[
                [
                    # Data sets may be called otherwise elsewhere; their digests are the same, in the same order.
                    column.outcomes(run.of(split)[list(found).index(part.data)].ranks)
                    for column, (part, _) in zip(columns, goals, strict=True)
                ]
                for run in runs
            ],
        ]

    @cached_property
    def values_RM(self) -> NDArray[np.float64]:
        """The objective of every mask in the same draws of clusters."""
        return drawn_values(self._masks, combine=self._objective.over_draws)

    @property
    def too_few(self) -> str | None:
        """A text saying that there are too few clusters for paired statistics; None if there are enough."""
        return too_few(self._clusters, self._split)

    def interval(self, before: int, after: int) -> tuple[float, float] | None:
        """Return the two-sided 95 % interval of the objective's difference between two masks."""
        if self.too_few:
            return None
        low, high = np.quantile(self._deltas_R(before, after), (0.025, 0.975))
        return float(low), float(high)

    def standard_error(self, before: int, after: int) -> float | None:
        """Return the bootstrap's standard error of the objective's difference between two masks."""
        if self.too_few:
            return None
        return float(np.std(self._deltas_R(before, after), ddof=1))

    def _deltas_R(self, before: int, after: int) -> NDArray[np.float64]:
        deltas_R: NDArray[np.float64] = self.values_RM[:, after] - self.values_RM[:, before]
        return deltas_R

    def p_values(self, before: int, after: Sequence[int]) -> list[float]:
        """Return the two-sided p-values of the objective's differences between one mask and others."""
        others = [self._masks[place] for place in after]
        return permutation_p_values(self._masks[before], others, combine=self._objective.over_draws)


def draw(panels: Mapping[str, Panel]) -> None:
    """Draw the clusters of several panels side by side."""
    drawn = [panel for panel in panels.values() if not panel.too_few]
    with ThreadPoolExecutor(max(1, len(drawn))) as pool:
        list(pool.map(lambda panel: panel.values_RM, drawn))


class _Columns:
    """Clusters' contributions to a mix, added up over metrics of one kind of queries if these are means over all."""

    def __init__(self, queries: Queries, mix: Mix) -> None:
        self._queries, self._mix = queries, mix
        shares = queries.targets.shares
        total = sum(weight for _, weight in mix.weights)
        parts = [(weight / total / len(shares[name]), share) for name, weight in mix.weights for share in shares[name]]
        self._is_plain = all(share.cell_of_query_Q is None for _, share in parts)
        self._weights: dict[str, float] = {}
        self._credits: dict[str, NDArray[np.float64]] = {}
        for weight, share in parts:
            self._weights[share.kind] = self._weights.get(share.kind, 0.0) + weight
            if share.credit_of_rank is not None:
                so_far = self._credits.get(share.kind, np.zeros(len(share.credit_of_rank)))
                self._credits[share.kind] = so_far + weight * share.credit_of_rank
        image_of = queries.targets.image_of_queries
        self._clusters = {kind: queries.clusters_N[image_of[kind]] for kind in self._weights}
        self._num_clusters = int(queries.clusters_N.max()) + 1
        ones = {kind: np.ones(len(cluster_Q)) for kind, cluster_Q in self._clusters.items()}
        self._queries_CK = self._sums(ones)

    def outcomes(self, ranks: Ranks) -> Outcomes:
        """Return the paired-statistics table of one mask."""
        if not self._is_plain:
            return outcomes_of(self._queries, ranks, self._mix)
        earned = {
            kind: self._credits[kind][ranks[kind]] if kind in self._credits else weight * ranks[kind].astype(np.float64)
            for kind, weight in self._weights.items()
        }
        return Outcomes(self._sums(earned), self._queries_CK, _summed)

    def _sums(self, values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        columns = [
            np.bincount(self._clusters[kind], weights=value_Q, minlength=self._num_clusters)
            for kind, value_Q in values.items()
        ]
        return np.stack(columns, axis=1)


def _summed(ratios_RK: NDArray[np.float64]) -> NDArray[np.float64]:
    value_R: NDArray[np.float64] = ratios_RK.sum(1)
    return value_R
