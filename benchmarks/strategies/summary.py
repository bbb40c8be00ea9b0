"""What a contest showed: regrets and how often the optimum was reached, with intervals; mean ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, quantile_test, rankdata

from benchmarks.strategies.contest import Run

# S seeds

EVALUATIONS = (50, 100, 200, 300, 1_000, 3_000)
RANKED_AT = (300, 1_000, 3_000)
POINTS = 100


@dataclass(frozen=True)
class Row:
    """One contestant on one landscape after so many distinct evaluations, over seeds."""

    landscape: str
    contestant: str
    evaluations: int
    median_regret: float
    """Points that the best mask so far falls short of the optimum."""
    median_regret_interval: tuple[float, float]
    """95 %, from order statistics; the whole range where there are fewer than 6 seeds."""
    optimum_share: float
    """Share of the seeds that reached the optimum."""
    optimum_share_interval: tuple[float, float]
    """95 %, exact (Clopper-Pearson)."""
    num_seeds: int
    num_distinct: int
    """Median of what was evaluated: fewer than `evaluations` where a plan ended or a cap came before."""
    capped: bool
    """Whether it was stopped before, because it is slow; the figures are those of its last mask."""


@dataclass(frozen=True)
class Reached:
    """How many distinct masks one contestant took to the optimum of one landscape; None where a seed did not reach it.

    Where half of the seeds or more did, there is a median.
    """

    landscape: str
    contestant: str
    median: float | None
    most: int | None


@dataclass(frozen=True)
class Standing:
    """The rows of a contest and what follows from its runs."""

    rows: list[Row]
    reached: list[Reached]
    mean_rank: dict[str, float]
    """Over landscapes and 300, 1,000 and 3,000 evaluations; by median regret, equal ones share their ranks."""

    def as_json(self) -> dict[str, Any]:
        """Return the standing as JSON values."""
        return asdict(self)


def standing(runs: Sequence[Run]) -> Standing:
    """Return the rows and mean ranks of runs, at all the numbers of evaluations that a landscape's budgets reach."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    largest: dict[str, int] = defaultdict(int)
    for run in runs:
        groups[run.cell.landscape, run.cell.contestant].append(run)
        largest[run.cell.landscape] = max(largest[run.cell.landscape], run.cell.budget)
    rows = [
        row_of(group, evaluations)
        for (landscape, _), group in groups.items()
        for evaluations in EVALUATIONS
        if evaluations <= largest[landscape]
    ]
    return Standing(rows, [reached(group) for group in groups.values()], mean_ranks(rows))


def row_of(runs: Sequence[Run], evaluations: int) -> Row:
    """Return the row of one contestant's runs on one landscape."""
    regrets_S = np.array([regret(run)[:evaluations][-1] for run in runs])
    reached = int((regrets_S <= 0).sum())
    return Row(
        landscape=runs[0].cell.landscape,
        contestant=runs[0].cell.contestant,
        evaluations=evaluations,
        median_regret=float(np.median(regrets_S)),
        median_regret_interval=median_interval(regrets_S),
        optimum_share=reached / len(runs),
        optimum_share_interval=tuple(binomtest(reached, len(runs)).proportion_ci(method="exact")),
        num_seeds=len(runs),
        num_distinct=int(np.median([len(run.best_so_far[:evaluations]) for run in runs])),
        capped=evaluations > runs[0].cell.budget,
    )


def reached(runs: Sequence[Run]) -> Reached:
    """Return how many distinct masks one contestant's runs on one landscape took to the optimum."""
    took_S = [int(found[0]) + 1 if len(found := np.flatnonzero(regret(run) <= 0)) else np.inf for run in runs]
    median, most = float(np.median(took_S)), max(took_S)
    cell = runs[0].cell
    return Reached(
        cell.landscape,
        cell.contestant,
        median if np.isfinite(median) else None,
        int(most) if np.isfinite(most) else None,
    )


def regret(run: Run) -> NDArray[np.float64]:
    """Return the regret in points after each distinct mask; rounding errors of a difference are no regret."""
    return np.round(POINTS * (run.optimum - np.array(run.best_so_far)), 9)


def median_interval(values_S: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of a median from order statistics; the whole range where that has none."""
    interval = quantile_test(values_S, p=0.5).confidence_interval()
    ends = np.where(np.isfinite(interval), interval, (values_S.min(), values_S.max()))
    return float(ends[0]), float(ends[1])


def mean_ranks(rows: Sequence[Row]) -> dict[str, float]:
    """Return every contestant's mean rank, best first."""
    cells: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row.evaluations in RANKED_AT:
            cells[row.landscape, row.evaluations].append(row)
    ranks: dict[str, list[float]] = defaultdict(list)
    for cell in cells.values():
        for row, rank in zip(cell, rankdata([row.median_regret for row in cell]), strict=True):
            ranks[row.contestant].append(float(rank))
    return dict(sorted(((name, float(np.mean(each))) for name, each in ranks.items()), key=lambda pair: pair[1]))
