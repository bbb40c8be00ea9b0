"""Threads that run a little ahead of the consumer of their results."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def ahead(
    function: Callable[[T], U], items: Iterable[T], *, threads: int | None = None, per_thread: int = 4
) -> Iterator[U]:
    """Yield a function's results in the order of its arguments, computed by threads that run a little ahead.

    Args:
        function: called in the threads.
        items: its arguments.
        threads: number of threads; one per core when None.
        per_thread: maximum number of results that wait to be taken, for each thread.
    """
    workers = threads or os.cpu_count() or 1
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
