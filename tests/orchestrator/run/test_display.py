"""The time left follows what masks are predicted to cost, not how many there are."""

import numpy as np
import pytest

from orchestrator.run.display import summary
from orchestrator.screen.waiting import speed
from orchestrator.search import progress as search
from orchestrator.search.progress import Progress
from orchestrator.settings.budget import Budget
from strategies import Scales


@pytest.fixture
def at(monkeypatch):
    """Makes a progress 10 seconds after its start."""

    def make(budget, **state):
        monkeypatch.setattr(search.time, "monotonic", lambda: 110.0)
        return Progress(budget, started=100.0, **state)

    return make


def test_what_was_asked_and_what_was_not_is_counted_at_its_cost(at):
    progress = at(Budget(100), num_asked=50, cost_asked=20.0, cost_done=10.0)
    assert progress.seconds_left == pytest.approx(10 + 20)


def test_masks_from_the_storage_cost_nothing(at):
    progress = at(Budget(50), num_asked=50, served=40, cost_asked=20.0, cost_done=10.0)
    assert progress.seconds_left == pytest.approx(10)


def test_a_budget_in_seconds_ends_it_earlier(at):
    progress = at(Budget(100, seconds=25), num_asked=50, cost_asked=20.0, cost_done=10.0)
    assert progress.seconds_left == pytest.approx(15)


def test_a_budget_in_image_forwards_ends_it_earlier(at):
    budget = Budget(100, image_forwards=32)
    progress = at(budget, num_asked=50, cost_asked=20.0, cost_done=10.0, image_forwards=25.0)
    assert progress.seconds_left == pytest.approx(10 + 7)


def test_a_search_that_stops_has_only_what_is_out_left(at):
    progress = at(Budget(100), num_asked=50, cost_asked=20.0, cost_done=10.0, stopped_by="patience")
    assert progress.seconds_left == pytest.approx(10)


def test_nothing_is_said_before_the_first_result(at):
    assert at(Budget(100), num_asked=50, cost_asked=20.0).seconds_left is None


def test_the_summary_says_how_well_masks_are_predicted(at):
    assert "surrogate" not in summary(at(Budget(100)), "2 replicas")
    assert "surrogate 0.93, 2 replicas" in summary(at(Budget(100), rank_correlation=0.931), "2 replicas")


def test_the_summary_says_how_far_scales_are_trained(at):
    class Slopes:
        num_batches, masks_per_step = 1, 1.0

        def __call__(self, batch, scales_F):
            return 0.25, np.ones_like(scales_F)

    scales = Scales(Slopes(), 3)
    assert "scales" not in summary(at(Budget(100), scales=scales), "2 replicas")
    scales.advance(2)
    assert "scales 2 steps, loss 0.250, 2 replicas" in summary(at(Budget(100), scales=scales), "2 replicas")


@pytest.mark.parametrize(
    ("masks_per_s", "expected"),
    [(312.44, "312.4 masks/s"), (1.0, "1.0 masks/s"), (0.04, "2.4 masks/min"), (0.002, "7.2 masks/h")],
)
def test_a_slow_search_has_a_speed_too(masks_per_s, expected):
    assert speed(masks_per_s) == expected
