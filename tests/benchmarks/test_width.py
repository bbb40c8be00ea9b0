"""`python -m benchmarks.width`: searches are gone through in virtual time."""

import numpy as np
import pytest

from benchmarks.width import by_masks, row, searched, seconds_to

MASKS = 200


@pytest.fixture(scope="module")
def ran():
    return {cell: searched(cell, MASKS) for cell in (("pairwise-144", 3, width) for width in (16, 96))}


def test_a_row_says_how_busy_replicas_are_and_when_good_masks_are_known(ran):
    one, many = (row(replicas, 0.87, MASKS, ran) for replicas in (1, 64))
    assert (one["width"], many["width"]) == (16, 96)
    assert one["busy_ideal"] == pytest.approx(1)
    assert many["busy_at_width_16"] < many["busy"] <= many["busy_ideal"] < 1
    assert {f"{what}{regret}" for what in ("seconds_to_", "speed_up_to_") for regret in (1.0, 0.5)} <= many.keys()


def test_regrets_are_compared_after_equal_numbers_of_masks(ran):
    regret_T = ran["pairwise-144", 3, 96][1]
    assert (len(regret_T), regret_T.min() >= 0) == (MASKS, True)
    assert by_masks(ran, MASKS)[0] == {"landscape": "pairwise-144", "seed": 3, "width": 16, "regret": {}}
    assert seconds_to(float(regret_T.min()), regret_T, np.arange(MASKS)) == int(regret_T.argmin())
    assert seconds_to(-1.0, regret_T, np.arange(MASKS)) is None
