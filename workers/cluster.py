"""A cluster of Ray's: started on this machine or joined, and the replicas that it has room for."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headmask.errors import PoolError
from headmask.shown import counted

REASON = 400
"""Characters of an error that are shown at most."""
CONNECT_S = 10.0
"""Seconds that a cluster may take to answer at its address."""


Node = Mapping[str, Any]
"""A node as `ray.nodes()` describes it."""


@dataclass(frozen=True)
class Resources:
    """What one replica holds of a node."""

    cpus: int = 1
    gpus: float = 0

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def connect(address: str | None) -> tuple[Any, bool]:
    """Return the ray module, connected, and whether this process started the cluster.

    Raises:
        PoolError: Ray cannot be started or joined.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        # A token of this run's own: a saved one would silently turn authentication on for other clusters here.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if ray.is_initialized():
        return ray, False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "headmask"}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **options)
        else:
            _check_answers(address)
            ray.init(address=address, **options)
    # Ray raises ConnectionError, ValueError, RuntimeError and its own kinds for an address that it cannot join.
    except Exception as error:
        raise PoolError(
            f"cannot {'start Ray' if address is None else f'join Ray at {address}'}: {reason_of(error)}"
        ) from None
    return ray, address is None


def _check_answers(address: str) -> None:
    """Refuse an address at which nothing listens: Ray itself waits for many minutes there.

    Raises:
        OSError: no connection within a few seconds.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def need_of(nodes: Sequence[Node], threads: int, gpus_per_replica: float | None = None) -> Resources:
    """Return what a replica holds: a GPU, or the part of one that is asked for, where there are any, else CPUs."""
    if gpus_per_replica is None:
        gpus_per_replica = 1 if any(_resource(node, "GPU") for node in nodes) else 0
    return Resources(1 if gpus_per_replica else threads, gpus_per_replica)


def room_for(nodes: Sequence[Node], need: Resources) -> int:
    """Return how many replicas fit on the nodes that live; each has to fit on one node."""
    return sum(_room_on(node, need) for node in nodes if node["Alive"])


def _room_on(node: Node, need: Resources) -> int:
    by_cpu = int(_resource(node, "CPU") // need.cpus)
    if not need.gpus:
        return by_cpu
    # A part of a GPU is of one GPU.
    gpus = int(_resource(node, "GPU"))
    return min(by_cpu, int(gpus // need.gpus) if need.gpus >= 1 else gpus * int(1 // need.gpus))


def _resource(node: Node, name: str) -> float:
    return float(node.get("Resources", {}).get(name, 0))


def check_room(need: Resources, room: int, replicas: int | None) -> None:
    """Check that replicas can be placed.

    Raises:
        PoolError: they cannot.
    """
    if room < 1:
        raise PoolError(
            f"no replica can be placed: each needs {need}, and no node has as much. Use fewer --threads"
            + (" or --gpus-per-replica" if need.gpus else "")
        )
    if replicas is not None and replicas > room:
        raise PoolError(
            f"{counted(replicas, 'replica')} cannot be placed: each needs {need}, which fits {counted(room, 'time')}. "
            f"Ask for {room}"
        )


def describe(resources: dict[str, float]) -> str:
    """Return resources in words."""
    return f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"


def reason_of(error: Exception) -> str:
    """Return the last line that an error of Ray's says, which names the cause; without its general advice."""
    if "AF_UNIX path length" in str(error):
        return (
            "the folder for its sockets has a path that is too long, as job systems such as SLURM give it in TMPDIR; "
            "set RAY_TMPDIR to a short one, such as /tmp"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split(" Some common causes")[0][:REASON] if lines else type(error).__name__
