"""`headmask bench engine`: the engine against one stock forward pass per mask, in one process, on the same work."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from headmask.ablation.oracle import stock_ablation
from headmask.border.libraries import cpu_capabilities, versions
from headmask.border.shown import counted
from headmask.mask import HeadGrid, HeadMask
from headmask.tower.towers import prove, view_of
from headmask.tower.views import TowerView
from workers.data.pixels import Pixels
from workers.scoring.constants import Precision, measured_chunk, resolved_precision
from workers.scoring.devices import default_device
from workers.scoring.engine import Engine
from workers.scoring.inputs import ImageInputs, Normalisation
from workers.scoring.scorer import DTYPES, PROOF_TOLERANCE
from workers.scoring.trie import TowerCost

# M masks, N images, E embedding

Workload = Literal["scan", "population", "single"]
NUM_MASKS, NUM_PARENTS, NUM_SHORTLISTED, NUM_HEADS = 256, 16, 24, 6
"""Masks of the population workload; parents, and the mask of the single workload, have `NUM_HEADS` heads."""
SINGLE_RUNS = 8
"""Runs of the single mask in a round: one alone is too short to be timed."""


@dataclass(frozen=True)
class EngineBench:
    """Results of `headmask bench engine`: medians of seconds over rounds, medians of the rounds' ratios."""

    model: str
    workload: Workload
    num_masks: int
    num_images: int
    precision: Precision
    plain_precision: Precision
    plain_s_per_mask: float
    engine_s_per_mask: float
    speedup: float
    speedup_of_rounds: list[float]
    bound: float
    """Multiply-adds of one forward pass per mask over those of the trie: the speed-up at equal FLOP/s."""
    share_of_bound: float
    share_of_peak: float
    """FLOP/s of the engine over those of the fastest matrix product measured at its precision."""
    peak_gflops: float
    peak_memory_bytes: int
    """Peak memory of the process while the engine runs; on CUDA, of the device's allocator."""
    max_abs_difference: float
    """Largest difference between L2-normalised embeddings of the two ways, over the sampled masks."""
    plain_batch: int
    plain_masks_sampled: int
    image_chunk: int
    rounds: int
    threads: int
    hardware: str
    versions: dict[str, str] = field(default_factory=versions)

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self)


def bench_engine(
    model: str,
    *,
    images: int = 16,
    workload: Workload = "scan",
    precision: str = "float32",
    plain_precision: str | None = None,
    rounds: int = 3,
    sample: int = 8,
    on_round: Callable[[int, float, float], None] = lambda number, plain_s, engine_s: None,
) -> EngineBench:
    """Return the speed of the engine and of the plain way, with rounds of both alternating.

    The plain way edits the columns of W_O and calls the stock forward pass once per mask, at its best batch size; it
    is timed on a sample of the masks, which all cost it the same.

    Args:
        model: open_clip architecture, with random weights.
        images: random images of the model's size.
        workload: `scan` (the empty mask and every single head), `population` (256 masks bred from 16 parents of 6 heads
            over 24 heads) or `single` (one mask of 6 heads).
        precision: precision of the engine; `auto` is resolved.
        plain_precision: precision of the plain way; the engine's by default.
        rounds: repetitions of both.
        sample: masks that the plain way is timed on in a round.
        on_round: called with a round's number and the seconds per mask of both ways.

    Raises:
        HeadmaskError: the tower or the precision is not supported.
    """
    device = torch.device(default_device())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    tower = open_clip.create_model(model).visual.requires_grad_(False).eval().to(device)
    of_engine = resolved_precision(precision, device)  # type: ignore[arg-type]
    of_plain = resolved_precision(plain_precision or of_engine, device)  # type: ignore[arg-type]
    engine, plain = _engine(tower, images, of_engine), _Plain(_engine(tower, images, of_plain))
    prove(engine.view, engine.inputs.take(slice(0, 3)), tolerance=PROOF_TOLERANCE[of_engine])
    cost = TowerCost.of(plain.view, plain.images_NCYX[:1])
    masks = make_workload(workload, engine.view.grid)
    engine.chunk = measured_chunk(engine, sorted({images, *(2**power for power in range(2, 10))}))
    sampled = [masks[index] for index in np.linspace(0, len(masks) - 1, min(sample, len(masks))).round().astype(int)]
    runs = SINGLE_RUNS if workload == "single" else 1
    timed = []
    engine.embed(sampled[:1])
    memory = _PeakMemory(device)
    for number in range(rounds):
        plain_s = _seconds(lambda: [plain.embed(mask) for mask in sampled * runs], device) / (len(sampled) * runs)
        with memory:
            engine_s = _seconds(lambda: [engine.embed(masks) for _ in range(runs)], device) / (len(masks) * runs)
        timed.append((plain_s, engine_s))
        on_round(number, plain_s, engine_s)
    found_MNE = engine.embed(sampled)
    difference = max(
        (F.normalize(found, dim=-1) - F.normalize(plain.embed(mask).float(), dim=-1)).abs().max().item()
        for mask, found in zip(sampled, found_MNE, strict=True)
    )
    speedups = [plain_s / engine_s for plain_s, engine_s in timed]
    bound = len(masks) / cost(masks)
    engine_s = median(seconds for _, seconds in timed)
    peak = peak_flops(engine.view, engine.chunk)
    flops_per_mask = 2 * cost.plain_macs * cost(masks) / len(masks) * images
    return EngineBench(
        model=model,
        workload=workload,
        num_masks=len(masks),
        num_images=images,
        precision=of_engine,
        plain_precision=of_plain,
        plain_s_per_mask=median(seconds for seconds, _ in timed),
        engine_s_per_mask=engine_s,
        speedup=median(speedups),
        speedup_of_rounds=speedups,
        bound=bound,
        share_of_bound=median(speedups) / bound,
        share_of_peak=flops_per_mask / engine_s / peak,
        peak_gflops=peak / 1e9,
        peak_memory_bytes=memory.peak_bytes,
        max_abs_difference=difference,
        plain_batch=plain.batch,
        plain_masks_sampled=len(sampled),
        image_chunk=engine.chunk,
        rounds=rounds,
        threads=torch.get_num_threads(),
        hardware=hardware(device),
    )


def make_workload(workload: Workload, grid: HeadGrid, seed: int = 0) -> list[HeadMask]:
    """Return the masks of a workload, always the same for a grid and a seed."""
    if workload == "scan":
        return HeadMask.singles(grid)
    rng = np.random.default_rng(seed)
    heads = list(grid)
    shortlist = [heads[index] for index in rng.choice(len(heads), min(NUM_SHORTLISTED, len(heads)), replace=False)]
    num_parents, size = NUM_PARENTS, min(NUM_HEADS, len(shortlist))
    parents_PS = np.array([rng.permutation(len(shortlist)) < size for _ in range(num_parents)])
    if workload == "single":
        return [HeadMask.from_heads(grid, [shortlist[index] for index in np.flatnonzero(parents_PS[0])])]
    bred: dict[HeadMask, None] = {}
    while len(bred) < min(NUM_MASKS, 2 ** len(shortlist)):
        mother_S, father_S = parents_PS[rng.choice(num_parents, 2, replace=False)]
        child_S = np.where(rng.random(len(shortlist)) < 0.5, mother_S, father_S)
        child_S ^= rng.random(len(shortlist)) < 1 / len(shortlist)
        bred[HeadMask.from_heads(grid, [shortlist[index] for index in np.flatnonzero(child_S)])] = None
    return list(bred)


def hardware(device: torch.device) -> str:
    """Return the hardware of the measurement, in one line."""
    if device.type == "cuda":
        return (
            f"{torch.cuda.get_device_name(device)}, {torch.cuda.get_device_properties(device).total_memory >> 30} GiB"
        )
    capabilities = cpu_capabilities()
    name = capabilities.get("cpu_name") or platform.processor() or platform.machine()
    return f"{name}, {counted(torch.get_num_threads(), 'thread')}, {torch.backends.cpu.get_cpu_capability()}"


class _Plain:
    """The plain way: stock weights edited in place, one forward pass per mask."""

    def __init__(self, engine: Engine) -> None:
        self.view = engine.view
        self.images_NCYX = engine.inputs.take(slice(0, len(engine.inputs)))
        self.batch = len(self.images_NCYX)
        empty = HeadMask.empty(self.view.grid)
        seconds = {}
        for batch in sorted({self.batch, *(2**power for power in range(2, 10) if 2**power < self.batch)}):
            self.batch = batch
            self.embed(empty)
            seconds[batch] = median(_seconds(lambda: self.embed(empty), self.view.device) for _ in range(3))
        self.batch = min(seconds, key=lambda batch: seconds[batch])

    @torch.inference_mode()
    def embed(self, mask: HeadMask) -> Tensor:
        """Return the embeddings (N, E) of the stock forward pass with a mask in the weights."""
        with stock_ablation(self.view.attentions, mask):
            return torch.cat([self.view.stock(part) for part in torch.split(self.images_NCYX, self.batch)])


class _PeakMemory:
    """Peak memory in use inside its `with` blocks."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.peak_bytes = 0

    def __enter__(self) -> _PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        elif Path("/proc/self/status").exists():
            (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
            peak = int(line.split()[1]) * 1024
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peak_bytes = max(self.peak_bytes, peak)


def _engine(tower: torch.nn.Module, images: int, precision: Precision) -> Engine:
    view = view_of(deepcopy(tower).to(DTYPES[precision]))
    size = view.module.image_size
    pixels_NCYX = np.random.default_rng(0).integers(256, size=(images, 3, *size), dtype=np.uint8)
    normalisation = Normalisation(np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
    inputs = ImageInputs(Pixels(pixels_NCYX, np.arange(images)), normalisation, view.device, view.dtype)
    return Engine(view, inputs, chunk=images)


@torch.inference_mode()
def peak_flops(view: TowerView, chunk: int) -> float:
    """Return the FLOP/s of the fastest of a few matrix products: a square one, and those of the tower's own MLP."""
    width = view.attentions[0].out_proj.out_features
    tokens = view.embed(torch.zeros(1, 3, *view.module.image_size, dtype=view.dtype, device=view.device)).x_BTD.shape[1]
    best = 0.0
    for rows, inner, columns in (
        (2048, 2048, 2048),
        (chunk * tokens, width, 4 * width),
        (chunk * tokens, 4 * width, width),
    ):
        left = torch.randn(rows, inner, device=view.device).to(view.dtype)
        right = torch.randn(columns, inner, device=view.device).to(view.dtype)
        seconds = [_seconds(lambda a=left, b=right: F.linear(a, b), view.device) for _ in range(4)]  # type: ignore[misc]
        best = max(best, 2 * rows * inner * columns / min(seconds))
    return best


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
