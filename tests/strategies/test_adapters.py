"""What the adapters of Optuna's samplers do beyond what every strategy promises."""

import numpy as np
import pytest
from optuna.samplers import NSGAIISampler, TPESampler

from headmask.errors import ConfigError
from headmask.mask import HeadGrid, HeadMask
from strategies import Limits, Nsga2Sampler, TpeSampler
from strategies.history import History
from tests.strategies.landscapes import Landscape, masks_of, run

GRID = HeadGrid(4, 5)
LANDSCAPE = Landscape(GRID)

both = pytest.mark.parametrize("adapter", [TpeSampler, Nsga2Sampler])


def history_of(masks, *, limits=None):
    limits = limits or Limits()
    values_T = np.array([LANDSCAPE(mask) for mask in masks])
    return History(GRID, limits, limits.bits_of(GRID, masks), values_T, {mask.words for mask in masks})


@both
def test_masks_are_of_the_shortlist(adapter):
    history = history_of(HeadMask.singles(GRID))
    shortlist = {history.free_heads[index] for index in history.promising[:6]}
    proposed = adapter(GRID, shortlist=6).propose(20, history, np.random.default_rng(0))
    assert len(proposed) >= 10
    assert set().union(*(mask.heads for mask in proposed)) <= shortlist


@both
def test_the_best_heads_together_come_first(adapter):
    masks = masks_of(run(adapter(GRID, block_size=8), LANDSCAPE, 28), GRID)
    assert [len(mask) for mask in masks[21:]] == [2, 3, 4, 5, 6, 7, 8]


@both
def test_a_block_is_a_function_of_history_and_random_state(adapter):
    masks = masks_of(run(adapter(GRID, block_size=8), LANDSCAPE, 60), GRID)
    sampler = adapter(GRID)
    first, again, other = (sampler.propose(10, history_of(masks), np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first == again != other
    assert not set(first) & set(masks)


@both
def test_a_mask_that_would_be_too_large_keeps_its_most_promising_heads(adapter):
    limits = Limits(max_heads=3)
    masks = masks_of(run(adapter(GRID, block_size=8, limits=limits), LANDSCAPE, 60), GRID)
    history = history_of(masks, limits=limits)
    proposed = adapter(GRID, limits=limits).propose(20, history, np.random.default_rng(0))
    assert proposed
    assert max(map(len, proposed)) == 3


def test_told_masks_are_the_parents_of_nsga2():
    """Children of single heads ablate about one, and by mutation half a one more; random bits would ablate ten."""
    told = history_of(HeadMask.singles(GRID))
    children = Nsga2Sampler(GRID, shortlist=20).propose(60, told, np.random.default_rng(0))[19:]
    assert len(children) > 10
    assert np.mean([len(child) for child in children]) < 4


@pytest.mark.parametrize(("adapter", "theirs"), [(TpeSampler, TPESampler), (Nsga2Sampler, NSGAIISampler)])
def test_the_sampler_is_optunas_own(adapter, theirs):
    assert type(adapter(GRID).adapted(10, 0)) is theirs


@both
def test_an_empty_shortlist_is_refused(adapter):
    with pytest.raises(ConfigError, match="a shortlist must have at least 1 head; got 0"):
        adapter(GRID, shortlist=0)
