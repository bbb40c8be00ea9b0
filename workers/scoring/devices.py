"""Devices: which one a scorer runs on, what decides its last bits, and what it cannot do."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from headmask.errors import ConfigError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
MPS = "mps"
"""An Apple GPU: one replica, in float32. It has no float64, so ranks are counted on the CPU."""
_OPERATOR = re.compile(r"aten::[\w.]+")


def default_device() -> str:
    """Return the best device of this machine for a scorer; `mps` must be asked for."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def chosen_device(wanted: DeviceName) -> str:
    """Return the device for a scorer in this process.

    Raises:
        ConfigError: torch finds no such device.
    """
    there: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, MPS: torch.backends.mps.is_available}
    if wanted in there and not there[wanted]():
        what = "an Apple GPU" if wanted == MPS else "a GPU of NVIDIA or AMD"
        raise ConfigError(
            f"device {wanted} needs {what}, and torch {torch.__version__} finds none on this machine; leave out "
            "--device"
        )
    return default_device() if wanted == "auto" else wanted


def ranking_device(device: torch.device) -> torch.device:
    """Return the device on which embeddings are ranked: the scorer's own if it has float64, which sums odds."""
    return torch.device("cpu") if device.type == MPS else device


def device_kind(device: str) -> str:
    """Return what decides the last bits on this machine: kind of device and version of torch."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    if device == MPS:
        return f"mps {platform.machine()} macOS {platform.mac_ver()[0]}, torch {torch.__version__}"
    return f"cpu {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


@contextmanager
def naming_operators(device: str) -> Iterator[None]:
    """Turn the error of an operator that `mps` does not have into a clear message.

    Raises:
        ConfigError: an operator is missing.
    """
    try:
        yield
    except (NotImplementedError, TypeError, RuntimeError) as error:
        text = str(error)
        if device != MPS or "MPS" not in text or not (_OPERATOR.search(text) or "float64" in text):
            raise
        found = _OPERATOR.search(text)
        what = f"operator {found[0]}" if found else "float64"
        raise ConfigError(
            f"device mps has no {what}, which this search needs. Set PYTORCH_ENABLE_MPS_FALLBACK=1, so that torch "
            "computes it on the CPU, or leave out --device mps"
        ) from error
