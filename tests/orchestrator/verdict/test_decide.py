"""Selection sees search and confirm alone; the test split is scored once, for two masks."""

import numpy as np
import pytest

from headmask.errors import StudyError
from headmask.mask import HeadGrid, HeadMask
from orchestrator.study.records import TrialRecord
from orchestrator.verdict.decide import CONFIRM, TEST, decide
from workers.pool.protocol import Result
from workers.scoring.messages import MaskScore
from workers.tasks.retrieval import RetrievalTargets

GRID = HeadGrid(3, 4)
EMPTY = HeadMask.empty(GRID)
GOOD, LUCKY, SINGLE = (HeadMask.from_text(GRID, text) for text in ("L0H0,L1H1", "L0H2,L2H3", "L2H0"))


class ScriptedPool:
    """The share of hits on confirm by mask; on test, a given number of images turns from miss to hit."""

    device = status = "scripted"

    def __init__(self, confirm, num_turned):
        self.confirm, self.num_turned, self.asked, self.waiting = confirm, num_turned, [], []

    def submit(self, stage, masks):
        self.waiting += [(stage, mask) for mask in masks]

    def put_back(self, results):
        assert not results

    def collect(self, timeout_s):
        done, self.waiting = self.waiting, []
        self.asked += done
        return [Result(stage, mask, self.score(stage, mask)) for stage, mask in done]

    def score(self, stage, mask):
        if stage == CONFIRM:
            return hits(20, round(20 * self.confirm.get(mask, 0.1)))
        return hits(30, 10 + (0 if mask.is_empty else self.num_turned))


def hits(num_images, num_hits):
    """Return the score of a model that is right about the first images of a split, and their two captions each."""
    ranks_N = np.full(num_images, 200, np.uint8)
    ranks_N[:num_hits] = 0
    ranks = {"t2i": np.repeat(ranks_N, 2), "i2t": ranks_N}
    ranks |= {f"{way}_probability": (found < 1).astype(np.float32) for way, found in ranks.items()}
    return MaskScore(RetrievalTargets(np.arange(num_images).repeat(2)).values(ranks), 0.0, ranks=(ranks,))


def records(values):
    masks = {EMPTY: 0.4, SINGLE: 0.45, **values}
    return [TrialRecord(number, mask, value) for number, (mask, value) in enumerate(masks.items())]


def test_the_best_on_confirm_wins_not_the_best_on_search(tiny_session):
    pool = ScriptedPool({EMPTY: 0.4, SINGLE: 0.41, LUCKY: 0.39, GOOD: 0.5}, num_turned=12)
    looked = []
    verdict = decide(tiny_session, records({LUCKY: 0.9, GOOD: 0.6}), pool, before_test=looked.append)
    assert verdict.selected == verdict.recommended == GOOD
    assert verdict.best_single == SINGLE
    assert verdict.is_reliable
    assert verdict.evidence.p_value < 0.01
    assert looked == [GOOD]


def test_of_masks_as_good_as_the_best_on_confirm_the_smallest_wins(tiny_session):
    # One image of 20 is a difference of .05, with a standard error of about that much: more than half of it.
    verdict = decide(tiny_session, records({GOOD: 0.9}), ScriptedPool({GOOD: 0.5, SINGLE: 0.5}, num_turned=12))
    assert verdict.selected == SINGLE
    verdict = decide(tiny_session, records({GOOD: 0.9}), ScriptedPool({GOOD: 0.5, SINGLE: 0.45}, num_turned=12))
    assert verdict.selected == GOOD


def test_the_test_split_is_scored_once_for_two_masks(tiny_session):
    pool = ScriptedPool({GOOD: 0.5}, num_turned=12)
    decide(tiny_session, records({LUCKY: 0.9, GOOD: 0.6}), pool)
    on_test = [mask for stage, mask in pool.asked if stage == TEST]
    assert sorted(on_test) == sorted([EMPTY, GOOD])
    assert [stage for stage, _ in pool.asked].index(TEST) == len(pool.asked) - 2


@pytest.mark.parametrize("num_turned", [0, 1, -8])
def test_without_a_reliable_improvement_the_empty_mask_is_recommended(tiny_session, num_turned):
    verdict = decide(tiny_session, records({GOOD: 0.6}), ScriptedPool({GOOD: 0.5}, num_turned))
    assert verdict.selected == GOOD
    assert not verdict.is_reliable
    assert verdict.recommended == EMPTY


def test_the_empty_mask_can_win(tiny_session):
    verdict = decide(tiny_session, records({GOOD: 0.6}), ScriptedPool({EMPTY: 0.9}, num_turned=5))
    assert verdict.selected == EMPTY
    assert verdict.evidence.interval == (0.0, 0.0)
    assert verdict.random_values == ()


def test_random_masks_match_the_selected_one(tiny_session):
    pool = ScriptedPool({GOOD: 0.5}, num_turned=12)
    verdict = decide(tiny_session, records({GOOD: 0.6}), pool)
    drawn = [mask for stage, mask in pool.asked if stage == CONFIRM and mask not in (EMPTY, SINGLE, GOOD)]
    assert len(drawn) == len(verdict.random_values) == 4
    assert all(mask.layer_counts == GOOD.layer_counts for mask in drawn)


def test_a_finalist_that_fails_on_confirm_is_not_selected(tiny_session):
    class Failing(ScriptedPool):
        def score(self, stage, mask):
            return MaskScore({}, 0.0, "non-finite embeddings") if mask == GOOD else super().score(stage, mask)

    verdict = decide(tiny_session, records({GOOD: 0.6}), Failing({SINGLE: 0.5}, num_turned=12))
    assert verdict.selected == SINGLE


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (TrialRecord(0, EMPTY, None, failure="non-finite embeddings"), "compare with: non-finite embeddings"),
        (TrialRecord(0, GOOD, 0.5), "there is no baseline to compare with: it was not scored"),
    ],
)
def test_no_baseline_is_one_clear_message(tiny_session, record, message):
    with pytest.raises(StudyError, match=message):
        decide(tiny_session, [record, TrialRecord(1, SINGLE, 0.5)], ScriptedPool({}, 0))
