"""Threads that run a little ahead of whoever takes their results."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def ahead(function: Callable[[T], U], items: Iterable[T], per_thread: int = 4) -> Iterator[U]:
    """Yield a function's results in the order of its arguments, computed by threads that run a little ahead."""
    workers = os.cpu_count() or 1
    waiting: deque[Future[U]] = deque()
    with ThreadPoolExecutor(workers) as executor:
        try:
            for item in items:
                waiting.append(executor.submit(function, item))
                if len(waiting) > per_thread * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
