"""Free memory of this machine and of its devices."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_GROUP = Path("/sys/fs/cgroup")


def free_device_bytes(device: str) -> int | None:
    """Return the free memory of a GPU in bytes; None for a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else None


def free_host_bytes() -> int:
    """Return the memory in bytes that this machine, or the container that this process runs in, can still give."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        # Not Linux: what there is at all.
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit, used = ((_GROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
