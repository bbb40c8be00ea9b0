"""A Ray cluster, started on this machine or joined, and the number of replicas that fit."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from headmask.border.libraries import reread_settings
from headmask.border.names import check_python_path, hiding
from headmask.border.shown import counted, shown
from headmask.errors import PoolError, ReplicasLostError
from workers.pool.watch import Watch, watch

REASON = 400
"""Maximum number of characters shown of an error."""
CONNECT_S = 10.0
"""Seconds that a cluster may take to answer at its address."""
JOIN_S = 60.0
"""Seconds that joining a cluster may take once it answers."""
_HOST = re.compile(r"[\w.-]+|\[[0-9a-fA-F:.]+\]")


Node = Mapping[str, Any]
"""A node as `ray.nodes()` describes it."""


@dataclass(frozen=True)
class Resources:
    """Resources of a node that one replica needs."""

    cpus: int = 1
    gpus: float = 0

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


@dataclass(frozen=True)
class Connection:
    """A cluster that this process has started or joined."""

    ray: Any
    """The module, connected."""
    is_own: bool
    """Whether this process started the cluster."""
    watch: Watch

    def close(self) -> None:
        """Stop watching, and leave the cluster if it is this process's own, or has died."""
        self.watch.close()
        # Another search on a dead one would fail.
        if self.is_own or self.watch.reason is not None:
            self.ray.shutdown()


def connect(address: str | None, on_stuck: Callable[[str], None] | None = None) -> Connection:
    """Start Ray on this machine, or join a cluster.

    Args:
        address: address of a cluster to join; None starts Ray on this machine.
        on_stuck: see `Watch`; called, too, when Ray keeps trying to join a cluster.

    Raises:
        PoolError: the address is not valid, or what listens there is not a cluster.
        ReplicasLostError: Ray cannot be started, or the cluster cannot be joined.
    """
    ray = _imported()
    if ray.is_initialized():
        return Connection(ray, False, watch(ray, False, on_stuck))
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        # A token of this run's own: a saved one would silently turn authentication on for other clusters here.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        reread_settings(ray)
    if address is None:
        check_python_path()
    _silence(ray)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "namespace": "headmask"}
    # A client's workers never have the folder.
    if hiding([os.curdir]) and not (address or "").startswith("ray://"):
        options["job_config"] = config = ray.job_config.JobConfig()
        config._py_driver_sys_path = _Harmless()
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **options)
        else:
            check_address(address)
            check_answers(address)
            with _given_up(address, on_stuck):
                ray.init(address=address, **options)
    except PoolError:
        raise
    # Ray raises ConnectionError, ValueError, RuntimeError and its own kinds for an address that it cannot join.
    except Exception as error:
        what = "start Ray" if address is None else f"join Ray at {shown(address)}"
        raise ReplicasLostError(f"cannot {what}: {reason_of(error)}") from None
    return Connection(ray, address is None, watch(ray, address is None, on_stuck))


class _Harmless(list[str]):
    """Folders of the driver that Ray makes its workers look into first, without those that hide our packages."""

    def extend(self, folders: Iterable[str]) -> None:
        super().extend(folder for folder in folders if not hiding([folder]))


def _imported() -> Any:
    """Return the ray module, imported with the environment variables that it reads at import."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray


def _silence(ray: Any) -> None:
    """Keep Ray from printing messages of its control plane, such as twenty lines of the log of a dead one."""
    # Not an option of Ray's; `log_to_driver` is for what workers print.
    with contextlib.suppress(AttributeError):
        ray._private.worker.print_to_stdstream = lambda *_, **__: None


@contextmanager
def _given_up(address: str, on_stuck: Callable[[str], None] | None) -> Iterator[None]:
    """End the process if Ray tries to join for too long: it would try for minutes, and then end the process itself."""
    key = "RAY_BACKEND_LOG_LEVEL"
    before = os.environ.get(key)
    os.environ[key] = before or "error"
    why = f"cannot join Ray at {shown(address)}: no cluster answers there within {JOIN_S:.0f} s"
    timer = threading.Timer(JOIN_S, on_stuck or (lambda _: None), [why])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if before is None:
            del os.environ[key]


def check_address(address: str) -> None:
    """Check that an address can be that of a cluster.

    Raises:
        PoolError: it cannot.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 1 << 16
    is_host = _HOST.fullmatch(host) is not None
    if address != "auto" and not (colon and is_port and is_host):
        raise PoolError(
            f"the address of a Ray cluster must be auto, HOST:PORT, or ray://HOST:PORT with the port of its client "
            f"server; got {shown(repr(address))}"
        )


def check_answers(address: str) -> None:
    """Check that a Ray service listens at an address: Ray itself would try for many minutes.

    Raises:
        PoolError: there is no such host, or something else listens there.
        ReplicasLostError: nothing listens there.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S) as connection:
            is_rpc = os.environ.get("RAY_USE_TLS", "0") != "0" or _speaks_http2(connection)
    except socket.gaierror as error:
        raise PoolError(
            f"cannot join Ray at {shown(address)}: {error.strerror or reason_of(error)}. Check the name"
        ) from None
    except OSError as error:
        raise ReplicasLostError(
            f"cannot join Ray at {shown(address)}: {error.strerror or reason_of(error)}. "
            "Check the address, or wait for the cluster"
        ) from None
    if not is_rpc:
        raise PoolError(f"cannot join Ray at {shown(address)}: what listens there is not a Ray cluster. Check the port")


def _speaks_http2(connection: socket.socket) -> bool:
    """Return whether a server answers as gRPC servers do, with a frame of settings."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    answer = b""
    try:
        while len(answer) < 9 and (more := connection.recv(9 - len(answer))):
            answer += more
    except OSError:
        return False
    return len(answer) == 9 and answer[3] == 4


def local_nodes() -> list[Node]:
    """Return this machine as the node that Ray will see, or the nodes of a cluster that has been joined."""
    ray = _imported()
    if ray.is_initialized():
        found: list[Node] = ray.nodes()
        return found
    from ray._private.accelerators import get_accelerator_manager_for_resource
    from ray._private.utils import get_num_cpus

    manager = get_accelerator_manager_for_resource("GPU")
    gpus, visible = manager.get_current_node_num_accelerators(), manager.get_current_process_visible_accelerator_ids()
    count = gpus if visible is None else min(gpus, len(visible))
    return [{"Alive": True, "Resources": {"CPU": get_num_cpus(), "GPU": count}}]


def check_pool(
    address: str | None, replicas: int | None, threads: int, gpus_per_replica: float | None, shards: int | None
) -> None:
    """Check, before anything is loaded, that the requested replicas are possible, here or on a cluster.

    Args:
        address: address of a cluster to join; None for this machine.
        replicas: number of replicas; None for as many as fit.
        threads: CPU threads of each.
        gpus_per_replica: see `RayPool`.
        shards: shards of a group; None for whatever is predicted to be faster.

    Raises:
        HeadmaskError: they are not, or PYTHONPATH hides our packages from them.
        ReplicasLostError: the cluster does not answer.
    """
    if address is not None:
        check_address(address)
        check_answers(address)
        return
    check_python_path()
    nodes = local_nodes()
    need = need_of(nodes, threads, gpus_per_replica)
    check_room(need, room_for(nodes, need), max(replicas or 1, shards or 1))


def need_of(nodes: Sequence[Node], threads: int, gpus_per_replica: float | None = None) -> Resources:
    """Return the resources of a replica: a GPU, or the requested part of one, if there are any, otherwise CPUs."""
    if gpus_per_replica is None:
        gpus_per_replica = 1 if any(_resource(node, "GPU") for node in nodes) else 0
    return Resources(1 if gpus_per_replica else threads, gpus_per_replica)


def room_for(nodes: Sequence[Node], need: Resources) -> int:
    """Return the number of replicas that fit on the live nodes; each has to fit on one node."""
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
            f"no replica can be placed: each needs {need}, and no node has as much. Use "
            + ("--gpus-per-replica 0, or machines with GPUs" if need.gpus else "fewer --threads")
        )
    if replicas is not None and replicas > room:
        raise PoolError(
            f"{counted(replicas, 'replica')} cannot be placed: each needs {need}, which fits {counted(room, 'time')}. "
            f"Ask for {room}"
        )


def describe(resources: dict[str, float]) -> str:
    """Return resources as text."""
    return f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"


def reason_of(error: Exception) -> str:
    """Return the last line of a Ray error, which names the cause, without its general advice."""
    if "AF_UNIX path length" in str(error):
        return (
            "the folder for its sockets has a path that is too long, as job systems such as SLURM give it in TMPDIR; "
            "set RAY_TMPDIR to a short one, such as /tmp"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split(" Some common causes")[0][:REASON] if lines else type(error).__name__
