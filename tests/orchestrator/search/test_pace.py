"""How busy a search keeps its replicas, in virtual time."""

import numpy as np
import pytest

from orchestrator.search.pace import GOLDEN, SPREAD, pace_of
from orchestrator.search.session import width_for
from strategies import MIN_WIDTH, Blocks

SCAN = 385
"""Masks of the scan of ViT-L."""


def ideal(width, masks, replicas, mask_s):
    return pace_of(Blocks(SCAN, 32, width=width), masks, replicas, mask_s, plans=False)


def test_one_replica_is_always_busy():
    pace = ideal(MIN_WIDTH, 1000, 1, 0.87)
    assert pace.busy == pytest.approx(1)
    assert pace.seconds == pytest.approx(1000 * 0.87, rel=0.01)


@pytest.mark.parametrize(
    ("replicas", "mask_s", "masks", "before", "at_least"),
    [(64, 0.87, 1500, 0.65, 0.9), (256, 0.87, 1500, 0.2, 0.75), (40, 0.24, 5000, 0.92, 0.98)],
)
def test_a_study_that_is_as_wide_as_its_replicas_keeps_them_busy(replicas, mask_s, masks, before, at_least):
    assert ideal(MIN_WIDTH, masks, replicas, mask_s).busy < before
    assert ideal(width_for(replicas), masks, replicas, mask_s).busy >= at_least


def test_a_block_waits_for_what_it_is_proposed_from_and_for_its_planning():
    # Two replicas, block 0 of 4 masks, then blocks of 1.
    blocks, seconds = Blocks(4, 1), 1 + SPREAD * (2 * (np.arange(6) * GOLDEN % 1) - 1)
    ends = pace_of(blocks, 6, 2, 1.0, plans=False).ends_T
    expected, free = [], [0.0, 0.0]
    for number, known in enumerate([0, 0, 0, 0, 4, 4]):
        place = int(np.argmin(free))
        free[place] = max(free[place], max(expected[:known], default=0.0)) + seconds[number]
        expected.append(free[place])
    np.testing.assert_allclose(ends, expected)
    assert pace_of(blocks, 6, 2, 1.0).seconds > ends.max()


def test_training_holds_up_block_1_of_open_blocks_alone():
    blocks = Blocks(4, 4, is_open=True)
    ends = pace_of(blocks, 8, 5, 1.0, training_s=10.0, plans=False).ends_T
    assert ends[:4].max() < 2
    assert ends[4:].min() > 10


def test_one_replica_trains_and_scores_in_turn():
    pace = pace_of(Blocks(4, 4, is_open=True), 8, 1, 1.0, training_s=10.0, plans=False)
    assert pace.busy == pytest.approx(1)
    assert pace.seconds == pytest.approx(18, rel=0.05)


def test_a_very_long_search_goes_on_at_its_last_pace():
    short, long = (ideal(96, masks, 64, 0.87) for masks in (20_000, 2_000_000))
    assert long.busy == pytest.approx(0.99, abs=0.02)
    assert long.seconds == pytest.approx(100 * short.seconds, rel=0.03)
