"""Masks: three equal spellings, immutable, and clear about what does not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmask.errors import GridError, HeadmaskError
from headmask.mask import Head, HeadGrid, HeadMask, bools_of

GRID = HeadGrid(3, 4)


@st.composite
def masks(draw, grid=None):
    grid = grid or HeadGrid(draw(st.integers(1, 32)), draw(st.integers(1, 53)))
    words = draw(st.lists(st.integers(0, (1 << grid.heads) - 1), min_size=grid.layers, max_size=grid.layers))
    return HeadMask(grid, tuple(words))


@given(masks())
def test_words_text_and_bools_are_the_same_mask(mask):
    assert HeadMask.from_text(mask.grid, str(mask)) == mask
    assert HeadMask.from_bools(mask.to_bools()) == mask
    assert HeadMask.from_heads(mask.grid, mask.heads) == mask
    assert len(mask) == mask.to_bools().sum() == sum(mask.layer_counts)


@given(masks(GRID), st.sampled_from(list(GRID)))
def test_flipping_a_head_twice_gives_the_mask_back(mask, head):
    assert (head in mask.flipped(head)) != (head in mask)
    assert mask.flipped(head).flipped(head) == mask


def test_a_mask_is_hashable_and_ordered_by_words():
    small, large = HeadMask(GRID, (0, 1, 0)), HeadMask(GRID, (1, 0, 0))
    assert sorted([large, small]) == [small, large]
    assert len({small, HeadMask(GRID, (0, 1, 0))}) == 1


def test_a_mask_cannot_be_changed():
    with pytest.raises(AttributeError, match="words"):
        HeadMask.empty(GRID).words = (1, 1, 1)


def test_the_empty_mask_is_truthy_and_says_that_it_is_empty():
    empty = HeadMask.empty(GRID)
    assert empty
    assert empty.is_empty
    assert str(empty) == ""
    assert empty.heads == ()


def test_text_may_use_spaces_and_lower_case():
    assert HeadMask.from_text(GRID, " l0h1, L2H3 ").heads == (Head(0, 1), Head(2, 3))


def test_masks_on_one_grid_can_be_joined():
    joined = HeadMask.from_text(GRID, "L0H1") | HeadMask.from_text(GRID, "L0H2,L1H0")
    assert str(joined) == "L0H1,L0H2,L1H0"


def test_a_stack_is_masks_by_layers_by_heads():
    stacked = bools_of([HeadMask.empty(GRID), HeadMask.from_text(GRID, "L1H2")])
    assert stacked.shape == (2, 3, 4)
    assert np.argwhere(stacked).tolist() == [[1, 1, 2]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeadMask(GRID, (0, 0)), "a mask on grid 3x4 has 3 words; got 2"),
        (lambda: HeadMask(GRID, (0, 16, 0)), r"word of layer 1 on grid 3x4 must lie in 0\.\.15; got 16"),
        (lambda: HeadMask.from_text(GRID, "L3H0"), r"L3H0 is not on grid 3x4: layers are 0\.\.2, heads 0\.\.3"),
        (lambda: HeadMask.from_bools(np.zeros((3, 4), int)), r"\(layers, heads\) of bool; got shape \(3, 4\) of int64"),
        (lambda: HeadMask.empty(GRID) | HeadMask.empty(HeadGrid(3, 5)), "on one grid only; got 3x4 and 3x5"),
        (lambda: HeadGrid(0, 4), "at least 1 layer and 1 head; got 0x4"),
        (lambda: HeadGrid(2, 54), "at most 53 heads in a layer; got 2x54"),
    ],
)
def test_what_does_not_fit_a_grid_is_refused_with_both_sides(make, message):
    with pytest.raises(GridError, match=message):
        make()


@pytest.mark.parametrize("text", ["L3", "H3L1", "3,4", "L-1H0"])
def test_text_that_is_no_head_is_refused(text):
    with pytest.raises(HeadmaskError, match="a head is written L<layer>H<head>"):
        HeadMask.from_text(GRID, text)
