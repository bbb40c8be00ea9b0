"""Metrics: what queries earn by their ranks, and what is made of it.

A query earns a credit by its rank: one for a hit, or part of one; or the probability that the model gives to the right
answer. A metric is the mean credit of its queries, or the mean or the smallest of several such shares. A mix weighs
several metrics, and a table has what resampling needs of a mix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack

from headmask.errors import ConfigError, did_you_mean

# Q queries of a kind, K cells of all shares, C resampling clusters, R bootstrap draws

Ranks = Mapping[str, NDArray[np.uint8] | NDArray[np.float32]]
"""Every query's rank, clipped to 255, or graded credit, by kind of query: all that metrics and statistics need."""
Counts = Any
"""Array, or sparse array where there are many cells."""
MAX_DENSE_CELLS = 32
"""Most cells for which a table is a plain array; many classes make a sparse one."""


@dataclass(frozen=True, eq=False)
class Share:
    """The mean credit of a kind's queries; with cells, the mean or the smallest of the cells' means.

    Cells without queries do not count.
    """

    kind: str
    credit_of_rank: NDArray[np.float64] | None = None
    """(256,) in [0, 1], falling: see `workers.tasks.ranking`. None where a probability is the credit."""
    cell_of_query_Q: NDArray[np.int64] | None = None
    """Class or group of every query."""
    smallest: bool = False

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return 1 if self.cell_of_query_Q is None else int(self.cell_of_query_Q.max()) + 1

    def value(self, ranks: Ranks) -> float:
        """Return the share in [0, 1]."""
        hits_Q = self.credits(ranks)
        if self.cell_of_query_Q is None:
            return float(np.mean(hits_Q))
        queries_K = np.bincount(self.cell_of_query_Q)
        hits_K = np.bincount(self.cell_of_query_Q, weights=hits_Q)
        shares_K = hits_K[queries_K > 0] / queries_K[queries_K > 0]
        return float(shares_K.min() if self.smallest else shares_K.mean())

    def credits(self, ranks: Ranks) -> NDArray[np.float64]:
        """Return every query's credit, (Q,)."""
        found_Q, credit = ranks[self.kind], self.credit_of_rank
        earned_Q: NDArray[np.float64] = found_Q.astype(np.float64) if credit is None else credit[found_Q]
        return earned_Q

    def reduce(self, ratios_RK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the share of every draw from the ratios in its cells, NaN where a draw has no query of a cell."""
        reduced_R: NDArray[np.float64] = (np.nanmin if self.smallest else np.nanmean)(ratios_RK, axis=1)
        return reduced_R


@dataclass(frozen=True)
class Mix:
    """What is maximised on one data set: a metric, or a weighted mean of several."""

    weights: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the mix written as `mean_recall`, or as `0.7*t2i_r1 + 0.3*i2t_r1`.

        Raises:
            ConfigError: a metric is unknown, a weight is not a positive number, or a metric is named twice.
        """
        # The registry knows all tasks, which build on this module.
        from workers.tasks.registry import METRICS as metrics  # noqa: N811

        weights: dict[str, float] = {}
        for part in text.split("+"):
            found = re.fullmatch(r"\s*(?:([0-9.eE-]+)\s*\*\s*)?(\w+)\s*", part)
            if not found or found[2] not in metrics:
                name = found[2] if found else part.strip()
                raise ConfigError(
                    f"must be one of {', '.join(metrics)}, or a mix such as 0.7*t2i_r1 + 0.3*i2t_r1, got {text!r}"
                    + (did_you_mean(name, metrics) if "+" in text else "")
                )
            weight = _positive(found[1] or "1")
            if weight is None or found[2] in weights:
                raise ConfigError(f"must name every metric once, with a positive weight, got {text!r}")
            weights[found[2]] = weight
        return cls(tuple(weights.items()))

    def __str__(self) -> str:
        if len(self.weights) == 1:
            return self.weights[0][0]
        return " + ".join(f"{weight:.12g}*{name}" for name, weight in self.weights)

    def guided(self, guides: Mapping[str, str]) -> Mix:
        """Return the mix with every metric replaced by its guide, if it has one."""
        weights: dict[str, float] = {}
        for name, weight in self.weights:
            guide = guides.get(name, name)
            weights[guide] = weights.get(guide, 0.0) + weight
        return Mix(tuple(weights.items()))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return tuple(name for name, _ in self.weights)

    def value(self, metrics: Mapping[str, float], prefix: str = "") -> float:
        """Return the weighted mean of metrics in [0, 1]; their names may begin with a data set's."""
        if len(self.weights) == 1:
            return metrics[prefix + self.weights[0][0]]
        total = sum(weight * metrics[prefix + name] for name, weight in self.weights)
        return total / sum(weight for _, weight in self.weights)


def _positive(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


@dataclass(frozen=True)
class Table:
    """Hits, or parts of them, and queries per resampling cluster (C, K): the ratio of sums is each cell's share."""

    hits_CK: Counts
    queries_CK: Counts
    mix: Mix
    shares: Mapping[str, tuple[Share, ...]]

    @classmethod
    def of(
        cls,
        ranks: Ranks,
        mix: Mix,
        shares: Mapping[str, tuple[Share, ...]],
        cluster_of_queries: Mapping[str, NDArray[np.int64]],
        num_clusters: int,
    ) -> Self:
        """Return the table of one mask's ranks.

        Args:
            ranks: ranks of the mask.
            mix: a mix of the metrics that there are shares of.
            shares: shares of every metric.
            cluster_of_queries: the resampling cluster of every query, by kind.
            num_clusters: number of clusters.
        """
        columns = []
        for share in (share for name in mix.metrics for share in shares[name]):
            cluster_Q = cluster_of_queries[share.kind]
            cell_Q = np.zeros_like(cluster_Q) if share.cell_of_query_Q is None else share.cell_of_query_Q
            shape = num_clusters, share.num_cells
            hits_Q = share.credits(ranks)
            columns.append([_sums(values_Q, cluster_Q, cell_Q, shape) for values_Q in (hits_Q, np.ones_like(hits_Q))])
        hits_CK, queries_CK = (_beside(side) for side in zip(*columns, strict=True))
        return cls(hits_CK, queries_CK, mix, shares)

    def value(self, ratios_RK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mix for every row of ratios, one per cell of the mix's shares in order."""
        start, total_R = 0, np.zeros(len(ratios_RK))
        for name, weight in self.mix.weights:
            for share in self.shares[name]:
                ratios = ratios_RK[:, start : start + share.num_cells]
                total_R += weight / len(self.shares[name]) * share.reduce(ratios)
                start += share.num_cells
        value_R: NDArray[np.float64] = total_R / sum(weight for _, weight in self.mix.weights)
        return value_R


def _sums(
    values_Q: NDArray[np.float64], cluster_Q: NDArray[np.int64], cell_Q: NDArray[np.int64], shape: tuple[int, int]
) -> csr_array:
    return csr_array((values_Q, (cluster_Q, cell_Q)), shape=shape)


def _beside(parts: Sequence[csr_array]) -> Counts:
    together = csr_array(hstack(parts))
    return together.toarray() if together.shape[1] <= MAX_DENSE_CELLS else together
