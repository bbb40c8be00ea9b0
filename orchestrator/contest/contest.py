"""The contest: every contestant on every landscape with every seed, in processes, all on the same landscapes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import optuna

from headmask.mask import HeadGrid
from orchestrator.contest.contestants import contestants
from orchestrator.contest.landscapes import Synthetic, make_synthetic
from orchestrator.contest.meter import BudgetSpent, Meter

GRIDS = {"144": HeadGrid(12, 12), "384": HeadGrid(24, 16)}
LANDSCAPES = tuple(f"{kind}-{bits}" for bits in GRIDS for kind in ("pairwise", "cliff"))


@dataclass(frozen=True)
class Cell:
    """One contestant on one landscape with one seed, which decides both."""

    landscape: str
    contestant: str
    seed: int
    budget: int
    """Distinct masks."""


@dataclass(frozen=True)
class Run:
    """What became of a cell."""

    cell: Cell
    best_so_far: tuple[float, ...]
    """The best value after each distinct mask."""
    optimum: float
    seconds: float


def hold(
    cells: Sequence[Cell], *, processes: int | None = None, on_run: Callable[[Run, int], None] = lambda run, done: None
) -> list[Run]:
    """Return the runs of cells, in their order.

    Args:
        cells: what to run.
        processes: that work at a time; one per core by default.
        on_run: told every run as it ends, and how many have ended.
    """
    context = multiprocessing.get_context("spawn")
    found: dict[Cell, Run] = {}
    with ProcessPoolExecutor(processes or os.cpu_count(), context, _prepare_process) as pool:
        for future in as_completed([pool.submit(run_cell, cell) for cell in cells]):
            run = future.result()
            found[run.cell] = run
            on_run(run, len(found))
    return [found[cell] for cell in cells]


def run_cell(cell: Cell) -> Run:
    """Return the run of a cell."""
    landscape = synthetic(cell.landscape, cell.seed)
    meter = Meter(landscape, cell.budget)
    started = time.perf_counter()
    with contextlib.suppress(BudgetSpent):
        contestants()[cell.contestant](meter, cell.seed)
    seconds = time.perf_counter() - started
    return Run(cell, tuple(meter.best_so_far), landscape(landscape.best), seconds)


def synthetic(name: str, seed: int) -> Synthetic:
    """Return the synthetic landscape of a name, such as `cliff-144`, and a seed."""
    kind, bits = name.split("-")
    return make_synthetic("cliff" if kind == "cliff" else "pairwise", GRIDS[bits], seed)


def _prepare_process() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
