"""How long `headmask compare` takes over many run folders, as a fresh process; with `--page`, the page is written, too.

python -m benchmarks.compare --runs 200 --images 1000

The folders are made up: a ViT-B/32's grid, five captions per image on confirm and on test, a thousand trials each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.record import save
from headmask.mask import HeadGrid, HeadMask
from headmask.maskfile import Grid, MaskFile, ModelReference, SplitScores
from orchestrator.outcome.schema import RELIABLE, RandomMasks, SearchResult, Size, SplitResult, Splits, TestResult
from orchestrator.outcome.tables import write_trials
from orchestrator.run.bench import hardware
from orchestrator.study.records import TrialRecord
from orchestrator.verdict.queries import SIDES
from workers.tasks.retrieval import RetrievalTargets

# N images, Q queries

GRID, CAPTIONS, TRIALS = HeadGrid(12, 12), 5, 1000
MODEL = ModelReference(name="ViT-B-32", pretrained="made-up", weights_sha256="0" * 64)


def write_run(folder: Path, seed: int, num_images: int) -> None:
    """Write a run folder of a search that was never made: a mask that helps a little, by luck of the seed."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng((1, seed))
    heads = [divmod(int(place), GRID.heads) for place in rng.choice(len(GRID), size=rng.integers(3, 9), replace=False)]
    mask = HeadMask.from_heads(GRID, heads)
    targets = RetrievalTargets(np.repeat(np.arange(num_images), CAPTIONS))
    tables, splits = [], {}
    for split in ("search", "confirm", "test"):
        ranks = _ranks(split, targets, rng)
        before, after = (targets.values(ranks[side]) for side in SIDES)
        delta = {name: after[name] - before[name] for name in before}
        splits[split] = {"baseline": before, "selected": after, "delta": delta}
        tables += [_table(split, targets, kind, ranks) for kind in ("t2i", "i2t") if split != "search"]
    pq.write_table(pa.concat_tables(tables), folder / "queries.parquet")
    write_trials(_trials(rng), folder / "trials.parquet")
    _write_result(folder, mask, seed, splits, num_images)
    settings = {"search": {"seed": seed, "ablation": "zero"}, "data": [{"name": None, "path": "made-up.parquet"}]}
    (folder / "config.json").write_text(json.dumps({"model": MODEL.model_dump(), **settings}))


def _ranks(split: str, targets: RetrievalTargets, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Return ranks of the baseline, the same for all runs, and of a mask that moves every tenth of them."""
    shared = np.random.default_rng((0, len(split)))
    sides: dict[str, dict[str, Any]] = {side: {} for side in SIDES}
    for kind in ("t2i", "i2t"):
        count = len(targets.image_of_queries[kind])
        before_Q = np.minimum(shared.geometric(0.3, size=count) - 1, 255)
        moved_Q = np.where(rng.random(count) < 0.1, rng.integers(-3, 3, size=count), 0)
        after_Q = np.clip(before_Q + moved_Q, 0, 255)
        for side, rank_Q in zip(SIDES, (before_Q, after_Q), strict=True):
            sides[side] |= {
                kind: rank_Q.astype(np.uint8),
                f"{kind}_probability": (1 / (1.0 + rank_Q)).astype(np.float32),
            }
    return sides


def _table(split: str, targets: RetrievalTargets, kind: str, ranks: dict[str, dict[str, Any]]) -> pa.Table:
    image_Q = targets.image_of_queries[kind].astype(np.int32)
    count = len(image_Q)
    texts = {"data": "made-up", "split": split, "task": "retrieval", "digest": f"{split}-digest", "kind": kind}
    columns = {name: pa.array([text] * count) for name, text in texts.items()}
    columns |= {"query": pa.array(np.arange(count, dtype=np.int32))}
    columns |= {name: pa.array(image_Q) for name in ("image", "row", "cluster")}
    columns |= {name: pa.nulls(count, pa.int32()) for name in ("num_classes", "label", "group")}
    for side in SIDES:
        columns |= {f"{side}_rank": ranks[side][kind], f"{side}_probability": ranks[side][f"{kind}_probability"]}
    return pa.table(columns)


def _trials(rng: np.random.Generator) -> list[TrialRecord]:
    values = rng.beta(8, 4, size=TRIALS)
    values[0] = 0.5
    return [
        TrialRecord(
            proposal=number,
            mask=HeadMask(GRID, tuple(rng.integers(2, size=GRID.layers).tolist())),
            value=float(value),
            metrics={"mean_recall": float(value)},
            seconds=0.1,
        )
        for number, value in enumerate(values)
    ]


def _write_result(folder: Path, mask: HeadMask, seed: int, splits: dict[str, Any], num_images: int) -> None:
    sizes, heads = {"num_images": num_images, "num_captions": CAPTIONS * num_images}, list(map(str, mask.heads))
    delta = splits["test"]["delta"]["mean_recall"]
    interval = (delta - 0.004, delta + 0.004)
    searched = {
        "model": MODEL.weights_sha256,
        "tower": "image",
        "grid": str(GRID),
        "data": {split: f"{split}-digest" for split in splits},
        "task": "retrieval",
        "objective": "mean_recall",
        "guide": "probability",
        "ablation": "zero",
        "precision": "float32",
        "seed": seed,
    }
    SearchResult(
        verdict=RELIABLE if interval[0] > 0 else "no reliable improvement",
        objective="mean_recall",
        guide="probability",
        selected=heads,
        recommended=heads if interval[0] > 0 else [],
        splits=Splits(
            search=SplitResult(**sizes, **splits["search"]),
            confirm=SplitResult(**sizes, **splits["confirm"]),
            test=TestResult(**sizes, **splits["test"], interval=interval, p_value=0.01),
        ),
        best_single=None,
        random_masks=RandomMasks(num_masks=0, percentile=None),
        size=Size(front=[], knee=None, savings=[], flops_saved=None),
        prospects=None,
        guarded=[],
        surrogate=None,
        num_masks=TRIALS,
        num_failed=0,
        stopped_by="masks",
        image_forwards=TRIALS * num_images,
        seconds=100.0,
        study=folder.name,
        storage=str(folder / "study.journal"),
        fingerprint=f"{seed:016x}",
        searched=searched,
        test_looks=1,
        mlflow_run_id=None,
        mask_file=str(folder / "mask.json"),
        versions={},
    ).write(folder / "result.json")
    MaskFile(
        model=MODEL,
        grid=Grid(layers=GRID.layers, heads=GRID.heads),
        heads=tuple(heads) if interval[0] > 0 else (),
        objective="mean_recall",
        scores={
            split: SplitScores(baseline=part["baseline"], selected=part["selected"]) for split, part in splits.items()
        },
    ).write(folder / "mask.json")


def measure(num_runs: int, num_images: int, repeats: int, *, page: bool) -> dict[str, Any]:
    """Return the seconds of comparing made-up run folders."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / f"run{number}" for number in range(num_runs)]
        for number, folder in enumerate(folders):
            write_run(folder, number, num_images)
        program = "from orchestrator.cli import main; main()"
        command = [sys.executable, "-c", program, "compare", *map(str, folders)]
        command += ["--out", f"{scratch}/page.html"] if page else []
        seconds = []
        for _ in range(1 + repeats):
            started = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds.append(time.perf_counter() - started)
    # The first one warms the disk cache up.
    return {
        "hardware": hardware(torch.device("cpu")),
        "num_runs": num_runs,
        "num_images": num_images,
        "num_captions": CAPTIONS * num_images,
        "trials": TRIALS,
        "page": page,
        "median_s": round(statistics.median(seconds[1:]), 3),
        "seconds": [round(each, 3) for each in seconds[1:]],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--images", type=int, default=1000, help="of confirm and of test, with five captions each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--page", action="store_true", help="write the page as well")
    given = parser.parse_args()
    found = measure(given.runs, given.images, given.repeats, page=given.page)
    print(f"{found['median_s']:.2f} s; {save('compare-page' if given.page else 'compare', found, sys.argv[1:])}")
