"""The processes that measure, and the files that they work on."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.pools import Shift

T = TypeVar("T")


@dataclass(frozen=True)
class Bench:
    """Processes, and the files that their searches work on."""

    executor: ProcessPoolExecutor
    scratch: Path
    """Folder that is thrown away in the end."""
    model: Path
    """Folder of the model, which is the demo's or one like it."""
    shift: Shift = "none"
    """What happens to every image that refinements of masks are measured on."""
    galleries: int = 1
    """How many times as many test scenes a planting is judged on as other data sets have."""

    def each(self, what: str, function: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> list[T]:
        """Return a function's results in the order of its arguments, saying how far it is.

        Args:
            what: is being done.
            function: called with a folder, which is its process's own, before its arguments.
            arguments: of every call.
        """
        started = time.monotonic()
        futures = [self.executor.submit(_in_own_folder, function, self.scratch, *each) for each in arguments]
        for number, future in enumerate(as_completed(futures), 1):
            future.result()
            print(f"{what}: {number}/{len(futures)}, {time.monotonic() - started:.0f} s", flush=True)
        return [future.result() for future in futures]


def _in_own_folder(function: Callable[..., T], scratch: Path, *arguments: Any) -> T:
    """Return a function's result, given a folder of this process: a tracking database has one writer."""
    folder = scratch / f"process{os.getpid()}"
    folder.mkdir(exist_ok=True)
    return function(folder, *arguments)


def processes(scratch: Path, count: int) -> ProcessPoolExecutor:
    """Return processes of one thread each, with a pixel cache of their own."""
    os.environ.update(HEADMASK_CACHE=str(scratch / "cache"), MLFLOW_DISABLE_TELEMETRY="true", OMP_NUM_THREADS="1")
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
