"""What a driver depends on: Ray's processes on its machine, and the control plane of the cluster it joined.

When one of them dies, Ray ends the driver in the middle of a call, or lets it wait for ever. So they are watched here:
the pool is told at once, before it calls Ray again, and a driver that is inside a call is ended with a clear message.
Processes that Ray leaves behind on this machine are ended, too.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headmask.errors import ReplicasLostError

LOOK_S = 0.5
"""Seconds between two checks."""
STUCK_S = 10.0
"""Seconds that a call of Ray may go on after it cannot succeed any more. Ray itself ends the driver after 60."""
PROBE_S, PROBES = 5.0, 6
"""Seconds between two tries to reach a control plane on another machine, and tries in vain after which it is gone."""

_GUARD = """
import os, select, signal, sys
raylet, *agents = [os.pidfd_open(int(pid)) for pid in sys.argv[1:]]
poll = select.poll()
poll.register(raylet, select.POLLIN)
poll.poll()
for agent in agents:
    try:
        signal.pidfd_send_signal(agent, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
"""Ends the children of a raylet that has died: its agents would wait a minute for a control plane that died with it."""


@dataclass(frozen=True)
class Process:
    """A process of Ray's on this machine."""

    name: str
    pid: int


class Watch:
    """Notices when Ray cannot work any more.

    Args:
        processes: of this machine that must live.
        control: host and port of a control plane elsewhere; None if it is among the processes.
        on_stuck: called with the reason, on a thread, when a call of Ray's goes on although it cannot succeed; it ends
            the process. None for waiting.
    """

    def __init__(
        self,
        processes: list[Process],
        control: tuple[str, int] | None = None,
        on_stuck: Callable[[str], None] | None = None,
    ) -> None:
        self.reason: str | None = None
        """Why Ray cannot work any more; None while it can."""
        self._on_stuck, self._control = on_stuck, control
        self._call_since: float | None = None
        self._closing = threading.Event()
        self._names: dict[int, str] = {}
        for process in processes:
            # On other systems than Linux, nothing tells.
            with contextlib.suppress(OSError, AttributeError):
                descriptor = os.pidfd_open(process.pid)
                self._names[descriptor] = process.name
        self._thread = threading.Thread(target=self._run, name="headmask-watch", daemon=True)
        if self._names or control is not None:
            self._thread.start()

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Guard the calls of Ray in a block.

        Raises:
            ReplicasLostError: Ray cannot work any more.
        """
        self.check()
        outer, self._call_since = self._call_since, time.monotonic()
        try:
            yield
        finally:
            self._call_since = outer

    def check(self) -> None:
        """Check that Ray can work.

        Raises:
            ReplicasLostError: it cannot.
        """
        # Not by the thread's word alone, which may not have had its turn yet.
        if self.reason is None and not self._closing.is_set():
            self.reason = self._death(0.0)
        if self.reason is not None:
            raise ReplicasLostError(self.reason)

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()

    def _run(self) -> None:
        try:
            self._look()
            self._end_stuck()
        finally:
            for descriptor in self._names:
                os.close(descriptor)

    def _look(self) -> None:
        failed, probe_at = 0, time.monotonic()
        while self.reason is None:
            if self._closing.is_set():
                return
            if self._names:
                self.reason = self._death(LOOK_S)
            else:
                self._closing.wait(LOOK_S)
            if self._control is not None and time.monotonic() >= probe_at:
                failed = 0 if _answers(*self._control) else failed + 1
                probe_at = time.monotonic() + PROBE_S
                if failed == PROBES:
                    host, port = self._control
                    self.reason = f"Ray's control plane at {host}:{port} does not answer any more"

    def _end_stuck(self) -> None:
        """Wait until no call of Ray is running; end the process if one does not return."""
        died_at = time.monotonic()
        while not self._closing.wait(LOOK_S):
            since = self._call_since
            is_stuck = since is not None and time.monotonic() - max(since, died_at) > STUCK_S
            if is_stuck and self._on_stuck is not None and self.reason is not None:
                self._on_stuck(self.reason)
                return

    def _death(self, timeout_s: float) -> str | None:
        """Return which of the processes has died, if one does within a time."""
        # One object for each look: they may not be used by two threads at once.
        poll = select.poll()
        for descriptor in self._names:
            poll.register(descriptor, select.POLLIN)
        dead = poll.poll(1000 * timeout_s) if self._names else []
        return f"Ray's {self._names[dead[0][0]]} on this machine has died" if dead else None


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PROBE_S).close()
    except OSError:
        return False
    return True


def watch(ray: Any, owned: bool, on_stuck: Callable[[str], None] | None) -> Watch:
    """Return a watch over what a connected driver needs of Ray; an empty one if Ray does not tell.

    Args:
        ray: the module, connected.
        owned: whether this process started Ray.
        on_stuck: see `Watch`.
    """
    processes, control = _started(ray), None
    if not processes:
        processes, control = _joined(ray)
    if owned:
        for process in processes:
            if process.name == "raylet":
                _guard(process.pid)
    return Watch(processes, control, on_stuck)


def _started(ray: Any) -> list[Process]:
    """Return the processes that this driver has started."""
    # A private part of Ray's, and nothing depends on it but how a death is said.
    node = getattr(ray._private.worker, "_global_node", None)
    found = getattr(node, "all_processes", {})
    names = {"raylet": "raylet", "gcs_server": "control plane"}
    return [
        Process(name, info.process.pid)
        for kind, name in names.items()
        for info in found.get(kind, [])
        if info.process.poll() is None
    ]


def _joined(ray: Any) -> tuple[list[Process], tuple[str, int] | None]:
    """Return the raylet of this machine and the address of the control plane, for a cluster that was joined."""
    processes: list[Process] = []
    node = getattr(ray._private.worker, "_global_node", None)
    if (path := getattr(node, "raylet_socket_name", None)) and (pid := _peer(path)):
        processes = [Process("raylet", pid)]
    try:
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        return processes, (host.strip("[]"), int(port))
    # A client of a cluster elsewhere knows no such address; its connection tells of its end by itself.
    except Exception:
        return processes, None


def _peer(path: str) -> int:
    """Return the process that listens at a socket of this machine; 0 if that is unknown."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(path)
            pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return int(pid)
    except (OSError, AttributeError):
        return 0


def _guard(raylet: int) -> None:
    """Start a process that ends a raylet's agents as soon as it has died, as it does with its driver."""
    if agents := children(raylet):
        # The guard outlives its driver, also one that a signal to all processes of a terminal ends.
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, str(raylet), *map(str, agents)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        threading.Thread(target=guard.wait, name="headmask-guard", daemon=True).start()


def children(pid: int) -> list[int]:
    """Return the children of a process; empty if the system does not tell."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name is in brackets, and may have brackets and spaces itself.
            if int(status.read_text(errors="replace").rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found
