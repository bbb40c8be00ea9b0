"""The footprint of a tower: its parameters, floating-point operations and measured latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from headmask.border.shown import counted
from headmask.tower.towers import TowerName, tower_of

ROUNDS, MIN_ROUNDS = 20, 5
"""Rounds for each model: if they fit into the time, and if they do not."""
LARGEST_BATCH = 64


@dataclass(frozen=True)
class Footprint:
    """Footprint of one tower."""

    parameters: int
    flops: int
    """Floating-point operations for one input, in products and convolutions; a multiply-add counts as two."""
    latency_ms: float | None = None
    """Median time of one batch, if measured."""
    quartiles_ms: tuple[float, float] | None = None
    """The interquartile range of the times."""


@dataclass(frozen=True)
class Timing:
    """How latencies were measured: in rounds of both models that take turns going first."""

    device: str
    batch: int
    rounds: int


@dataclass(frozen=True)
class Footprints:
    """Footprints of a tower before and after."""

    tower: TowerName
    before: Footprint
    after: Footprint
    timing: Timing | None = None
    """None if latency was not measured."""


@torch.no_grad()
def compare(before: Any, after: Any, inputs: Tensor, tower: TowerName, *, seconds: float = 0.0) -> Footprints:
    """Return the footprint of a tower in two models.

    Args:
        before: an open_clip model on the CPU.
        after: another one, with the same inputs.
        inputs: normalised images of the model's size, or token ids; at least one.
        tower: the tower to measure.
        seconds: approximate time to spend on measuring latency, on the GPU if there is one; 0 for none.
    """
    found = [Footprint(_num_parameters(model, tower), _flops(model, inputs[:1], tower)) for model in (before, after)]
    timing = None
    if seconds:
        timing, times_ms = _timed(before, after, inputs, tower, seconds)
        found = [_with_times(each, own_ms) for each, own_ms in zip(found, times_ms, strict=True)]
    return Footprints(tower, found[0], found[1], timing)


def _with_times(footprint: Footprint, times_ms: list[float]) -> Footprint:
    low, middle, high = (round(quartile, 3) for quartile in quantiles(times_ms, n=4))
    return replace(footprint, latency_ms=middle, quartiles_ms=(low, high))


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Yield a counter of floating-point operations in products and convolutions."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _num_parameters(model: Any, tower: TowerName) -> int:
    return sum(parameter.numel() for parameter in tower_of(model, tower).parameters())


def _flops(model: Any, inputs: Tensor, tower: TowerName) -> int:
    with counting_flops() as counter:
        _encode(model, tower)(inputs)
    return int(counter.get_total_flops()) // len(inputs)


def _encode(model: Any, tower: TowerName) -> Callable[[Tensor], Any]:
    encode: Callable[[Tensor], Any] = model.encode_image if tower == "image" else model.encode_text
    return encode


def _timed(
    before: Any, after: Any, inputs: Tensor, tower: TowerName, seconds: float
) -> tuple[Timing, tuple[list[float], list[float]]]:
    """Return the milliseconds that a batch took in each of two models, round by round."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [deepcopy(model).to(device) if device == "cuda" else model for model in (before, after)]
    calls = [_encode(model, tower) for model in models]
    one = inputs[:1].to(device)
    for call in calls:
        call(one)
    batch = _batch(_time_ms(calls[0], one), seconds)
    repeated = one.expand(batch, *one.shape[1:]).contiguous()
    for call in calls:
        call(repeated)
    times_ms: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(times_ms[0]) < MIN_ROUNDS or time.perf_counter() < end:
        for place in (0, 1) if len(times_ms[0]) % 2 else (1, 0):
            times_ms[place].append(_time_ms(calls[place], repeated))
    return Timing(_device_name(device), batch, len(times_ms[0])), times_ms


def _batch(one_ms: float, seconds: float) -> int:
    """Return the largest power of two as the batch size at which enough rounds fit into the time."""
    batch = 1
    while batch < LARGEST_BATCH and 2 * batch * one_ms * 2 * ROUNDS <= 1000 * seconds:
        batch *= 2
    return batch


def _time_ms(call: Callable[[Tensor], Any], inputs: Tensor) -> float:
    if inputs.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    call(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({counted(torch.get_num_threads(), 'thread')})"
