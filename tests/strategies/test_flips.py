"""Flips of the best mask: what single ones gained nearby, and those that gained put together."""

import numpy as np
import pytest

from headmask.mask import HeadGrid
from strategies import Limits
from strategies.flips import CLOSE, flip_gains, flipped_together
from strategies.history import History

# T trials, F free heads

GRID = HeadGrid(4, 8)
NUM_HEADS = 32


def history(masks, values):
    """Return what is known of masks, given by their heads."""
    bits_TF = np.zeros((len(masks), NUM_HEADS), dtype=bool)
    for row_F, heads in zip(bits_TF, masks, strict=True):
        row_F[list(heads)] = True
    return History(GRID, Limits(), bits_TF, np.array(values, dtype=float), set())


def gains(masks, values):
    """Return what is known of flips of the best mask, by head."""
    found_F = flip_gains(history(masks, values))
    return {head: pytest.approx(found_F[head]) for head in np.flatnonzero(np.isfinite(found_F))}


def test_a_flip_gains_what_separates_two_masks_that_differ_in_one_head():
    masks = [{0, 1, 2}, {0, 1, 2, 3}, {0, 1}, {0, 1, 4, 5}]
    assert gains(masks, [0.5, 0.4, 0.3, 0.1]) == {3: -0.1, 2: -0.2}


def test_what_gained_elsewhere_gains_here_too():
    """The best mask has neither 3 nor 4; of two masks without 9, that with 3 is better."""
    masks = [{0, 1, 9}, {0, 1}, {0, 1, 3}, {0, 1, 4}]
    assert gains(masks, [0.9, 0.5, 0.6, 0.3]) == {9: -0.4, 3: 0.1, 4: -0.2}


def test_of_two_pairs_the_one_closer_to_the_best_mask_counts():
    near, far = [{0, 1, 2}, {0, 1, 2, 3}], [{9, 10}, {9, 10, 3}]
    assert gains([{0, 1}, *near, *far], [0.9, 0.5, 0.6, 0.8, 0.1])[3] == 0.1
    assert gains([{0, 1}, *far, *near], [0.9, 0.8, 0.1, 0.5, 0.6])[3] == 0.1


def test_flips_far_from_the_best_mask_tell_nothing():
    far = set(range(10, 10 + CLOSE))
    assert 3 in gains([set(), far, far | {3}], [0.9, 0.5, 0.6])
    assert gains([{0}, far, far | {3}], [0.9, 0.5, 0.6]) == {}


def test_failures_tell_nothing():
    assert gains([{0, 1}, {0, 1, 2}, {0}], [0.5, np.nan, 0.4]) == {1: -0.1}


def test_heads_that_gained_are_flipped_together_best_first():
    """2 and 1 are there; with 9 in the mask, adding 3 and 4 and taking 1 out gained, adding 5 lost."""
    masks = [{1, 2, 9}, {1, 2}, {1, 2, 3}, {1, 2, 4}, {2}, {1, 2, 5}]
    known = history(masks, [0.9, 0.5, 0.6, 0.8, 0.7, 0.4])
    found = [set(np.flatnonzero(row_F).tolist()) for row_F in flipped_together(known, 8, np.random.default_rng(0))]
    assert found[:2] == [{2, 9, 3, 4}, {1, 2, 9, 4} - {1}]
    assert all(each - {1, 2, 9} <= {3, 4} and {2, 9} <= each for each in found)
    assert len(found) == 2 + 8


@pytest.mark.parametrize("values", [[0.9, 0.5, 0.4, 0.3], [0.9, 0.5, 0.6, 0.3]], ids=["none", "one"])
def test_fewer_than_two_that_gained_are_not_put_together(values):
    known = history([{1, 2, 9}, {1, 2}, {1, 2, 3}, {1, 2, 4}], values)
    assert not len(flipped_together(known, 8, np.random.default_rng(0)))
