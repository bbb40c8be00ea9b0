"""How many texts replicas embed in a second, by the size of the pool, against the stock tower in one process.

python -m benchmarks.texts
python -m benchmarks.texts --device cuda --model ViT-L-14 --texts 25010

Random weights and drawn texts of 9 to 22 tokens, one thread a replica on CPUs. Pools are up, and have embedded a first
part, before the clock is read; in each round they alternate with the stock tower, which computes chunks of the same
size at full length. All pools must give the same bits.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from benchmarks.record import save
from orchestrator.demo import unpack_demo
from orchestrator.run.bench import hardware
from orchestrator.search.preparing import load
from orchestrator.search.session import Session
from orchestrator.settings.config import read_config
from orchestrator.settings.options import flags_of
from workers.pool.fleet import START_S
from workers.pool.ray import RayPool
from workers.scoring.embedding import embedded
from workers.scoring.inputs import Normalisation
from workers.scoring.stock import Encoder

# Q texts, T tokens, E embedding

START, END = 49406, 49407
"""CLIP's tokens around a text."""


def drawn_tokens(count: int, length: int) -> NDArray[np.int64]:
    """Return the token ids (Q, T) of drawn texts that are about as long as captions."""
    rng = np.random.default_rng(0)
    tokens_QT = np.zeros((count, length), np.int64)
    for row, size in enumerate(rng.integers(8, 22, size=count)):
        tokens_QT[row, 0], tokens_QT[row, size] = START, END
        tokens_QT[row, 1:size] = rng.integers(1, START, size=size - 1)
    return tokens_QT


@torch.inference_mode()
def stock(clip: Any, tokens_QT: NDArray[np.int64], size: int, device: str) -> NDArray[np.float32]:
    """Return the embeddings (Q, E) by stock open_clip in this process."""
    parts = [
        F.normalize(clip.encode_text(torch.from_numpy(tokens_QT[at : at + size]).to(device)), dim=-1).cpu()
        for at in range(0, len(tokens_QT), size)
    ]
    return torch.cat(parts).numpy()


def session_of(folder: Path) -> Session:
    """Return the demo's session, whose payload starts the replicas."""
    demo = unpack_demo(folder)
    options = {"model": f"local-dir:{demo.model}", "data": demo.data, "out": folder}
    return load(read_config(None, flags_of(options)))


def measure(folder: Path, model: str, count: int, rounds: int, sizes: list[int], device: str) -> dict[str, Any]:
    """Return texts per second by the stock tower and by pools, of every round."""
    torch.set_num_threads(1)
    clip = open_clip.create_model(model).eval()
    encoder = Encoder.of(clip, "text", Normalisation(np.zeros(3, np.float32), np.ones(3, np.float32)), threads=1)
    clip, tokens_QT = clip.to(device), drawn_tokens(count, clip.context_length)
    size, payload = encoder.size(device), session_of(folder).payload
    per_s: dict[str, list[float]] = {"stock": [], **{str(replicas): [] for replicas in sizes}}
    found: dict[str, NDArray[np.float32]] = {}
    for number in range(rounds):
        for name in per_s if number % 2 else reversed(per_s):
            if name == "stock":
                stock(clip, tokens_QT[:size], size, device)
                started = time.perf_counter()
                found[name] = stock(clip, tokens_QT, size, device)
                per_s[name].append(count / (time.perf_counter() - started))
                continue
            share = int(name) if device == "cpu" else 1
            with closing(RayPool(payload, replicas=share, gpus_per_replica=0 if device == "cpu" else None)) as pool:
                pool.fleet.wait_for(share, START_S)
                warm(pool, encoder, tokens_QT[: 8 * share * size], device)
                started = time.perf_counter()
                found[name] = embedded(pool, encoder, tokens_QT)
                per_s[name].append(count / (time.perf_counter() - started))
        print({each: round(rates[-1], 2) for each, rates in per_s.items()}, file=sys.stderr, flush=True)
    check_equal(found)
    return {"model": model, "texts": count, "texts_per_second": per_s, "chunk": size, **ratios(per_s)}


def warm(pool: RayPool, encoder: Encoder, tokens_QT: NDArray[np.int64], device: str) -> None:
    """Let every replica unpack the tower and see which lengths keep the bits."""
    size, waiting = encoder.size(device), set(range(-(-len(tokens_QT) // encoder.size(device))))
    pool.submit_chunks(encoder, lambda place: tokens_QT[place * size : (place + 1) * size], sorted(waiting))
    while waiting:
        waiting -= pool.collect_chunks(1.0).keys()


def check_equal(found: dict[str, NDArray[np.float32]]) -> None:
    """Check that all pools gave the same bits, and the stock tower's embeddings up to rounding."""
    first, *others = (each for name, each in found.items() if name != "stock")
    if any((first != each).any() for each in others):
        raise RuntimeError("pools of any size must give the same bits")
    if (largest := float(np.abs(first - found["stock"]).max())) > 1e-5:
        raise RuntimeError(f"embeddings differ from the stock tower's by {largest:.1e}")


def ratios(per_s: dict[str, list[float]]) -> dict[str, float]:
    """Return the median speed of every pool over that of the stock tower, and of the largest over the smallest."""
    middle = {name: median(rates) for name, rates in per_s.items()}
    pools = [name for name in middle if name != "stock"]
    over_stock = {f"replicas_{name}_over_stock": middle[name] / middle["stock"] for name in pools}
    return {**over_stock, f"replicas_{pools[-1]}_over_{pools[0]}": middle[pools[-1]] / middle[pools[0]]}


def main() -> None:
    """Measure, and write one dated file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--texts", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    sizes = given.replicas if given.device == "cpu" else [1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        os.environ.update(HEADMASK_CACHE=str(Path(scratch, "cache")), OMP_NUM_THREADS="1")
        found = measure(Path(scratch), given.model, given.texts, given.rounds, sizes, given.device)
    print(save(f"texts-{given.device}", {**found, "hardware": hardware(torch.device(given.device))}, sys.argv[1:]))


if __name__ == "__main__":
    main()
