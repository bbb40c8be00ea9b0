"""Whole searches of the demo's model by several guides on the same data sets, through `headmask.search`.

python benchmarks/searches.py --guides objective mrr --objective mean_recall
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from guides import mean_and_interval
from record import save

from orchestrator.api import search
from orchestrator.bench import hardware
from orchestrator.demo import DEMO_CHUNK, unpack_demo
from orchestrator.demo.scenes import write_downstream


def gains(given: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Return a row per data set and guide: what the selected mask changes on every split, in points."""
    model = unpack_demo(scratch).model
    rows = []
    for seed in given.seeds:
        data = scratch / f"scenes{seed}.parquet"
        write_downstream(data, seed)
        for guide in given.guides:
            result = search(
                model=f"local-dir:{model}",
                data=data,
                out=scratch / f"{guide}{seed}",
                pool="inline",
                masks=given.masks,
                objective=given.objective,
                guide=guide,
                image_chunk=DEMO_CHUNK,
            )
            deltas = {
                name: round(100 * getattr(result.splits, name).delta[given.objective], 3)
                for name in ("search", "confirm", "test")
            }
            rows.append({"seed": seed, "guide": guide, **deltas, "heads": len(result.selected)})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def summary(rows: list[dict[str, Any]], guides: list[str]) -> dict[str, Any]:
    """Return the mean test gain of every guide, and how much more it is than by the first, over the same data sets."""
    tests = {guide: np.array([row["test"] for row in rows if row["guide"] == guide]) for guide in guides}
    return {
        guide: {
            "test": round(float(found.mean()), 3),
            "more_than_by_first": mean_and_interval(found - tests[guides[0]]),
        }
        for guide, found in tests.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--guides", nargs="+", default=["objective", "mrr"], help="the others are compared with the first"
    )
    parser.add_argument("--objective", default="mean_recall")
    parser.add_argument("--masks", type=int, default=250)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HEADMASK_CACHE"] = str(Path(scratch, "cache"))
        rows = gains(given, Path(scratch))
    content = {
        **vars(given),
        "hardware": hardware(torch.device("cpu")),
        "summary": summary(rows, given.guides),
        "rows": rows,
    }
    print(save(f"guides-searches-{given.objective}", content, sys.argv[1:]))
