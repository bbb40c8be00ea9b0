"""Masks that somebody waits for: each once, and nobody else's results are taken."""

import pytest

from headmask.mask import HeadMask
from orchestrator.search.scoring import Interrupted, score_all
from tests.orchestrator.search.test_loop import GRID, SEARCH, ShuffledPool
from workers.scoring.messages import Stage


def test_score_all_returns_each_mask_once_and_can_be_stopped():
    masks = [HeadMask(GRID, (word, 0, 0, 0)) for word in range(20)]
    results = score_all(ShuffledPool(), SEARCH, masks)
    assert set(results) == set(masks)
    with pytest.raises(Interrupted):
        score_all(ShuffledPool(), SEARCH, masks, is_stopping=lambda: True)


def test_results_of_other_stages_that_come_meanwhile_stay_in_the_pool():
    pool, masks = ShuffledPool(), [HeadMask(GRID, (word, 0, 0, 0)) for word in range(20)]
    pool.submit(Stage("confirm"), masks)
    score_all(pool, SEARCH, masks)
    left = []
    while more := pool.collect(1.0):
        left += more
    assert sorted(result.mask for result in left) == masks
    assert {result.stage for result in left} == {Stage("confirm")}
