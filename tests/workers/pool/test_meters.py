"""What a pool reports to Ray's metrics. Whether they are exported is up to the cluster: `ray[default]` does it."""

from types import SimpleNamespace

import pytest
from ray.util import metrics

from workers.pool import meters


@pytest.fixture
def reported(monkeypatch):
    """The values of all metrics by name, as somebody who scrapes them would see them."""
    values = {}

    class Counter:
        def __init__(self, name, description):
            self.name = name

        def inc(self, value):
            assert value > 0
            values[self.name] = values.get(self.name, 0) + value

    class Gauge(Counter):
        def set(self, value):
            values[self.name] = value

    monkeypatch.setattr(metrics, "Counter", Counter)
    monkeypatch.setattr(metrics, "Gauge", Gauge)
    return values


def test_masks_speed_queue_and_losses_are_reported_about_once_a_second(reported, monkeypatch):
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(meters.time, "monotonic", lambda: now.s)
    pool, fleet = meters.Meters(), SimpleNamespace(num_lost=1, members=[1, 2])
    pool.count(5)
    pool.update(30, fleet)
    assert reported == {}
    now.s = 2.0
    pool.update(30, fleet)
    assert reported == {
        "headmask_masks": 5,
        "headmask_masks_per_second": 2.5,
        "headmask_masks_queued": 30,
        "headmask_replicas": 2,
        "headmask_replicas_lost": 1,
    }
    pool.count(3)
    fleet.num_lost = 4
    now.s = 4.0
    pool.update(0, fleet)
    assert (reported["headmask_masks"], reported["headmask_masks_per_second"]) == (8, 1.5)
    assert (reported["headmask_masks_queued"], reported["headmask_replicas_lost"]) == (0, 4)


def test_rays_own_metrics_take_what_is_reported(monkeypatch):
    monkeypatch.setattr(meters, "EVERY_S", 0.0)
    pool = meters.Meters()
    pool.count(2)
    pool.update(1, SimpleNamespace(num_lost=1, members=[]))
