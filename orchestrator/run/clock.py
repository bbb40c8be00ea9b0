"""How long a study takes."""

from __future__ import annotations

import time

from orchestrator.study.store import StudyStore


class Clock:
    """Total time of a study over all runs of the driver; stored in the study, so that a kill loses little of it."""

    ATTR, EVERY_S = "seconds", 30.0

    def __init__(self, store: StudyStore) -> None:
        self._store, self._before_s = store, float(store.attr(self.ATTR) or 0.0)
        self._started_s = self._kept_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of all runs so far."""
        return self._before_s + time.monotonic() - self._started_s

    def keep(self) -> None:
        """Write the time to the study."""
        self._kept_s = time.monotonic()
        self._store.set_attr(self.ATTR, round(self.seconds, 3))

    def keep_now_and_then(self) -> None:
        """Write the time to the study if the last write was half a minute ago."""
        if time.monotonic() - self._kept_s >= self.EVERY_S:
            self.keep()
