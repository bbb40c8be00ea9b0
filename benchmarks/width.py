"""How soon a search finds good masks with how many replicas, in virtual time: none of it is this machine's.

python -m benchmarks.width
python -m benchmarks.width --landscape cliff-384 --seeds 3 --masks 5000

The default strategy searches landscapes of the contest at the width that a study would have by default. Then its blocks
are gone through in time, for replicas that take 0.05, 0.87 or 5 seconds for a mask (each mask up to 30 % more or
less): when is which mask done, and when is the first one known that is within 1.0 or 0.5 points of the best there is?
Planning takes what `orchestrator.search.pace` says, and nothing in `busy_ideal`. Synthetic landscapes
have no gradients, so searches begin with the whole scan.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from statistics import median
from typing import Any

import numpy as np

from benchmarks.record import save, versions
from benchmarks.strategies.landscapes import LANDSCAPES, MEASURED, landscape_of, optimum_of
from orchestrator.search.pace import pace_of
from orchestrator.search.session import width_for
from strategies import MIN_WIDTH, Blocks, make_sampler
from strategies.history import FloatArray

# T trials

STRATEGY, BLOCK_SIZE = "mixture", 32
REPLICAS, SECONDS = (1, 8, 64, 256, 1024), (0.05, 0.87, 5.0)
REGRETS = (1.0, 0.5)
"""In points."""
SYNTHETIC = tuple(name for name in LANDSCAPES if name not in MEASURED)
Cell = tuple[str, int, int]
"""Landscape, seed and width."""
Searched = tuple[Blocks, FloatArray]
"""How a search forms blocks, and by how many points each of its masks (T) is worse than the best one."""
Ran = dict[Cell, Searched]


def searched(cell: Cell, masks: int) -> Searched:
    """Return what a search is."""
    landscape, seed, width = cell
    seen = landscape_of(landscape, seed)
    sampler = make_sampler(STRATEGY, seen.grid, seed=seed, limits=seen.limits, block_size=BLOCK_SIZE, width=width)
    books, values = sampler.new_books(), np.zeros(0)
    while len(books) < masks:
        start, proposed = len(books), sampler.block_masks(books.next_block, books)
        books.add(proposed)
        values = np.append(values, seen.values(proposed))
        for number in range(start, len(books)):
            books.tell(number, float(values[number]))
    return sampler.blocks, 100 * (optimum_of(landscape, seed) - values[:masks])


def seconds_to(regret: float, regret_T: FloatArray, ends_T: FloatArray) -> float | None:
    """Return the seconds until a mask is known whose regret is small enough; None if there is none."""
    good_T = regret_T <= regret + 1e-9
    return float(ends_T[good_T].min()) if good_T.any() else None


def row(replicas: int, seconds: float, masks: int, ran: Ran) -> dict[str, Any]:
    """Return what searches make of replicas: how busy these are, and how soon good masks are known."""
    width = width_for(replicas)
    found: dict[str, Any] = {"replicas": replicas, "seconds_per_mask": seconds, "width": width}
    found["busy_ideal"] = round(pace_of(_blocks(ran, width), masks, replicas, seconds, plans=False).busy, 3)
    found["busy"] = round(pace_of(_blocks(ran, width), masks, replicas, seconds).busy, 3)
    found["busy_at_width_16"] = round(pace_of(_blocks(ran, MIN_WIDTH), masks, replicas, seconds).busy, 3)
    for regret in REGRETS:
        many, before, one = (
            _until(regret, masks, replicas, seconds, _of(ran, width)),
            _until(regret, masks, replicas, seconds, _of(ran, MIN_WIDTH)),
            _until(regret, masks, 1, seconds, _of(ran, MIN_WIDTH)),
        )
        found |= {f"seconds_to_{regret}": many, f"seconds_to_{regret}_at_width_16": before}
        found[f"speed_up_to_{regret}"] = round(one / many, 1) if one and many else None
    return found


def _of(ran: Ran, width: int) -> list[Searched]:
    return [run for cell, run in ran.items() if cell[2] == width]


def _blocks(ran: Ran, width: int) -> Blocks:
    return _of(ran, width)[0][0]


def _until(regret: float, masks: int, replicas: int, seconds: float, runs: list[Searched]) -> float | None:
    """Return the median time until a mask is known that is as good as that; None if most searches have none."""
    times = [
        seconds_to(regret, regret_T, pace_of(blocks, masks, replicas, seconds).ends_T) for blocks, regret_T in runs
    ]
    middle = median(np.inf if each is None else each for each in times)
    return None if np.isinf(middle) else round(middle, 2)


def by_masks(ran: Ran, masks: int) -> list[dict[str, Any]]:
    """Return the regret of every search after equal numbers of masks."""
    counts = [count for count in (500, 700, 1000, 1500, 2000, 3000, 5000) if count <= masks]
    return [
        {
            "landscape": landscape,
            "seed": seed,
            "width": width,
            "regret": {str(count): round(float(regret_T[:count].min()), 3) for count in counts},
        }
        for (landscape, seed, width), (_, regret_T) in ran.items()
    ]


def main() -> None:
    """Search, go through time, and write one dated file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landscape", nargs="+", choices=SYNTHETIC, default=["cliff-384", "pairwise-384"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--masks", type=int, default=1500)
    parser.add_argument("--replicas", type=int, nargs="+", default=REPLICAS)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    widths = sorted({MIN_WIDTH, *map(width_for, given.replicas)})
    cells = list(product(given.landscape, range(given.seeds), widths))
    ran: Ran = {}
    with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn")) as pool:
        for cell, found in zip(cells, pool.map(searched, cells, [given.masks] * len(cells)), strict=True):
            ran[cell] = found
            print(cell, file=sys.stderr, flush=True)
    rows = [row(*each, given.masks, ran) for each in product(given.replicas, SECONDS)]
    content = {"masks": given.masks, "strategy": STRATEGY, "rows": rows, "by_masks": by_masks(ran, given.masks)}
    print(save("width", {**content, "versions": versions()}, sys.argv[1:]))


if __name__ == "__main__":
    main()
