"""The best masks of synthetic landscapes against brute force, and the recipe of their making."""

from itertools import product

import numpy as np
import pytest

from benchmarks.strategies.synthetic import make_synthetic
from headmask.mask import HeadGrid, HeadMask

GRID = HeadGrid(12, 12)


@pytest.mark.parametrize("kind", ["pairwise", "cliff"])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_mask_is_that_of_brute_force(kind, seed):
    grid = HeadGrid(3, 4)
    small = make_synthetic(kind, grid, seed, num_helpful=6, num_neutral=4, cliff=3)
    assert len(small.pairs_P2)
    masks = [HeadMask.from_bools(np.array(bits).reshape(3, 4)) for bits in product((False, True), repeat=12)]
    assert small(small.best) == max(small.values(masks)) > small(HeadMask.empty(grid))


def test_the_cliff_matters():
    pairwise, cliff = (make_synthetic(kind, GRID, 3) for kind in ("pairwise", "cliff"))
    assert len(cliff.best) < len(pairwise.best)
    assert pairwise(cliff.best) < pairwise(pairwise.best)
    assert cliff.change(pairwise.best) == pytest.approx(
        pairwise.change(pairwise.best) - (len(pairwise.best) - 14) ** 1.5
    )


def test_landscapes_are_made_by_the_recipe():
    made = [make_synthetic("pairwise", GRID, seed) for seed in range(30)]
    interacting = [set(each.pairs_P2.ravel()) for each in made]
    assert max(map(len, interacting)) <= 36
    rates = [len(each.pairs_P2) / (36 * 35 / 2) for each in made]
    assert np.mean(rates) == pytest.approx(0.12, abs=0.01)
    assert np.std(np.concatenate([each.pair_gains_P for each in made])) == pytest.approx(0.25, abs=0.02)
    assert np.mean([(each.gains_B > 0).sum() for each in made]) == pytest.approx(16.4, abs=1)


def test_values_are_shares_of_the_queries():
    landscape = make_synthetic("pairwise", GRID, 0)
    for mask in HeadMask.singles(GRID):
        in_queries = landscape(mask) * 25_010
        assert in_queries == pytest.approx(round(in_queries), abs=1e-6)
        assert landscape(mask) == pytest.approx(0.5 + landscape.change(mask) / 100, abs=0.5 / 25_010 + 1e-12)


def test_a_larger_grid_has_as_many_heads_that_help():
    large = make_synthetic("pairwise", HeadGrid(24, 16), 0)
    assert len(large.gains_B) == 384
    assert (large.gains_B > -0.2).sum() < 200
    assert 0 < (large.gains_B > 0).sum() <= 18
