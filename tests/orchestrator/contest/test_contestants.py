"""What every contestant keeps to: its budget of distinct masks, its seed."""

import contextlib

import pytest

from headmask.mask import HeadGrid, HeadMask
from orchestrator.contest.contestants import contestants
from orchestrator.contest.landscapes import make_synthetic
from orchestrator.contest.meter import BudgetSpent, Meter

GRID = HeadGrid(4, 4)
LANDSCAPE = make_synthetic("pairwise", GRID, 0, num_helpful=4, num_neutral=4)
ENDS = {"greedy top-k", "greedy forward-backward"}

everyone = pytest.mark.parametrize("name", list(contestants()))


def evaluated(name, seed=0, budget=60):
    meter = Meter(LANDSCAPE, budget)
    with contextlib.suppress(BudgetSpent):
        contestants()[name](meter, seed)
    return meter.best_so_far


@everyone
@pytest.mark.parametrize("budget", [5, 60])
def test_exactly_the_budget_of_distinct_masks_is_evaluated(name, budget):
    count = len(evaluated(name, budget=budget))
    assert 25 < count <= budget if name in ENDS and budget == 60 else count == budget


@everyone
def test_a_seed_decides_a_run(name):
    assert evaluated(name, seed=1) == evaluated(name, seed=1)


@everyone
def test_the_best_mask_is_found_at_last_by_those_who_go_on(name):
    best = evaluated(name, budget=3_000)[-1]
    assert LANDSCAPE(HeadMask.empty(GRID)) < best <= LANDSCAPE(LANDSCAPE.best)
    if name not in {*ENDS, "random"}:
        assert best == LANDSCAPE(LANDSCAPE.best)


def test_masks_seen_before_are_free():
    meter = Meter(LANDSCAPE, 2)
    first, second, third = HeadMask.singles(GRID)[:3]
    assert meter.values([first, second, first]) == LANDSCAPE.values([first, second, first])
    assert meter(second) == LANDSCAPE(second)
    with pytest.raises(BudgetSpent, match="all 2 masks"):
        meter(third)
    assert meter.best_so_far == [LANDSCAPE(first), max(LANDSCAPE(first), LANDSCAPE(second))]


def test_what_is_left_of_the_budget_is_used():
    meter = Meter(LANDSCAPE, 3)
    with pytest.raises(BudgetSpent, match="all 3 masks"):
        meter.values(HeadMask.singles(GRID))
    assert len(meter.best_so_far) == 3


def test_one_who_asks_for_nothing_new_any_more_is_stopped():
    meter = Meter(LANDSCAPE, 3)
    meter(HeadMask.empty(GRID))
    with pytest.raises(BudgetSpent, match="nothing new in 2,000 masks"):
        meter.values([HeadMask.empty(GRID)] * 2_002)
    assert len(meter.best_so_far) == 1
