"""Measure all, and keep the figures, with date and commit, in `benchmarks/results/`.

python -m benchmarks.validity                       everything: what `make validity` runs
python -m benchmarks.validity planted --trials 4    one part, with fewer trials than its own number
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import save
from benchmarks.validity.bench import Bench, processes
from benchmarks.validity.measures import (
    measure_clusters,
    measure_halved,
    measure_null,
    measure_planted,
    measure_random,
    measure_refined,
    measure_refined_null,
    measure_refined_shuffled,
    measure_shuffled,
)
from orchestrator.demo import unpack_demo
from orchestrator.run.bench import hardware

PARTS = {
    "null": (measure_null, 1000),
    "clusters": (measure_clusters, 500),
    "shuffled": (measure_shuffled, 20),
    "planted": (measure_planted, 50),
    "random": (measure_random, 8),
    "refined": (measure_refined, 20),
    "refined-shuffled": (measure_refined_shuffled, 40),
    "refined-null": (measure_refined_null, 1000),
    "halved": (measure_halved, 10),
}
"""Every part, with the number of trials that its committed figures have."""


def main() -> int:
    """Return 0, or 1 when more is claimed on null data than chance allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--trials", type=int, help="of every part that is measured")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as scratch, processes(Path(scratch), given.processes) as executor:
        bench = Bench(executor, Path(scratch), unpack_demo(Path(scratch)).model)
        found = [measure(bench, name, given.trials) for name in given.parts or PARTS]
    return 0 if all(each.get("passed", True) for each in found) else 1


def measure(bench: Bench, name: str, trials: int | None) -> dict[str, Any]:
    """Return what a part measures, after it has been kept."""
    function, usual = PARTS[name]
    started = time.monotonic()
    found = function(bench, trials or usual)
    about = {"hardware": hardware(torch.device("cpu")), "seconds": round(time.monotonic() - started)}
    path = save(f"validity-{name}", {**about, **found}, sys.argv[1:])
    for key in (
        "claims",
        "not_inferior",
        "not_below",
        "mean_difference_points",
        "interval_points",
        "median_gain_points",
        "passed",
    ):
        if key in found:
            print(f"{name}: {key} {found[key]}")
    print(path, flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
