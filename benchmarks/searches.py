"""Whole searches of the demo's model in several ways on the same data sets, through `headmask.search`.

python -m benchmarks.searches guide=objective guide=mrr --options masks=250 --label mrr
python -m benchmarks.searches masks=1000,surrogate=false masks=100 --label surrogate
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml

from benchmarks.guides import mean_and_interval
from benchmarks.record import save
from orchestrator.api import search
from orchestrator.demo import DEMO_CONSTANTS, unpack_demo
from orchestrator.demo.scenes import write_downstream
from orchestrator.run.bench import hardware

Options = dict[str, Any]


def parsed(text: str) -> Options:
    """Return the options of `headmask.search` in KEY=VALUE,KEY=VALUE; values are YAML without commas."""
    parts = [each.partition("=") for each in text.split(",") if each]
    if wrong := [key for key, equals, _ in parts if not equals]:
        raise argparse.ArgumentTypeError(f"options are KEY=VALUE; got {', '.join(wrong)}")
    return {key: yaml.safe_load(value) for key, _, value in parts}


def checked_way(text: str) -> str:
    """Return the text of a way, checked."""
    parsed(text)
    return text


def gains(
    ways: list[str], seeds: list[int], shared: Options, scratch: Path, processes: int | None
) -> list[dict[str, Any]]:
    """Return a row per data set and way, in this order; searches run in processes of one thread."""
    model = unpack_demo(scratch).model
    for seed in seeds:
        write_downstream(scratch / f"scenes{seed}.parquet", seed)
    with ProcessPoolExecutor(processes or os.cpu_count(), get_context("spawn")) as pool:
        futures = [
            pool.submit(gain, seed, way, {**shared, **parsed(way)}, model, scratch) for seed in seeds for way in ways
        ]
        for future in as_completed(futures):
            print(future.result(), file=sys.stderr, flush=True)
    return [future.result() for future in futures]


def gain(seed: int, way: str, own: Options, model: Path, scratch: Path) -> dict[str, Any]:
    """Return the best search value, and what the selected mask changes, in points."""
    # A tracking database has one writer.
    folder = scratch / f"process{os.getpid()}" / f"{seed}-{way}"
    options = {"pool": "inline", **DEMO_CONSTANTS, **own}
    result = search(model=f"local-dir:{model}", data=scratch / f"scenes{seed}.parquet", out=folder, **options)
    best = pc.max(pq.read_table(folder / "trials.parquet")["value"]).as_py()
    splits = {name: getattr(result.splits, name).delta for name in ("search", "confirm", "test")}
    deltas = {name: round(100 * delta[result.objective], 3) for name, delta in splits.items()}
    heads, masks, forwards = len(result.selected), result.num_masks, result.image_forwards
    about = {"seed": seed, "way": way, "guide": result.guide, "best": 100 * best}
    return {**about, **deltas, "heads": heads, "masks": masks, "image_forwards": forwards}


def summary(rows: list[dict[str, Any]], ways: list[str]) -> dict[str, Any]:
    """Return the mean of every way, and how much more it is than the first's, over the same data sets.

    The best search values are those of the guide, so they are compared only where all ways have one guide.
    """
    compared = ("best", "test") if len({row["guide"] for row in rows}) == 1 else ("test",)
    found: dict[str, Any] = {}
    for way in ways:
        found[way] = {}
        for what in compared:
            mine, first = (np.array([row[what] for row in rows if row["way"] == name]) for name in (way, ways[0]))
            found[way][what] = {
                "mean": round(float(mine.mean()), 3),
                "more_than_first": mean_and_interval(mine - first),
            }
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "ways", nargs="+", type=checked_way, metavar="KEY=VALUE,...", help="the others are compared with the first"
    )
    parser.add_argument("--options", type=parsed, default="", metavar="KEY=VALUE,...", help="of every search")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6], help="of the data sets")
    parser.add_argument("--processes", type=int, help="that search at a time; one per core by default")
    parser.add_argument("--label", required=True, help="part of the file's name")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(HEADMASK_CACHE=str(Path(scratch, "cache")), OMP_NUM_THREADS="1")
        rows = gains(given.ways, given.seeds, given.options, Path(scratch), given.processes)
    about = {**vars(given), "hardware": hardware(torch.device("cpu"))}
    print(save(f"searches-{given.label}", {**about, "summary": summary(rows, given.ways), "rows": rows}, sys.argv[1:]))
