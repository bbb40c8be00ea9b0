"""Values that are kept: computed once, found by other processes, NaN included."""

import math

import pytest

from benchmarks.strategies.memo import Memo
from headmask.mask import HeadGrid, HeadMask

GRID = HeadGrid(2, 3)
MASKS = HeadMask.singles(GRID)


def never(masks):
    raise AssertionError(f"{len(masks)} masks are computed again")


def test_values_are_computed_once_and_found_by_whoever_opens_the_file(tmp_path):
    values = Memo(tmp_path / "memo").values(MASKS[:3], lambda masks: [len(mask) / 7 for mask in masks])
    assert Memo(tmp_path / "memo").values([MASKS[2], MASKS[0]], never) == [values[2], values[0]] == [1 / 7, 0.0]


def test_only_what_is_missing_is_computed_and_once(tmp_path):
    memo, computed = Memo(tmp_path / "memo"), []

    def compute(masks):
        computed.extend(masks)
        return [0.5] * len(masks)

    memo.values(MASKS[:2], compute)
    memo.values([MASKS[3], MASKS[1], MASKS[3]], compute)
    assert computed == [*MASKS[:2], MASKS[3]]


def test_a_mask_without_a_value_stays_without(tmp_path):
    Memo(tmp_path / "memo").values(MASKS[:1], lambda masks: [math.nan])
    assert math.isnan(Memo(tmp_path / "memo").values(MASKS[:1], never)[0])


def test_the_best_value_is_of_masks_of_the_heads_named(tmp_path):
    memo = Memo(tmp_path / "memo")
    assert math.isnan(memo.best(GRID))
    memo.values(MASKS, lambda masks: [0.1, 0.2, 0.9, 0.3, 0.4, 0.5, 0.6])
    assert memo.best(GRID) == pytest.approx(0.9)
    assert memo.best([MASKS[1].heads[0]]) == pytest.approx(0.2)
