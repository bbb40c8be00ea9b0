"""Measure building and holding data, and keep the figures, with date and commit, in `benchmarks/results/`.

python -m benchmarks.data build            a build against a plain Pillow loop over the same images
python -m benchmarks.data memory           50,000 images: peak memory of building and loading, shared memory of replicas
python -m benchmarks.data streaming        an engine that reads cold images from disk against images in memory
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.record import save
from orchestrator.run.bench import hardware


def picture(number: int, size: tuple[int, int]) -> bytes:
    """Return a JPEG of smooth noise, about as large and as slow to decode as a photo of that size."""
    rng = np.random.default_rng(number)
    small = rng.integers(256, size=(size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_folder(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Write JPEGs and a CSV of captions; return the CSV."""
    (folder / "images").mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(count)]
    with ThreadPoolExecutor() as executor:
        pictures = executor.map(lambda number: picture(number, size), range(count))
        for name, content in zip(names, pictures, strict=True):
            (folder / "images" / name).write_bytes(content)
    lines = [f"{name},a picture with the number {name[:6]}" for name in names]
    (folder / "captions.csv").write_text("\n".join(["image,caption", *lines]))
    return folder / "captions.csv"


def timed(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure_build(count: int, rounds: int) -> dict[str, Any]:
    """Build from a folder of photo-sized images, alternating with a loop that only opens and decodes each."""
    from workers.data.build import build
    from workers.data.sources.tables import folder

    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch, "photos")
        captions = write_folder(images, count, (640, 480))

        def loop() -> None:
            for path in sorted((images / "images").iterdir()):
                with Image.open(path) as image:
                    image.convert("RGB")

        def whole() -> None:
            build(folder(images / "images", captions), Path(scratch, "out.parquet"), overwrite=True)

        loop(), whole()
        seconds = [(timed(loop), timed(whole)) for _ in range(rounds)]
    loop_s, build_s = (median(side) for side in zip(*seconds, strict=True))
    return {
        "num_images": count,
        "image_size": [640, 480],
        "loop_images_per_s": count / loop_s,
        "build_images_per_s": count / build_s,
        "speedup": loop_s / build_s,
        "rounds": seconds,
    }


def in_process(statement: str, *arguments: str) -> dict[str, float]:
    """Run a statement in a process of its own; return its seconds and its peaks of memory, file pages apart."""
    program = f"""
import json, sys, time
from pathlib import Path
started = time.perf_counter()
{statement}
seconds = time.perf_counter() - started
lines = Path("/proc/self/status").read_text().splitlines()
status = {{line.partition(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}}
names = ("VmHWM", "RssAnon", "RssFile")
print(json.dumps({{"seconds": seconds, **{{name: int(status[name]) / 2**20 for name in names}}}}))
"""
    done = subprocess.run([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        "seconds": found["seconds"],
        "peak_gib": found["VmHWM"],
        "anonymous_at_end_gib": found["RssAnon"],
        "file_pages_at_end_gib": found["RssFile"],
    }


BUILD = """
from workers.data.build import build
from workers.data.sources.tables import folder
folder_of_images = Path(sys.argv[1])
build(folder(folder_of_images / "images", folder_of_images / "captions.csv"), Path(sys.argv[2]))
"""
LOAD = """
from open_clip.transform import PreprocessCfg, image_transform_v2
from workers.data.loading import load_data
from workers.data.preprocess import UInt8Preprocess
preprocess = UInt8Preprocess(image_transform_v2(PreprocessCfg(size=224), is_train=False))
splits = load_data(Path(sys.argv[1]), preprocess)
"""


def measure_memory(count: int, num_replicas: int) -> dict[str, Any]:
    """Build and load many images in processes of their own, then map them from several replicas on Ray."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("HEADMASK_BENCH_DIR")) as scratch:
        os.environ["HEADMASK_CACHE"] = str(Path(scratch, "cache"))
        write_folder(Path(scratch, "photos"), count, (320, 240))
        built = in_process(BUILD, str(Path(scratch, "photos")), str(Path(scratch, "out.parquet")))
        first = in_process(LOAD, str(Path(scratch, "out.parquet")))
        again = in_process(LOAD, str(Path(scratch, "out.parquet")))
        shared = measure_sharing(Path(scratch, "out.parquet"), num_replicas)
    return {"num_images": count, "build": built, "first_load": first, "second_load": again, **shared}


def measure_sharing(data: Path, num_replicas: int) -> dict[str, Any]:
    """Read all pixels in replicas on this host, and return what they hold together and in proportion."""
    import ray
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from workers.data.loading import load_data
    from workers.data.pixels import PackedPixels
    from workers.data.preprocess import UInt8Preprocess

    @ray.remote
    class Reader:
        def __init__(self, packed: PackedPixels) -> None:
            self.pixels = packed.unpack()
            self.total = 0

        def read(self) -> int:
            for start in range(0, len(self.pixels), 64):
                self.total += int(self.pixels[start : start + 64].sum())
            return os.getpid()

    preprocess = UInt8Preprocess(image_transform_v2(PreprocessCfg(size=224), is_train=False))
    pixels = load_data(data, preprocess, whole=True)["all"].pixels
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=num_replicas, include_dashboard=False, log_to_driver=False)
    readers = [Reader.remote(pixels.packed()) for _ in range(num_replicas)]
    pids = ray.get([reader.read.remote() for reader in readers])
    maps = [mapping(pid, ".npy") for pid in pids]
    ray.shutdown()
    return {
        "num_replicas": num_replicas,
        "pixels_gib": pixels.nbytes / 2**30,
        "mapped_by_each_replica_gib": [found["Rss"] for found in maps],
        "proportional_of_each_replica_gib": [found["Pss"] for found in maps],
        "proportional_over_pixels": sum(found["Pss"] for found in maps) / (pixels.nbytes / 2**30),
        "private_gib": [found["Private_Clean"] + found["Private_Dirty"] for found in maps],
    }


def mapping(pid: int, ending: str) -> dict[str, float]:
    """Return the sizes in GiB of what a process has mapped of files with an ending."""
    total: dict[str, float] = {}
    is_ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, _, rest = line.partition(":")
        if "-" in key.split()[0]:
            is_ours = line.endswith(ending)
        elif is_ours and rest.strip().endswith("kB"):
            total[key] = total.get(key, 0) + int(rest.split()[0]) / 2**20
    return total


def measure_streaming(model: str, count: int, rounds: int) -> dict[str, Any]:
    """Embed masks over images that are dropped from the page cache before every round, and over images in memory."""
    import open_clip

    from headmask.mask import HeadMask
    from headmask.models.loading import quiet_open_clip
    from headmask.tower.towers import view_of
    from workers.data.pixels import Pixels
    from workers.scoring.engine import Engine
    from workers.scoring.inputs import Normalisation, make_inputs

    with quiet_open_clip():
        clip = open_clip.create_model(model, load_weights=False).eval()
    view = view_of(clip, "image")
    size = clip.visual.image_size[0]
    normalisation = Normalisation(np.zeros(3, np.float32), np.ones(3, np.float32))
    masks = HeadMask.singles(view.grid)[:3]
    with tempfile.TemporaryDirectory(dir=os.environ.get("HEADMASK_BENCH_DIR")) as scratch:
        path = Path(scratch, "pixels.npy")
        array_NCYX = np.random.default_rng(0).integers(256, size=(count, 3, size, size), dtype=np.uint8)
        np.save(path, array_NCYX)
        os.sync()

        def embed(pixels_NCYX: np.ndarray) -> None:
            inputs = make_inputs(Pixels(pixels_NCYX, np.arange(count)), view, normalisation)
            Engine(view, inputs, chunk=32).embed(masks)

        def cold() -> None:
            embed(np.load(path, mmap_mode="r"))

        def resident() -> None:
            embed(array_NCYX)

        def drop() -> None:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        resident()
        seconds = []
        for _ in range(rounds):
            drop()
            seconds.append((timed(resident), timed(cold)))
    resident_s, cold_s = (median(side) for side in zip(*seconds, strict=True))
    return {
        "model": model,
        "num_images": count,
        "num_masks": len(masks),
        "bytes": int(array_NCYX.nbytes),
        "resident_s": resident_s,
        "streamed_s": cold_s,
        "loss": cold_s / resident_s - 1,
        "rounds": seconds,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "memory", "streaming"))
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--replicas", type=int, default=2)
    given = parser.parse_args()
    if given.what == "build":
        found = measure_build(given.images or 1000, given.rounds)
    elif given.what == "memory":
        found = measure_memory(given.images or 50_000, given.replicas)
    else:
        found = measure_streaming(given.model, given.images or 96, given.rounds)
    print(save(f"data-{given.what}", {"hardware": hardware(torch.device("cpu")), **found}, sys.argv[1:]))
