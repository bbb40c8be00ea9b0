"""Metrics that a pool reports to Ray, for Prometheus and a cluster's dashboard."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.pool.fleet import Fleet

EVERY_S = 1.0


class Meters:
    """Masks scored, in total and per second, masks waiting, replicas alive and lost."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        self._masks = Counter("headmask_masks", "Masks scored")
        self._lost = Counter("headmask_replicas_lost", "Replicas lost")
        self._rate = Gauge("headmask_masks_per_second", "Masks scored per second")
        self._queue = Gauge("headmask_masks_queued", "Masks that wait for a replica")
        self._alive = Gauge("headmask_replicas", "Replicas that are up")
        self._num_masks = self._num_lost = 0
        self._reported, self._at = 0, time.monotonic()

    def count(self, masks: int) -> None:
        """Count scored masks."""
        self._num_masks += masks

    def update(self, num_queued: int, fleet: Fleet) -> None:
        """Report the metrics, about once a second."""
        now = time.monotonic()
        if now - self._at < EVERY_S:
            return
        new = self._num_masks - self._reported
        self._rate.set(new / (now - self._at))
        self._reported, self._at = self._num_masks, now
        if new:
            self._masks.inc(new)
        if fleet.num_lost > self._num_lost:
            self._lost.inc(fleet.num_lost - self._num_lost)
            self._num_lost = fleet.num_lost
        self._queue.set(num_queued)
        self._alive.set(len(fleet.members))
