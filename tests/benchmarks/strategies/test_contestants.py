"""What every contestant keeps to: its budget of distinct masks, its seed."""

import contextlib
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.strategies.contestants import contestants
from benchmarks.strategies.meter import Budget, BudgetSpent, Meter
from benchmarks.strategies.synthetic import make_synthetic
from headmask.errors import ConfigError
from headmask.mask import HeadGrid, HeadMask

GRID = HeadGrid(4, 4)


class Slopes:
    """Gradients of a synthetic landscape's single changes, on micro-batches that are all alike."""

    num_batches, masks_per_step = 2, 0.4

    def __call__(self, batch, scales_F):
        slopes_F = SYNTHETIC.gains_B
        return float((scales_F - 1) @ slopes_F), slopes_F


SYNTHETIC = make_synthetic("pairwise", GRID, 0, num_helpful=4, num_neutral=4)
LANDSCAPE = replace(SYNTHETIC, gradients=Slopes())
# Greedy search ends where nothing gains; CMA-ES converges, and how soon depends on the processor's last bits.
# Importance ends with all heads ablated.
ENDS = {"importance": 16, "greedy-top-k": 25, "greedy-forward-backward": 25, "cma-es": 25}
"""Contestants whose plans end, with a number of masks that they exceed."""

everyone = pytest.mark.parametrize("name", list(contestants()))


def metered(name, budget, seed=0):
    meter = Meter(LANDSCAPE, budget)
    with contextlib.suppress(BudgetSpent):
        contestants()[name](meter, seed)
    return meter


def evaluated(name, seed=0, budget=60):
    return metered(name, Budget(budget), seed).best_so_far


@everyone
def test_exactly_the_budget_of_distinct_masks_is_evaluated(name):
    assert len(evaluated(name, budget=5)) == 5
    count = len(evaluated(name))
    assert ENDS[name] < count <= 60 if name in ENDS else count == 60


@everyone
def test_a_seed_decides_a_run(name):
    assert evaluated(name, seed=1) == evaluated(name, seed=1)


def test_importance_ablates_the_heads_in_the_order_of_one_backward_pass():
    meter, asked = Meter(LANDSCAPE, Budget(60)), []
    values = meter.values
    meter.values = lambda masks: (asked.extend(masks), values(masks))[1]
    contestants()["importance"](meter, 0)
    heads, ranked = list(GRID), np.argsort(-SYNTHETIC.gains_B, kind="stable")
    assert asked == [HeadMask.from_heads(GRID, [heads[at] for at in ranked[:size]]) for size in range(17)]


@pytest.mark.parametrize("name", ["genetic", "hill-climb", "pymoo-ga"])
def test_the_best_mask_is_found_at_last(name):
    assert evaluated(name, budget=3_000)[-1] == LANDSCAPE(LANDSCAPE.best)


def test_masks_seen_before_are_free():
    meter = Meter(LANDSCAPE, Budget(2))
    first, second, third = HeadMask.singles(GRID)[:3]
    assert meter.values([first, second, first]) == LANDSCAPE.values([first, second, first])
    assert meter(second) == LANDSCAPE(second)
    with pytest.raises(BudgetSpent, match="all 2 masks"):
        meter(third)
    assert meter.best_so_far == [LANDSCAPE(first), max(LANDSCAPE(first), LANDSCAPE(second))]


def test_what_is_left_of_the_budget_is_used():
    meter = Meter(LANDSCAPE, Budget(3))
    with pytest.raises(BudgetSpent, match="all 3 masks"):
        meter.values(HeadMask.singles(GRID))
    assert len(meter.best_so_far) == 3


def test_training_counts_as_the_masks_that_it_costs():
    meter = Meter(LANDSCAPE, Budget(3))
    value = meter(HeadMask.empty(GRID))
    scales_F = np.ones(16)
    for step, num_spent in enumerate((1, 1, 2, 2, 3), 1):
        meter.gradients(0, scales_F)
        assert len(meter.best_so_far) == num_spent, step
    assert meter.best_so_far == [value] * 3
    with pytest.raises(BudgetSpent, match="all 3 masks of the budget"):
        meter(HeadMask.singles(GRID)[1])
    meter.gradients(0, scales_F)
    meter.gradients(0, scales_F)
    with pytest.raises(BudgetSpent, match="or trained for"):
        meter.gradients(0, scales_F)


@everyone
def test_exactly_the_budget_of_image_forwards_is_spent(name):
    assert len(metered(name, Budget(5, "forwards")).best_so_far) == 5


def test_image_forwards_are_those_of_the_layers_that_masks_do_not_share():
    meter = Meter(LANDSCAPE, Budget(8, "forwards"))
    masks = HeadMask.singles(GRID)
    # Of 17 masks, the empty one and those of layer 3 share three of four layers, and so on: 4 + 4 (4 + 3 + 2 + 1).
    assert LANDSCAPE.cost(masks) == (4 + 4 * 10) / 4
    assert LANDSCAPE.cost(masks[:1]) == LANDSCAPE.cost(masks[:1] * 2) == 1
    with pytest.raises(BudgetSpent, match="all 8 forwards of the budget"):
        meter.values(masks)
    values = LANDSCAPE.values(masks)
    # Each of them takes 11/17, and 13 of them more than 8.
    assert meter.best_so_far == [max(values[: math.ceil(spent / (11 / 17))]) for spent in range(1, 9)]


def test_training_takes_image_forwards():
    meter = Meter(LANDSCAPE, Budget(2, "forwards"))
    meter(HeadMask.empty(GRID))
    meter.gradients(0, np.ones(16))
    with pytest.raises(BudgetSpent, match="all 2 forwards"):
        meter.values(HeadMask.singles(GRID)[1:3])
    assert len(meter.best_so_far) == 2


def test_a_round_holds_as_many_masks_as_it_is_wide():
    meter = Meter(LANDSCAPE, Budget(60, width=6))
    masks = HeadMask.singles(GRID)
    values = meter.values(masks)
    assert meter.best_by_round == [max(values[:stop]) for stop in (6, 12, 17)]
    meter.values(masks)
    assert len(meter.best_by_round) == 3
    meter.gradients(0, np.ones(16))
    meter(HeadMask.from_heads(GRID, list(GRID)[:2]))
    assert len(meter.best_by_round) == 4


# A generation of CMA-ES holds many masks that it had before.
@pytest.mark.parametrize("name", ["mixture", "random", "hill-climb", "optuna-tpe", "optuna-nsga2", "pymoo-ga"])
def test_rounds_are_filled(name):
    assert len(metered(name, Budget(60, width=20)).best_by_round) <= 6


def asked_in_rounds(last_value):
    """Return what the mixture asks for in rounds of 20 if the last mask of the fourth one has this value."""
    meter, rounds = Meter(LANDSCAPE, Budget(200, width=20)), []
    values = meter.values

    def spoilt(masks):
        rounds.append(masks)
        found = values(masks)
        return [*found[:-1], last_value] if len(rounds) == 4 else found

    meter.values = spoilt
    with contextlib.suppress(BudgetSpent):
        contestants()["mixture"](meter, 0)
    return rounds


def test_a_round_knows_no_result_of_its_own():
    bad, good = asked_in_rounds(0.0), asked_in_rounds(0.9)
    assert max(map(len, bad)) == 20
    assert bad[:4] == good[:4]
    assert bad[4:] != good[4:]


def test_rounds_of_one_mask_are_the_run_without_rounds():
    for name in ("genetic", "hill-climb", "optuna-nsga2", "pymoo-ga"):
        assert metered(name, Budget(60, width=1)).best_by_round == evaluated(name), name


def test_one_who_asks_for_hardly_anything_new_is_stopped():
    meter = Meter(LANDSCAPE, Budget(3))
    meter.values([HeadMask.empty(GRID)] * 15)
    with pytest.raises(BudgetSpent, match="16 masks were asked for, of which 1 were new"):
        meter(HeadMask.empty(GRID))


@pytest.mark.parametrize(("name", "package"), [("pymoo-ga", "pymoo"), ("cma-es", "cmaes")])
def test_a_missing_extra_is_named(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    monkeypatch.setitem(sys.modules, "pymoo.algorithms.soo.nonconvex.ga", None)
    with pytest.raises(ConfigError, match=rf"needs {package}, which is not installed: pip install '\.\[bench\]'"):
        contestants()[name](Meter(LANDSCAPE, Budget(60)), 0)
