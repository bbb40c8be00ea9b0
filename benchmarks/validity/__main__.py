"""Measure all, and keep the figures, with date and commit, in `benchmarks/results/`.

python -m benchmarks.validity                       everything: what `make validity` runs
python -m benchmarks.validity planted --trials 4    one part, with fewer trials than its own number
python -m benchmarks.validity refined --model runs/seed21 --shift noise --label seed21-noise    another model and domain
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.pools import Shift, unpacked
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
    parser.add_argument(
        "--model", default="demo", help="a folder that `orchestrator.demo.train` wrote; the demo's by default"
    )
    parser.add_argument("--shift", choices=get_args(Shift), default="none", help="of images that masks are refined on")
    parser.add_argument("--galleries", type=int, default=1, help="of test scenes that a planting is judged on")
    parser.add_argument("--label", help="put into the name of the file that is written")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as scratch, processes(Path(scratch), given.processes) as executor:
        bench = Bench(
            executor, Path(scratch), unpacked(given.model, Path(scratch) / "model"), given.shift, given.galleries
        )
        found = [measure(bench, name, given.trials, given.label) for name in given.parts or PARTS]
    return 0 if all(each.get("passed", True) for each in found) else 1


def measure(bench: Bench, name: str, trials: int | None, label: str | None) -> dict[str, Any]:
    """Return what a part measures, after it has been kept."""
    function, usual = PARTS[name]
    started = time.monotonic()
    found = function(bench, trials or usual)
    about = {"hardware": hardware(torch.device("cpu")), "seconds": round(time.monotonic() - started)}
    path = save("-".join(filter(None, ["validity", name, label])), {**about, **found}, sys.argv[1:])
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
