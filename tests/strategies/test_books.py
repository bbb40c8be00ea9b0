"""The books of a study, alone: numbers, blocks, stored masks, and how far all results are known."""

import numpy as np
import pytest

from headmask.mask import HeadGrid, HeadMask
from strategies import Limits
from strategies.books import Blocks, Books, first_size, opening_size

GRID = HeadGrid(2, 3)
MASKS = [HeadMask(GRID, (first, second)) for first in range(8) for second in range(8)]


def books(*, limits=None, blocks=None, num_masks=64, stored=None):
    return Books(GRID, limits or Limits(), blocks or Blocks(4, 4), num_masks, stored)


@pytest.mark.parametrize(("num_first", "block_size"), [(21, 8), (7, 5), (145, 32), (385, 1024), (4, 1), (1, 32)])
def test_every_trial_is_in_one_block(num_first, block_size):
    blocks = Blocks(num_first, block_size)
    numbers = [number for block in range(60) for number in blocks.numbers(block)]
    assert numbers == list(range(len(numbers)))
    assert all(number in blocks.numbers(blocks.of(number)) for number in numbers[:3000])
    assert (len(blocks.numbers(0)), len(blocks.numbers(10_000))) == (num_first, block_size)


def test_blocks_grow_by_an_eighth_of_the_masks_since_the_first_block():
    blocks = Blocks(21, 20)
    for block in range(1, 40):
        numbers = blocks.numbers(block)
        assert len(numbers) == min(20, max(8, (numbers.start - 21) // 8))
    assert len(blocks.numbers(1)) == 8 < len(blocks.numbers(12)) < len(blocks.numbers(39)) == 20


def test_a_block_waits_for_all_blocks_but_the_last_one():
    blocks = Blocks(4, 4)
    assert [blocks.num_known(block) for block in range(5)] == [0, 4, 4, 8, 12]


def test_block_1_of_open_blocks_waits_for_nothing_and_the_others_as_ever():
    blocks = Blocks(4, 4, is_open=True)
    assert [blocks.num_known(block) for block in range(5)] == [0, 0, 4, 8, 12]
    known = books(blocks=blocks)
    assert [known.is_known_for(block) for block in range(3)] == [True, True, False]
    known.add(MASKS[:8])
    for number in range(8):
        known.tell(number, float(number))
    assert [len(known.results_for(block)[1]) for block in range(4)] == [0, 0, 4, 8]


@pytest.mark.parametrize(("block_size", "expected"), [(1, 8), (32, 8), (48, 12), (1024, 256)])
def test_the_first_blocks_have_eight_masks_or_a_quarter_of_a_full_block(block_size, expected):
    assert first_size(block_size) == expected
    assert len(Blocks(21, block_size).numbers(1)) == min(block_size, expected)


@pytest.mark.parametrize("width", [17, 60, 96, 384, 1536])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_wide_study_has_its_width_in_flight_once_enough_is_known(width, is_open):
    blocks = Blocks(385, 32, is_open=is_open, width=width)
    numbers = [number for block in range(60) for number in blocks.numbers(block)]
    assert numbers == list(range(len(numbers)))
    for block in range(4, 60):
        # When the last mask that a block waits for is done, these are in flight or about to be.
        in_flight = blocks.numbers(block).start - blocks.num_known(block)
        assert in_flight >= min(width, blocks.numbers(block - 2).start // 2)
        assert len(blocks.numbers(block)) <= max(32, blocks.numbers(block).start // 4)


@pytest.mark.parametrize("width", [17, 96, 384])
def test_blocks_of_a_wide_study_grow_on_with_the_masks_before_them(width):
    blocks = Blocks(385, 32, width=width)
    filling = -(-width // 2)
    numbers = [blocks.numbers(block) for block in range(1, 300)]
    assert all(len(each) <= max(32, filling, each.start // 16) for each in numbers)
    assert len(numbers[-1]) == blocks.full_size == max(32, 16 * filling)
    late = [each for each in numbers if 16 * max(32, filling) <= each.start < 250 * filling]
    assert len(late) > 10
    assert [len(each) for each in late] == [each.start // 16 for each in late]
    assert [blocks.of(each.start) for each in numbers] == list(range(1, 300))


def test_a_narrow_study_has_the_blocks_that_studies_had_before_widths():
    blocks = Blocks(385, 32)
    assert [blocks.numbers(block).start for block in (1, 2, 11, 12, 30)] == [385, 393, 466, 476, 930]
    assert [blocks.num_known(block) for block in (1, 2, 3, 11)] == [385, 385, 393, 457]
    assert Blocks(385, 32, width=9).numbers(40) == blocks.numbers(40)


def test_block_0_of_a_wide_study_keeps_replicas_busy_while_scales_are_trained():
    assert (opening_size(32, 16), opening_size(32, 96)) == (8, 192)


def test_results_count_as_far_as_all_before_them_are_known():
    known = books()
    known.add(MASKS[:10])
    assert [known.number_of(mask) for mask in MASKS[:10]] == list(range(10))
    for number, expected in ((1, 0), (0, 2), (3, 2), (4, 2), (2, 5)):
        known.tell(number, 0.1 * number)
        assert known.num_known == expected
    assert known.is_known_for(2)
    assert not known.is_known_for(3)


def test_a_mask_is_awaited_from_its_number_to_its_result():
    known = books()
    assert not known.awaits(MASKS[0])
    known.add(MASKS[:2])
    known.tell(0, None)
    assert [known.awaits(mask) for mask in MASKS[:3]] == [False, True, False]


def test_a_block_is_proposed_from_the_results_that_it_may_know_and_no_others():
    known = books()
    known.add(MASKS[:4])
    known.add(MASKS[4:12])
    for number in range(12):
        known.tell(number, None if number == 2 else float(number))
    bits_TF, values_T = known.results_for(2)
    assert bits_TF.tolist() == [mask.to_bools().ravel().tolist() for mask in MASKS[:4]]
    np.testing.assert_array_equal(values_T, [0.0, 1.0, np.nan, 3.0])
    assert len(known.results_for(0)[1]) == 0


def test_bits_are_those_of_heads_that_may_be_ablated():
    limits = Limits(layers=frozenset({1}), protect=frozenset({"L1H0"}))
    known = books(limits=limits)
    known.add([HeadMask.from_text(GRID, text) for text in ("", "L1H1", "L1H2", "L1H1,L1H2")])
    for number in range(4):
        known.tell(number, 0.0)
    assert known.results_for(1)[0].tolist() == [[False, False], [True, False], [False, True], [True, True]]


def test_books_that_grow_keep_what_they_hold():
    known = books()
    for number, mask in enumerate(MASKS):
        known.add([mask])
        known.tell(number, float(number))
    bits_TF, values_T = known.results_for(known.next_block)
    assert values_T.tolist() == list(range(len(values_T)))
    assert bits_TF.tolist() == [mask.to_bools().ravel().tolist() for mask in MASKS[: len(bits_TF)]]


def test_stored_blocks_are_taken_as_they_are_but_for_the_last_whole_one():
    known = books(stored=dict(enumerate(MASKS[:15])))
    assert known.stored_block(0) == MASKS[:4]
    assert known.stored_block(1) == MASKS[4:8]
    assert known.stored_block(2) is None
    assert books().stored_block(0) is None


def test_a_stored_block_with_a_gap_is_proposed_again():
    stored = dict(enumerate(MASKS[:12]))
    del stored[6]
    assert books(stored=stored).stored_block(0) is None


def test_books_are_exhausted_when_all_masks_are_proposed():
    known = books(num_masks=5)
    known.add(MASKS[:4])
    assert not known.is_exhausted
    known.add(MASKS[4:5])
    assert known.is_exhausted


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0),
        ([0.1, 0.2, 0.3, 0.2], 0),
        ([0.1, 0.3, 0.2, 0.1] + 4 * [0.2], 1),
        ([0.1, 0.3, 0.2, 0.1] + 4 * [0.3], 1),
        ([0.1, 0.3, 0.2, 0.1] + 8 * [0.2] + [0.2, 0.2, 0.2, 0.4], 0),
        (4 * [None] + 4 * [0.1] + 4 * [None], 1),
        (8 * [None], 1),
    ],
    ids=["nothing", "the first", "worse", "as good", "late", "failures", "failures only"],
)
def test_blocks_since_the_best_value_was_first_reached_are_counted(values, expected):
    known = books()
    known.add(MASKS[: len(values)])
    for number, value in enumerate(values):
        known.tell(number, value)
    # The block after the next one is proposed from all of these.
    assert known.blocks_without_gain(len(values) // 4 + 1 if values else 0) == expected
