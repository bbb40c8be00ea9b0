"""SIGINT and SIGTERM as a flag, which work checks between two steps."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from orchestrator.search.scoring import Interrupted


class StopFlag:
    """Set by SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self._set = False

    def set(self, *_: object) -> None:
        """Ask for an orderly end; a second signal ends at once."""
        if self._set:
            raise KeyboardInterrupt
        self._set = True

    def is_set(self) -> bool:
        """Return whether the search has been asked to stop."""
        return self._set

    def check(self) -> None:
        """Check that work goes on.

        Raises:
            Interrupted: it was asked to stop.
        """
        if self._set:
            raise Interrupted


@contextlib.contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Yield a flag that SIGINT and SIGTERM set; the earlier handlers are restored on leaving."""
    flag = StopFlag()
    try:
        previous = {number: signal.signal(number, flag.set) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # Not the main thread: whoever runs us there handles signals.
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
