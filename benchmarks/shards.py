"""What sharing the images out costs and saves: two replicas as two shards of the images, against two independent ones.

python -m benchmarks.shards

The demo's model on 2,048 drawn scenes, one thread a replica, Ray on this machine. Both pools are up and warm before the
clock is; on each workload they alternate. Scores must be equal to the last bit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.record import save
from headmask.mask import HeadMask
from orchestrator.demo import DEMO_CONSTANTS, unpack_demo
from orchestrator.demo.scenes import write_downstream
from orchestrator.run.bench import hardware, make_workload
from orchestrator.search.preparing import prepare
from orchestrator.search.scoring import score_all
from orchestrator.search.session import Session
from orchestrator.search.sharding import exchanged_bytes
from orchestrator.settings.config import read_config
from orchestrator.settings.options import flags_of
from workers.pool.fleet import START_S
from workers.pool.ray import RayPool
from workers.scoring.messages import Stage

SHARDS = 2


def session_of(folder: Path, num_images: int) -> Session:
    """Return a session of the demo's model on so many images."""
    demo = unpack_demo(folder)
    data = folder / "scenes-large.parquet"
    write_downstream(data, 5, sizes={"search": num_images, "confirm": 8, "test": 8})
    options = {"model": f"local-dir:{demo.model}", "data": data, "out": folder, **DEMO_CONSTANTS}
    return prepare(read_config(None, flags_of(options)))


def pool_of(session: Session, shards: int) -> RayPool:
    """Return two replicas, all of them up, that score apart or together."""
    pool = RayPool(session.payload, replicas=SHARDS, shards=shards, steps=session.cost.steps)
    pool.settle(session.wanted)
    pool.fleet.wait_for(SHARDS // shards, START_S)
    return pool


def timed(pool: RayPool, stage: Stage, masks: list[HeadMask]) -> tuple[float, dict[HeadMask, Any]]:
    """Return how long masks take, and their metrics."""
    started = time.perf_counter()
    found = score_all(pool, stage, masks)
    return time.perf_counter() - started, {mask: result.score.metrics for mask, result in found.items()}


def measure(folder: Path, num_images: int, rounds: int) -> dict[str, Any]:
    """Return the throughput of shards as a share of that of independent replicas, by workload."""
    session = session_of(folder, num_images)
    rows = []
    # One after the other: two replicas of both would share the cores.
    for workload, masks in (("scan", HeadMask.singles(session.grid)), ("population", population(session))):
        seconds: dict[int, list[float]] = {1: [], SHARDS: []}
        for number in range(rounds):
            metrics = {}
            for shards in (1, SHARDS) if number % 2 else (SHARDS, 1):
                pool = pool_of(session, shards)
                stage = Stage("search", "float32")
                timed(pool, stage, masks[:8])
                took, metrics[shards] = timed(pool, stage, masks)
                seconds[shards].append(took)
                pool.close()
            if metrics[1] != metrics[SHARDS]:
                raise RuntimeError("shards must give the bits of one replica")
        ratios = [apart / together for apart, together in zip(seconds[1], seconds[SHARDS], strict=True)]
        rows.append({"workload": workload, "masks": len(masks), "apart_s": seconds[1], "sharded_s": seconds[SHARDS],
                     "sharded_over_apart": median(ratios)})  # fmt: skip
        print(rows[-1], file=sys.stderr, flush=True)
    return {"images": num_images, "shards": SHARDS, "bytes_per_mask": exchanged_bytes(session, SHARDS), "rows": rows}


def population(session: Session) -> list[HeadMask]:
    """Return 64 masks bred from the same parents, as a search has them."""
    return make_workload("population", session.grid)[:64]


def main() -> None:
    """Measure, and write one dated file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        os.environ.update(HEADMASK_CACHE=str(Path(scratch, "cache")), OMP_NUM_THREADS="1")
        found = measure(Path(scratch), given.images, given.rounds)
    print(save("shards", {**found, "hardware": hardware(torch.device("cpu"))}, sys.argv[1:]))


if __name__ == "__main__":
    main()
