"""What a contest showed: values, regrets and how often the optimum was reached, with intervals; mean ranks."""

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

AMOUNTS = (50, 100, 200, 300, 1_000, 3_000)
ROUNDS = (2, 4, 6, 8, 10, 12, 16, 24, 32, *AMOUNTS)
RANKED_AT = (300, 1_000, 3_000)
"""Amounts at which contestants are ranked; where there are rounds, all of `ROUNDS`."""
POINTS = 100


@dataclass(frozen=True)
class Row:
    """One contestant on one landscape after some part of the budget, over seeds."""

    landscape: str
    contestant: str
    width: int | None
    """Number of masks in a round; None for no rounds."""
    spent: int
    """Units of the budget, or rounds where there are rounds."""
    median_value: float
    """In points."""
    median_regret: float
    """Points that the best mask so far falls short of the optimum."""
    median_regret_interval: tuple[float, float]
    """95 %, from order statistics; the whole range where there are fewer than 6 seeds."""
    optimum_share: float
    """Share of the seeds that reached the optimum."""
    optimum_share_interval: tuple[float, float]
    """95 %, exact (Clopper-Pearson)."""
    num_seeds: int
    num_spent: int
    """Median of what was really spent: less than `spent` where a plan, a cap or the budget of a round ended before."""
    capped: bool
    """Whether it was stopped before, because it is slow; the figures are those of its last mask."""


@dataclass(frozen=True)
class Reached:
    """What one contestant spent until the optimum of one landscape; None where a seed did not reach it.

    Where half of the seeds or more did, there is a median.
    """

    landscape: str
    contestant: str
    width: int | None
    median: float | None
    most: int | None


@dataclass(frozen=True)
class Standing:
    """The rows of a contest and what follows from its runs."""

    rows: list[Row]
    reached: list[Reached]
    mean_rank: dict[str, float]
    """Over landscapes, widths and the amounts of `RANKED_AT`; by median regret, equal ones share their ranks."""

    def as_json(self) -> dict[str, Any]:
        """Return the standing as JSON values."""
        return asdict(self)


def standing(runs: Sequence[Run]) -> Standing:
    """Return the rows and mean ranks of runs, at all amounts that a landscape's budgets reach."""
    groups: dict[tuple[str, int | None, str], list[Run]] = defaultdict(list)
    largest: dict[tuple[str, int | None], int] = defaultdict(int)
    for run in runs:
        landscape, width = run.cell.landscape, run.cell.budget.width
        groups[landscape, width, run.cell.contestant].append(run)
        reaches = run.cell.budget.amount if width is None else len(run.best_so_far)
        largest[landscape, width] = max(largest[landscape, width], reaches)
    rows = [
        row_of(group, spent)
        for (landscape, width, _), group in groups.items()
        for spent in (AMOUNTS if width is None else ROUNDS)
        if spent <= largest[landscape, width]
    ]
    return Standing(rows, [reached(group) for group in groups.values()], mean_ranks(rows))


def row_of(runs: Sequence[Run], spent: int) -> Row:
    """Return the row of one contestant's runs on one landscape."""
    cell = runs[0].cell
    regrets_S = np.array([regret(run)[:spent][-1] for run in runs])
    reached = int((regrets_S <= 0).sum())
    return Row(
        landscape=cell.landscape,
        contestant=cell.contestant,
        width=cell.budget.width,
        spent=spent,
        median_value=POINTS * float(np.median([run.best_so_far[:spent][-1] for run in runs])),
        median_regret=float(np.median(regrets_S)),
        median_regret_interval=median_interval(regrets_S),
        optimum_share=reached / len(runs),
        optimum_share_interval=tuple(binomtest(reached, len(runs)).proportion_ci(method="exact")),
        num_seeds=len(runs),
        num_spent=int(np.median([len(run.best_so_far[:spent]) for run in runs])),
        capped=cell.budget.width is None and spent > cell.budget.amount,
    )


def reached(runs: Sequence[Run]) -> Reached:
    """Return what one contestant's runs on one landscape spent until the optimum."""
    took_S = [int(found[0]) + 1 if len(found := np.flatnonzero(regret(run) <= 0)) else np.inf for run in runs]
    median, most = float(np.median(took_S)), max(took_S)
    cell = runs[0].cell
    return Reached(
        cell.landscape,
        cell.contestant,
        cell.budget.width,
        median if np.isfinite(median) else None,
        int(most) if np.isfinite(most) else None,
    )


def regret(run: Run) -> NDArray[np.float64]:
    """Return the regret in points after each unit or round; rounding errors of a difference are no regret."""
    return np.round(POINTS * (run.optimum - np.array(run.best_so_far)), 9)


def median_interval(values_S: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of a median from order statistics; the whole range where that has none."""
    interval = quantile_test(values_S, p=0.5).confidence_interval()
    ends = np.where(np.isfinite(interval), interval, (values_S.min(), values_S.max()))
    return float(ends[0]), float(ends[1])


def mean_ranks(rows: Sequence[Row]) -> dict[str, float]:
    """Return every contestant's mean rank, best first."""
    cells: dict[tuple[str, int | None, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row.width is not None or row.spent in RANKED_AT:
            cells[row.landscape, row.width, row.spent].append(row)
    ranks: dict[str, list[float]] = defaultdict(list)
    for cell in cells.values():
        for row, rank in zip(cell, rankdata([row.median_regret for row in cell]), strict=True):
            ranks[row.contestant].append(float(rank))
    return dict(sorted(((name, float(np.mean(each))) for name, each in ranks.items()), key=lambda pair: pair[1]))
