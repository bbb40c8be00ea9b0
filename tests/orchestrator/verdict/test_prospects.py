"""What further search could bring, on curves whose future is known, and how large noise is."""

import math

import numpy as np
import pytest

from headmask.mask import HeadMask
from orchestrator.statistics.paired import paired_interval
from orchestrator.study.records import TrialRecord
from orchestrator.verdict.decide import improved_outcomes
from orchestrator.verdict.prospects import SEARCH, expected_gain, growth, look_ahead
from tests.orchestrator.verdict.test_decide import EMPTY, GOOD, GRID, LUCKY, SINGLE
from workers.pool.protocol import Result
from workers.scoring.messages import MaskScore

SCAN = 13


def after_scan(curve, count):
    """Return values whose best after the scan and n more masks is curve(n)."""
    return [0.0] * SCAN + [curve(n) for n in range(1, count + 1)]


CURVES = {
    "a constant per doubling": lambda n: 0.4 + 0.01 * math.log2(n),
    "a limit, missed by a root": lambda n: 0.6 - 0.2 * n**-0.5,
    "a limit, missed by a power": lambda n: 0.6 - 0.2 * n**-1.5,
    "nothing": lambda n: 0.5,
}


@pytest.mark.parametrize("more", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_the_future_of_curves_by_the_law_is_foretold(curve, more):
    grown = growth(after_scan(curve, 400), num_scan=SCAN, fewest=4)
    assert expected_gain(grown, more) == pytest.approx(curve(400 * (1 + more)) - curve(400), abs=1e-9)


@pytest.mark.parametrize("draw", ["exponential", "random", "normal"])
def test_what_is_expected_of_independent_draws_comes_on_average(draw):
    """Within a factor of two, where a single run says little."""
    rng, expected, came = np.random.default_rng(0), [], []
    for _ in range(600):
        values_M = np.concatenate([np.full(SCAN, -9.0), getattr(rng, draw)(size=800)])
        expected.append(expected_gain(growth(values_M[: SCAN + 400], num_scan=SCAN, fewest=4), 1.0))
        came.append(values_M.max() - values_M[: SCAN + 400].max())
    assert 0.5 < np.mean(expected) / np.mean(came) < 2


def test_growth_is_that_of_the_best_so_far_with_failures_left_out():
    values = [0.1] * SCAN + [0.2, math.nan, 0.4, 0.3, math.nan, 0.7, 0.1, 0.6]
    assert growth(values, num_scan=SCAN, fewest=8) == pytest.approx((0.3, 0.2))


def test_nothing_is_said_of_few_masks():
    assert growth(after_scan(CURVES["nothing"], 31), num_scan=SCAN, fewest=32) == ()


def records(values):
    return [
        TrialRecord(number, mask, value, {} if value is None else {"mean_recall": value})
        for number, (mask, value) in enumerate(values.items())
    ]


class RankedPool:
    """On search, 8 of 24 images are found at first, and some more with a mask."""

    device = status = "ranked"

    def __init__(self, session, more):
        self.targets, self.more, self.asked, self.waiting = session.splits["search"][0].targets, more, [], []

    def submit(self, stage, masks):
        self.waiting += [(stage, mask) for mask in masks]

    def collect(self, timeout_s):
        done, self.waiting = self.waiting, []
        self.asked += done
        return [Result(stage, mask, self.score(mask)) for stage, mask in done]

    def put_back(self, results):
        assert not results

    def score(self, mask):
        ranks_N = np.full(24, 200, np.uint8)
        ranks_N[: 8 + self.more.get(mask, 0)] = 0
        ranks = {"t2i": np.repeat(ranks_N, 2), "i2t": ranks_N}
        ranks |= {f"{way}_probability": (ranks_Q == 0).astype(np.float32) for way, ranks_Q in ranks.items()}
        return MaskScore(self.targets.values(ranks), 0.0, ranks=(ranks,))


def test_noise_is_that_of_the_best_mask_against_the_baseline(tiny_session):
    pool = RankedPool(tiny_session, {GOOD: 6, LUCKY: 3})
    found = look_ahead(tiny_session, records({EMPTY: 0.3, SINGLE: 0.2, LUCKY: 0.4, GOOD: 0.5}), pool)
    assert (found.best, found.delta) == (["L0H0", "L1H1"], pytest.approx(0.25))
    assert sorted(mask for _, mask in pool.asked) == sorted([EMPTY, GOOD])
    assert {stage for stage, _ in pool.asked} == {SEARCH}
    low, high = paired_interval(
        *(improved_outcomes(tiny_session, "search", pool.score(mask), tiny_session.objective) for mask in (EMPTY, GOOD))
    )
    assert found.noise == pytest.approx((high - low) / 2, rel=0.15)


def test_noise_is_known_where_nothing_beats_the_baseline(tiny_session):
    found = look_ahead(tiny_session, records({EMPTY: 0.3, SINGLE: 0.2}), RankedPool(tiny_session, {SINGLE: -3}))
    assert (found.best, found.delta) == (["L2H0"], pytest.approx(-0.125))
    assert found.noise > 0.1
    assert look_ahead(tiny_session, records({EMPTY: 0.3, SINGLE: None}), RankedPool(tiny_session, {})) is None


def test_as_many_masks_again_are_looked_ahead_to_as_long_as_there_are_any(tiny_session):
    masks = HeadMask.singles(GRID)
    masks += [HeadMask(GRID, (word, 1, 2)) for word in range(16)] + [HeadMask(GRID, (word, 4, 8)) for word in range(16)]
    values = dict(zip(masks, after_scan(CURVES["a constant per doubling"], 32), strict=True))
    pool = RankedPool(tiny_session, {})
    found = look_ahead(tiny_session, records(values), pool)
    assert (found.num_more, found.growth) == (45, pytest.approx([0.01, 0.01]))
    assert found.expected == pytest.approx(0.01 * math.log2(1 + 45 / 32))
    ended = look_ahead(tiny_session, records(values), pool, is_exhausted=True)
    assert (ended.num_more, ended.expected) == (0, 0.0)
    few = look_ahead(tiny_session, records(dict(list(values.items())[:44])), pool)
    assert (few.growth, few.expected) == ([], None)
