"""What the way through Ray and a search costs: against two bare scorers in two processes, on the same masks.

python -m benchmarks.pipeline

The demo's model, one thread per replica and per process. Bare scorers have half of the masks each, sorted, 64 in a
call. The pool is given the same masks at once. A search proposes them itself, block by block, and stores and tracks
what it finds. Masks of a block share fewer layers than all masks do, so bare scorers are also given half of each block
at a time. Everything is started and warm before its clock is; rounds alternate.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.record import save
from headmask.mask import HeadMask
from orchestrator.demo import DEMO_CONSTANTS, unpack_demo
from orchestrator.run.bench import hardware
from orchestrator.search.loop import Search
from orchestrator.search.preparing import prepare
from orchestrator.search.scoring import score_all
from orchestrator.search.session import Session
from orchestrator.settings.budget import Budget
from orchestrator.settings.config import read_config
from orchestrator.settings.options import flags_of
from orchestrator.study.store import StudyStore
from orchestrator.track.operations import Begin
from orchestrator.track.searchrun import BestCurve
from orchestrator.track.tracker import Tracker
from strategies import make_sampler
from workers.pool.fleet import START_S
from workers.pool.ray import RayPool
from workers.scoring.replica import Replica

BATCH = 64
PROCESSES = 2


def session_of(folder: Path) -> Session:
    """Return the demo's session."""
    demo = unpack_demo(folder)
    options = {"model": f"local-dir:{demo.model}", "data": demo.data, "out": folder, **DEMO_CONSTANTS}
    return prepare(read_config(None, flags_of(options)))


def bare_scorer(folder: str, orders: Connection) -> None:
    """Score the masks that come, until there are none."""
    torch.set_num_threads(1)
    session = session_of(Path(folder))
    replica = Replica(session.payload)
    session = session.settled(replica.settle(session.wanted))
    orders.send("ready")
    while batches := _next(orders):
        for words in batches:
            replica.score(session.search_stage, session.grid, words)
        orders.send("done")


def _next(orders: Connection) -> list[list[tuple[int, ...]]]:
    """Return the next masks, in batches; none where nobody asks any more."""
    try:
        return orders.recv()
    except EOFError:
        return []


class BareScorers:
    """Processes that score, without anything else."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders = []
        for number in range(PROCESSES):
            own, other = context.Pipe()
            context.Process(target=bare_scorer, args=(str(folder / f"bare{number}"), other), daemon=True).start()
            self._orders.append(own)
        for orders in self._orders:
            orders.recv()

    def seconds(self, session: Session, blocks: Sequence[Sequence[HeadMask]]) -> float:
        """Return how long blocks of masks take, each process half of the predicted cost of each."""
        halves = [_halves(session, block) for block in blocks]
        started = time.perf_counter()
        for orders, parts in zip(self._orders, zip(*halves, strict=True), strict=True):
            orders.send([part[start : start + BATCH] for part in parts for start in range(0, len(part), BATCH)])
        for orders in self._orders:
            orders.recv()
        return time.perf_counter() - started


def _halves(session: Session, masks: Sequence[HeadMask]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the words of masks, sorted, in two parts of the same predicted cost."""
    ranked = sorted(masks)
    steps = session.cost.steps(ranked)
    cut = int(np.searchsorted(np.cumsum(steps), sum(steps) / PROCESSES)) + 1
    words = [mask.words for mask in ranked]
    return words[:cut], words[cut:]


def searched(session: Session, pool: RayPool, folder: Path, count: int) -> tuple[float, list[list[HeadMask]]]:
    """Return how long a search of so many masks takes, and its masks by block."""
    begin = Begin(key="bench", experiment="bench", run_name="bench")
    with (
        StudyStore.create(str(folder / "study.journal"), "bench", {}) as store,
        Tracker(folder, begin, None, print) as tracker,
    ):
        tracker.wait_for_run(60)
        started = time.perf_counter()
        search = Search(
            make_sampler("mixture", session.grid, limits=session.limits),
            store,
            pool,
            stage=lambda mask: session.search_stage,
            value=session.search_value,
            cost=session.forwards,
            listeners=[BestCurve(tracker)],
        )
        records = search.run(Budget(count))
        seconds = time.perf_counter() - started
    blocks = groupby(records, key=lambda record: search.strategy.blocks.of(record.proposal))
    return seconds, [[record.mask for record in block] for _, block in blocks]


def measure(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Return the throughput of both ways, and ratios of every round."""
    session = session_of(folder / "demo")
    bare = BareScorers(folder)
    pool = RayPool(session.payload, replicas=PROCESSES, steps=session.cost.steps)
    session = session.settled(pool.settle(session.wanted))
    pool.fleet.wait_for(PROCESSES, START_S)
    stage = session.search_stage
    score_all(pool, stage, HeadMask.singles(session.grid)[: 4 * BATCH])
    rows = []
    for number in range(rounds):
        out = folder / f"round{number}"
        out.mkdir()
        search_s, blocks = searched(session, pool, out, count)
        masks = [mask for block in blocks for mask in block]
        first_s = bare.seconds(session, [masks])
        started = time.perf_counter()
        score_all(pool, stage, masks)
        pool_s = time.perf_counter() - started
        bare_s = (first_s + bare.seconds(session, [masks])) / 2
        by_block_s = bare.seconds(session, blocks)
        rows.append({"bare_s": bare_s, "bare_by_block_s": by_block_s, "pool_s": pool_s, "search_s": search_s})
        print(rows[-1], file=sys.stderr, flush=True)
    pool.close()
    return {
        "masks": count,
        "rounds": rows,
        "bare_masks_per_s": count / median(row["bare_s"] for row in rows),
        "pool_over_bare": median(row["bare_s"] / row["pool_s"] for row in rows),
        "search_over_bare": median(row["bare_s"] / row["search_s"] for row in rows),
        "search_over_bare_by_block": median(row["bare_by_block_s"] / row["search_s"] for row in rows),
    }


def main() -> None:
    """Measure, and write one dated file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        os.environ.update(HEADMASK_CACHE=str(Path(scratch, "cache")), OMP_NUM_THREADS="1")
        found = measure(Path(scratch), given.masks, given.rounds)
    print(save("pipeline", {**found, "hardware": hardware(torch.device("cpu"))}, sys.argv[1:]))


if __name__ == "__main__":
    main()
