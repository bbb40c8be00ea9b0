"""Landscapes of a real model: values are the search's, the surrogate is what it says, the table has all masks."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmarks.strategies import landscapes
from benchmarks.strategies.measured import Measured, table_landscape
from benchmarks.strategies.planted import planted_mask
from headmask.mask import HeadMask
from strategies import Limits
from workers.pool.inline import InlinePool
from workers.scoring.messages import Stage

SEARCH = Stage("search")


@pytest.fixture
def tiny(tiny_session):
    return Measured(tiny_session, Limits(layers=frozenset({0, 2})))


def random_masks(grid, count, rng):
    heads = [head for head in grid if head.layer != 1]
    sets = [rng.choice(len(heads), size=rng.integers(2, 4), replace=False) for _ in range(count)]
    return [HeadMask.from_heads(grid, [heads[index] for index in each]) for each in sets]


def test_values_are_those_of_a_search(tiny, tiny_session):
    masks = random_masks(tiny.grid, 5, np.random.default_rng(0))
    pool = InlinePool(tiny_session.payload)
    pool.settle(tiny_session.wanted)
    pool.submit(SEARCH, masks)
    scores = {}
    while len(scores) < len(set(masks)):
        scores |= {result.mask: tiny_session.search_value(result.score.metrics) for result in pool.collect(0.0)}
    assert tiny.values(masks) == [scores[mask] for mask in masks]


def test_the_best_known_value_is_of_masks_within_the_limits(tiny, tiny_session):
    masks = [HeadMask.from_text(tiny.grid, text) for text in ("", "L0H1", "L2H3", "L1H0")]
    values = dict(zip(map(str, masks), tiny.values(masks), strict=True))
    other = Measured(tiny_session, Limits(layers=frozenset({1})))
    assert other.best_known == max(values[""], values["L1H0"])
    assert tiny.best_known >= max(values["L0H1"], values["L2H3"])


def test_the_surrogate_is_exact_for_what_was_scanned(tiny):
    singles = HeadMask.singles(tiny.grid, tiny.limits.free_heads(tiny.grid))
    assert tiny.screen(singles) == pytest.approx(tiny.values(singles), abs=0.02)


def test_masks_that_share_layers_cost_less_together(tiny):
    first, second, far = [HeadMask.from_text(tiny.grid, text) for text in ("L0H1", "L0H1,L2H3", "L0H2")]
    assert tiny.cost([first]) < tiny.cost([first, second]) < tiny.cost([first, far]) < 2 * tiny.cost([far])


def test_gradients_are_of_the_heads_that_may_be_ablated(tiny):
    scales_F = np.ones(len(tiny.limits.free_heads(tiny.grid)))
    loss, gradient_F = tiny.gradients(0, scales_F)
    assert np.isfinite(loss)
    assert gradient_F.shape == scales_F.shape
    assert gradient_F.any()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_batches"), [("random-144", 16), ("random-384", 32)])
def test_planted_heads_hurt(pixel_cache, name, num_batches):
    torch.set_num_threads(1)
    landscape = landscapes.landscape_of(name, 0)
    baseline, planted = landscape.values([HeadMask.empty(landscape.grid), planted_mask(landscape.grid)])
    assert planted > 2 * baseline
    assert landscape.gradients.num_batches == num_batches


@pytest.mark.slow
def test_the_table_is_of_all_masks_of_12_heads_and_the_surrogate_ranks_them(pixel_cache):
    torch.set_num_threads(1)
    parts = landscapes.table_parts()
    masks = [mask for part in parts for mask in part]
    heads = {head for mask in masks for head in mask.heads}
    assert len(set(masks)) == len(masks) == 4_096
    assert len(heads) == 12
    assert {head.layer for head in heads} == set(range(8))
    landscape, some = table_landscape(), masks[:: len(masks) // 60]
    assert spearmanr(landscape.screen(some), landscape.values(some)).statistic > 0.7
