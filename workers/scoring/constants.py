"""The constants of a study: what is settled once, when it is created, for its kind of device."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from headmask.border.libraries import cpu_capabilities
from headmask.errors import ConfigError
from workers.scoring.devices import MPS
from workers.scoring.engine import Engine, is_out_of_memory

# L layers, H heads, d head width, B inputs of a chunk, T tokens, D width

Precision = Literal["float32", "bfloat16", "float16"]
AnyPrecision = Literal["auto", "float32", "bfloat16", "float16"]

CHUNKS = {"cpu": (8, 16, 32, 64), "mps": (8, 16, 32, 64), "cuda": (32, 64, 128, 256, 512)}
FULL = {"cpu": 1 << 20, "mps": 1 << 20, "cuda": 1 << 23}
"""Numbers between two layers that fill a device: chunk x tokens x width."""
MEMORY_SHARE, NUMBERS_PER_TOKEN = 0.25, 16
"""Part of a device's memory that a chunk's nodes may take, and what a node keeps for each number between layers."""
USUAL_CHUNK = 32
"""Inputs computed together if nothing is measured: outside a search, and for the means."""
WORTH = 0.03
"""Smallest gain in speed that justifies a larger chunk, which costs memory."""
LONG_S = 2.0
"""Seconds for a layer that show that a device is full."""
_REPEATS = 3


@dataclass(frozen=True)
class Constants:
    """Everything that decides the last bits of a study's scores, besides the model and the data."""

    precision: Precision
    chunk: int
    """Inputs computed together."""
    means_LHd: NDArray[np.float32] | None = None
    """Calibrated mean outputs, where the ablation needs them."""
    baseline: Mapping[str, float] | None = None
    """Metrics of the empty mask on the search split, if losses against it are limited."""


def resolved_precision(wanted: AnyPrecision, device: torch.device) -> Precision:
    """Return the precision of a search on a device; `auto` is bfloat16 where the hardware computes in it.

    Raises:
        ConfigError: float16 on a CPU, or anything but float32 on an Apple GPU.
    """
    if device.type == MPS:
        if wanted not in ("auto", "float32"):
            raise ConfigError(f"device mps computes in float32; got precision {wanted}")
        return "float32"
    if wanted == "auto":
        return "bfloat16" if _computes_bfloat16(device) else "float32"
    if wanted == "float16" and device.type == "cpu":
        raise ConfigError("precision float16 needs a CUDA device, a CPU is very slow at it; use bfloat16 or float32")
    return wanted


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = cpu_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def chosen_chunk(engine: Engine) -> int:
    """Return the number of inputs computed together, by kind of device and shape of the tower: the same at every start.

    It is the candidate nearest to what fills the device, within its memory and the number of inputs.
    """
    view = engine.view
    with torch.inference_mode():
        x_BTD = view.embed(engine.inputs.take(slice(0, 1))).x_BTD
    numbers = x_BTD[0].numel()
    wanted, most = FULL[view.device.type] / numbers, len(engine.inputs)
    if view.device.type == "cuda":
        memory = torch.cuda.get_device_properties(view.device).total_memory
        per_input = numbers * NUMBERS_PER_TOKEN * view.grid.layers * x_BTD.element_size()
        most = min(most, int(MEMORY_SHARE * memory / per_input))
    fitting = [size for size in CHUNKS[view.device.type] if size <= most]
    if not fitting:
        return max(1, min(most, CHUNKS[view.device.type][0]))
    return min(fitting, key=lambda size: max(size / wanted, wanted / size))


def measured_chunk(engine: Engine, candidates: Sequence[int] | None = None) -> int:
    """Return the smallest chunk at which the engine computes about as many inputs a second as at any larger one.

    One layer in full and the last layer are timed, in the proportion in which single heads need them.
    """
    device = engine.view.device
    fitting = [size for size in candidates or CHUNKS[device.type] if size <= len(engine.inputs)]
    best, best_s = fitting[0] if fitting else len(engine.inputs), float("inf")
    for size in fitting:
        try:
            seconds = _seconds_per_input(engine, size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if seconds < (1 - WORTH) * best_s:
            best, best_s = size, seconds
        if seconds * size > LONG_S:
            break
    return best


@torch.inference_mode()
def _seconds_per_input(engine: Engine, size: int) -> float:
    view = engine.view
    sequences = view.embed(engine.inputs.take(slice(0, size)))
    last = view.grid.layers - 1
    layers = [(0, last / 2), (last, 1.0)] if last else [(0, 1.0)]

    def run() -> float:
        total_s = 0.0
        for layer, weight in layers:
            started = time.perf_counter()
            entered = view.enter(layer, sequences, sequences.x_BTD, engine.ablation)
            x_BQD = view.leave(layer, entered, 0, engine.ablation)
            float(x_BQD.flatten()[0])  # Waits for the device.
            total_s += weight * (time.perf_counter() - started)
        return total_s / size

    run()
    return median(run() for _ in range(_REPEATS))
