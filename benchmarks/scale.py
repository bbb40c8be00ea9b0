"""What a driver makes of 1,000 GPUs: simulated replicas of ViT-L/14, the real driver, study and tracking.

python -m benchmarks.scale

A mask takes what the newest benchmark of the population workload on a GPU measured for ViT-L-14 in bfloat16, by
the number of images; shards add what their exchange takes at 1 GB/s. Efficiency is the share of the replicas' time in
which they score.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.driver import GRID, SimulatedPool, run_simulated
from benchmarks.record import RESULTS, save
from benchmarks.strategies.synthetic import make_synthetic
from orchestrator.run.bench import hardware
from orchestrator.search.session import width_for
from orchestrator.search.sharding import BYTES_PER_S

REPLICAS, CAPTIONS_PER_IMAGE = 1000, 5


@dataclass(frozen=True)
class Setting:
    """One way to spend the replicas."""

    images: int
    shards: int
    masks: int


SETTINGS = (
    Setting(25_000, 1, 2000),
    Setting(25_000, 25, 5000),
    Setting(1_000_000, 20, 600),
)


def seconds_per_image() -> float:
    """Return the seconds of a GPU for a mask and an image."""
    path = sorted(RESULTS.glob("*-engine-population-ViT-L-14-bfloat16-cuda.json"))[-1]
    found = json.loads(path.read_text())
    return found["engine_s_per_mask"] / found["num_images"]


def evaluation_s(setting: Setting, image_s: float) -> float:
    """Return the seconds that a group of shards, or a replica, takes for a mask."""
    exchanged = 0 if setting.shards == 1 else setting.images * CAPTIONS_PER_IMAGE * (4 + 13 * setting.shards)
    return setting.images * image_s / setting.shards + exchanged / BYTES_PER_S


def measure(setting: Setting, image_s: float) -> dict[str, float]:
    """Return how busy the replicas are."""
    groups, mask_s = REPLICAS // setting.shards, evaluation_s(setting, image_s)
    pool = SimulatedPool(make_synthetic("cliff", GRID, 0), groups, mask_s)
    with tempfile.TemporaryDirectory() as scratch:
        ran = run_simulated(pool, Path(scratch), setting.masks, width=width_for(groups))
    return {
        **asdict(setting),
        "width": width_for(groups),
        "seconds_per_mask": mask_s,
        "masks_per_s": setting.masks / ran.seconds,
        "efficiency": setting.masks * mask_s / (groups * ran.seconds),
        "driver_busy": ran.cpu_s / ran.seconds,
    }


def main() -> None:
    """Measure, and write one dated file."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    image_s, rows = seconds_per_image(), []
    for setting in SETTINGS:
        rows.append(measure(setting, image_s))
        print(rows[-1], file=sys.stderr, flush=True)
    about = {"replicas": REPLICAS, "seconds_per_image": image_s, "hardware": hardware(torch.device("cpu"))}
    print(save("scale", {**about, "rows": rows}, sys.argv[1:]))


if __name__ == "__main__":
    main()
