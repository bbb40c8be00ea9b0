"""Scales as values: what they are made of, how far they are from the model, what is refused."""

import numpy as np
import pytest

import headmask
from headmask.errors import GridError, HeadmaskError
from headmask.mask import Head, HeadGrid, HeadMask
from headmask.scales import HeadScales

GRID = HeadGrid(2, 3)


def test_a_mask_is_scales_of_0_and_1():
    mask = HeadMask.from_text(GRID, "L0H1,L1H2")
    scales = headmask.HeadScales.of(mask)
    assert scales.to_array().tolist() == [[1, 0, 1], [1, 1, 0]]
    assert (scales.is_mask, scales.ablated, scales.suppressed, scales.departure, len(scales)) == (
        True,
        mask,
        mask,
        2.0,
        2,
    )


def test_scales_know_what_they_change():
    scales = HeadScales.from_heads(GRID, {(0, 1): 0.25, (1, 0): 0.0, (1, 2): 1.5, (0, 0): 1.0})
    assert scales.heads == {Head(0, 1): 0.25, Head(1, 0): 0.0, Head(1, 2): 1.5}
    assert str(scales) == "L0H1=0.25,L1H0=0,L1H2=1.5"
    assert scales.departure == pytest.approx(0.75 + 1 + 0.5)
    assert (str(scales.ablated), str(scales.suppressed), scales.is_mask) == ("L1H0", "L0H1,L1H0", False)
    assert scales == HeadScales.from_array(scales.to_array())
    assert hash(scales) == hash(HeadScales.from_array(scales.to_array()))


def test_those_that_change_nothing_are_a_value_too():
    ones = HeadScales.ones(GRID)
    assert ones
    assert (len(ones), ones.departure, str(ones), ones.is_mask) == (0, 0.0, "", True)


def test_a_share_of_the_way_has_four_decimals():
    half = HeadScales.ones(GRID).toward(HeadScales.from_heads(GRID, {(0, 0): 0.33333, (1, 1): 3.0}), 0.5)
    assert half.heads == {Head(0, 0): 0.6667, Head(1, 1): 2.0}


@pytest.mark.parametrize("value", [-0.1, 3.01, np.nan, np.inf])
def test_a_scale_beyond_its_range_is_refused(value):
    with pytest.raises(HeadmaskError, match=r"a scale must be a number from 0 to 3; got .* for L1H2"):
        HeadScales.from_heads(GRID, {(1, 2): value})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeadScales.from_heads(GRID, {(2, 0): 0.5}), "L2H0 is not on grid 2x3"),
        (lambda: HeadScales.from_array([1.0, 2.0]), r"an array of scales is \(layers, heads\); got shape \(2,\)"),
        (lambda: HeadScales(GRID, ((1.0,) * 3,)), "scales on grid 2x3 need a value for each head"),
    ],
)
def test_another_shape_is_refused(make, message):
    with pytest.raises(GridError, match=message):
        make()
