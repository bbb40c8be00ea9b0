"""Searches in processes of their own, that can be disturbed from outside, and what an undisturbed one leaves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from tests.orchestrator.studies import outcome, trials

HEADMASK = "from orchestrator.cli import main; main()"
MAX_S = 900.0
"""Seconds after which a search counts as hung."""
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[2]),
}


class NotSurvived(AssertionError):
    """What a disturbed search left is not what an undisturbed one leaves."""


@dataclass
class Driver:
    """A running `headmask`."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = MAX_S) -> int:
        """Return the exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NotSurvived(f"no end after {timeout_s:.0f} s:\n{self.said[-3000:]}") from None

    def wait_until_said(self, text: str) -> bool:
        """Wait until something is printed; return whether it was."""
        while self.is_running and text not in self.said:
            time.sleep(0.05)
        return text in self.said

    def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than the search runs."""
        end = time.monotonic() + seconds
        while self.is_running and time.monotonic() < end:
            time.sleep(0.05)

    def children(self) -> list[psutil.Process]:
        """Return all processes that it has started, and those that they have."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def replicas(self) -> list[psutil.Process]:
        """Return the processes of its replicas."""
        return [child for child in self.children() if is_replica(child)]


def is_replica(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::Host")
    except psutil.Error:
        return False


@dataclass
class Arena:
    """A search, to be run and disturbed in many ways.

    Args:
        folder: of all runs.
        flags: of `headmask search`, but for the run folder and the pool.
        seed: of all chance.
    """

    folder: Path
    flags: Sequence[str]
    seed: int = 0
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rng = random.Random(self.seed)

    def search(self, name: str, *more: str, pool: str = "ray", program: Sequence[str] = ("-c", HEADMASK)) -> Driver:
        """Start a search in a run folder of that name."""
        out = ["--out", str(self.folder / name), "--pool", pool]
        out += ["--replicas", "2"] if pool == "ray" and "--address" not in more else []
        return self._start(name, [*program, "search", *self.flags, *out, *more])

    def resume(self, name: str, *more: str) -> Driver:
        """Resume the search of a run folder."""
        return self._start(name, ["-c", HEADMASK, "resume", str(self.folder / name), *more])

    def _start(self, name: str, arguments: list[str]) -> Driver:
        log = self.folder / f"{name}.log"
        cache = {"HEADMASK_CACHE": str(self.folder / "cache")}
        # A pipe, because a disk that is full for the search must not be full for what it says.
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT, **cache},
            cwd=self.folder,
            start_new_session=True,
        )
        subprocess.Popen(["tee", "-a", str(log)], stdin=process.stdout, stdout=subprocess.DEVNULL)
        log.touch()
        return Driver(process, log)

    @cached_property
    def undisturbed(self) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
        """What a search leaves that nothing disturbs, in one process, and how long one takes with replicas."""
        self.finish(self.search("undisturbed", pool="inline"))
        started = time.monotonic()
        self.finish(self.search("timed"))
        return *self.left("undisturbed"), time.monotonic() - started

    @property
    def seconds(self) -> float:
        """How long a search takes."""
        return self.undisturbed[2]

    def finish(self, driver: Driver, code: int = 0) -> None:
        """Wait for the end, and check the exit code."""
        if (found := driver.wait()) != code:
            raise NotSurvived(f"exit code {found} instead of {code}:\n{driver.said[-3000:]}")

    def left(self, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the trial table and the result of a run folder."""
        return trials(self.folder / name), outcome(self.folder / name)

    def check(self, name: str) -> None:
        """Check that a run left what an undisturbed one leaves."""
        for what, found, expected in zip(("trials", "result"), self.left(name), self.undisturbed, strict=False):
            if found != expected:
                raise NotSurvived(f"{name}: {what} differ from those of the undisturbed search")

    def moment(self, start: float = 0.25, stop: float = 0.9) -> float:
        """Return a random moment of a search, in seconds."""
        return self.rng.uniform(start, stop) * self.seconds


@contextmanager
def limited(process: psutil.Process, resource: int, limit: int) -> Iterator[None]:
    """Lower a limit of a running process for a while."""
    before = process.rlimit(resource)
    process.rlimit(resource, (limit, before[1]))
    try:
        yield
    finally:
        if process.is_running():
            process.rlimit(resource, before)
