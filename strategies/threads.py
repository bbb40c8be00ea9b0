"""Linear algebra on one thread: its last bits depend on the number of threads, and a resumed study gets the same."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy  # noqa: F401
import scipy.linalg  # noqa: F401
from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[Any]:
    """Return a block in which the libraries that numpy and scipy compute with use one thread; torch is left alone."""
    limit: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limit


@cache
def _libraries() -> ThreadpoolController:
    """Return the libraries that are loaded: looking for them takes 8 ms, and numpy and scipy have loaded theirs."""
    return ThreadpoolController()
