"""Everything that is to be measured where a GPU is at hand, in about ten minutes, one file per part.

python -m benchmarks.gpu                   all of it
python -m benchmarks.gpu search compiled   some parts

`tests` runs the tests marked `gpu`. `texts` embeds captions on the device, against the stock tower. `search` searches
ViT-L/14 at random weights on 5,000 random images with default settings for two minutes: its share of the peak, and how
much of the time is spent in the engine. `compiled` times `enter` and `leave` of a block as they are, compiled by
torch.compile and replayed as CUDA graphs, and says whether bits are equal.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.record import save
from headmask.ablation.rules import ZERO
from headmask.tower.towers import view_of
from headmask.tower.views import TowerView
from orchestrator.api import search
from orchestrator.run.bench import hardware, peak_flops
from workers.data.dataset import Row, write_dataset
from workers.scoring.constants import resolved_precision
from workers.scoring.devices import default_device
from workers.scoring.scorer import DTYPES
from workers.scoring.trie import TowerCost

# B images, T tokens, D width

TEXTS = 25_010
"""Captions of COCO's test split."""
ROUNDS, REPEATS = 5, 20


def tests(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Return how the tests end that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, file=sys.stderr)
    return {"exit_code": done.returncode, "last_line": (done.stdout.strip().splitlines() or [""])[-1]}


def texts(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Return nothing: `benchmarks.texts` writes a file of its own."""
    options = ["--model", given.model, "--texts", str(given.texts), "--device", given.device]
    subprocess.run([sys.executable, "-m", "benchmarks.texts", *options], check=True)
    return {}


def search_for_a_while(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Return how many masks a default search scores, at what share of the peak, and in the engine for how long."""
    folder, data = scratch / "model", scratch / "random.parquet"
    write_model(given.model, folder)
    write_random(data, given.images)
    result = search(
        model=f"local-dir:{folder}",
        data=data,
        out=scratch / "run",
        seconds=given.seconds,
        masks=100_000,
        precheck=False,
    )
    trials = pq.read_table(scratch / "run" / "trials.parquet", columns=["seconds"])
    in_engine = float(np.sum(trials["seconds"].to_numpy()))
    device, precision = torch.device(given.device), result.searched["precision"]
    tower = open_clip.create_model(given.model).visual.requires_grad_(False).eval()
    cost = TowerCost.of(view_of(tower), torch.zeros(1, 3, *tower.image_size))
    view = view_of(tower.to(device, DTYPES[precision]))
    peak = peak_flops(view, result.searched["image_chunk"])
    flops_per_s = 2 * cost.plain_macs * result.image_forwards / result.seconds
    return {
        "model": given.model,
        "images": given.images,
        "precision": precision,
        "image_chunk": result.searched["image_chunk"],
        "seconds": result.seconds,
        "masks": result.num_masks,
        "image_forwards": result.image_forwards,
        "ms_per_mask_and_image": 1000 * result.seconds / result.image_forwards,
        "share_of_peak": flops_per_s / peak,
        "share_of_time_in_engine": in_engine / result.seconds,
        "peak_gflops": peak / 1e9,
    }


def compiled(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Return the seconds of a block's pieces in several ways, and whether these give the same bits."""
    device = torch.device(given.device)
    precision = resolved_precision("auto", device)
    tower = open_clip.create_model(given.model).visual.requires_grad_(False).eval().to(device, DTYPES[precision])
    view = view_of(tower)
    images = torch.randn(given.chunk, 3, *tower.image_size, device=device).to(view.dtype)
    ways: dict[str, Callable[[], Tensor]] = {}
    with torch.inference_mode():
        block = block_of(view, images)
        ways["eager"] = block
        ways["compiled"] = torch.compile(block, dynamic=False)
        if device.type == "cuda":
            ways["graph"] = replayed(block)
        found = {name: way().clone() for name, way in ways.items()}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(ROUNDS):
            for name in ways if number % 2 else reversed(ways):
                seconds[name].append(timed(ways[name], device))
    first = found["eager"]
    return {
        "model": given.model,
        "precision": precision,
        "images": given.chunk,
        "seconds": seconds,
        "speedup": {name: median(seconds["eager"]) / median(each) for name, each in seconds.items()},
        "bits_equal": {name: bool(torch.equal(first, each)) for name, each in found.items()},
    }


def block_of(view: TowerView, images: Tensor) -> Callable[[], Tensor]:
    """Return a function that takes a chunk through a block in the middle of the tower, with one head ablated."""
    sequences, layer = view.embed(images), view.grid.layers // 2

    def block() -> Tensor:
        return view.leave(layer, view.enter(layer, sequences, sequences.x_BTD, ZERO), 1, ZERO)

    return block


def replayed(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a function that replays a CUDA graph of some work."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = work()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def timed(work: Callable[[], Tensor], device: torch.device) -> float:
    """Return the seconds that some work takes."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(REPEATS):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / REPEATS


def write_model(name: str, folder: Path) -> None:
    """Write an architecture at random weights as a folder that `local-dir:` loads."""
    folder.mkdir()
    clip = open_clip.create_model(name)
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": clip.visual.preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {key: tensor.contiguous() for key, tensor in clip.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def write_random(path: Path, search_images: int) -> None:
    """Write random images of 32 pixels, each with its own caption; a tenth as many to confirm and to test."""
    rng = np.random.default_rng(0)

    def image() -> bytes:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, size=(32, 32, 3), dtype=np.uint8)).save(file, "PNG")
        return file.getvalue()

    sizes = {"search": search_images, "confirm": max(30, search_images // 10), "test": max(30, search_images // 10)}
    numbered = ((split, number) for split, count in sizes.items() for number in range(count))
    write_dataset(
        path, (Row(f"{split}{n}.png", image(), (f"noise number {n} of {split}",), split) for split, n in numbered)
    )


PARTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "tests": tests,
    "texts": texts,
    "search": search_for_a_while,
    "compiled": compiled,
}


def main() -> None:
    """Measure, and write a dated file per part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--model", default="ViT-L-14")
    parser.add_argument("--images", type=int, default=5_000, help="random images that are searched on")
    parser.add_argument("--seconds", type=int, default=120, help="of the search")
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--chunk", type=int, default=64, help="images that go through a block")
    parser.add_argument("--device", default=default_device())
    given = parser.parse_args()
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"parts are {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    for name in given.parts or PARTS:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            os.environ["HEADMASK_CACHE"] = str(Path(scratch, "cache"))
            if found := PARTS[name](given, Path(scratch)):
                about = {"hardware": hardware(torch.device(given.device)), **found}
                print(save(f"gpu-{name}", about, sys.argv[1:]), flush=True)


if __name__ == "__main__":
    main()
