"""The contest: every contestant on every landscape with every seed, in processes, all on the same landscapes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import TypeVar

import optuna

from benchmarks.strategies.contestants import SURROGATE, contestants
from benchmarks.strategies.landscapes import MEASURED, TABLE, fill_table, landscape_of, optimum_of, table_parts
from benchmarks.strategies.meter import Budget, BudgetSpent, Meter

Task = TypeVar("Task")
Done = TypeVar("Done")
OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Cell:
    """One contestant on one landscape with one seed, which decides both."""

    landscape: str
    contestant: str
    seed: int
    budget: Budget

    @property
    def plain(self) -> Cell:
        """The cell with the same run: without the surrogate where there is none."""
        if self.landscape in MEASURED:
            return self
        return replace(self, contestant=self.contestant.removesuffix(SURROGATE))


@dataclass(frozen=True)
class Run:
    """What became of a cell."""

    cell: Cell
    best_so_far: tuple[float, ...]
    """The best value after each unit of the budget, or after each round where there are rounds."""
    optimum: float
    seconds: float


def hold(
    cells: Sequence[Cell],
    *,
    processes: int | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> list[Run]:
    """Return the runs of cells, in their order.

    Args:
        cells: what to run.
        processes: that work at a time; one per core by default.
        on_progress: see `OnProgress`.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or os.cpu_count(), context, _prepare_process) as pool:
        if any(cell.landscape == TABLE for cell in cells):
            parts = pool.submit(table_parts).result()
            _all(pool, fill_table, parts, lambda done: on_progress("table", done, len(parts)))
        plain = list(dict.fromkeys(cell.plain for cell in cells))
        ran = _all(pool, run_cell, plain, lambda done: on_progress("runs", done, len(plain)))
        # The best known value of a landscape may come from any of the runs.
        landscapes = dict.fromkeys((cell.landscape, cell.seed) for cell in cells)
        optima = _all(pool, _optimum, landscapes, lambda done: None)
    return [
        Run(cell, best_so_far, optima[cell.landscape, cell.seed], seconds)
        for cell in cells
        for best_so_far, seconds in [ran[cell.plain]]
    ]


def run_cell(cell: Cell) -> tuple[tuple[float, ...], float]:
    """Return the best value after each unit or round of a cell, and the seconds that the cell took."""
    meter = Meter(landscape_of(cell.landscape, cell.seed), cell.budget)
    started = time.perf_counter()
    with contextlib.suppress(BudgetSpent):
        contestants()[cell.contestant](meter, cell.seed)
    best = meter.best_so_far if cell.budget.width is None else meter.best_by_round
    return tuple(best), time.perf_counter() - started


def _optimum(landscape: tuple[str, int]) -> float:
    return optimum_of(*landscape)


def _all(
    pool: Executor, work: Callable[[Task], Done], tasks: Iterable[Task], on_done: Callable[[int], None]
) -> dict[Task, Done]:
    """Return what work gave for every task."""
    waiting = {pool.submit(work, task): task for task in tasks}
    found = {}
    for future in as_completed(waiting):
        found[waiting[future]] = future.result()
        on_done(len(found))
    return found


def _prepare_process() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
