"""Searching among predicted values: what a good screen saves, and what a bad one cannot spoil."""

import numpy as np
import pytest

from headmask.mask import HeadGrid
from strategies import make_sampler
from strategies.screened import ScreenedSearch
from tests.strategies.landscapes import Landscape, best_value, masks_of, run

GRID = HeadGrid(6, 8)
LANDSCAPE = Landscape(GRID)


def close(masks):
    """Predict values with errors far smaller than what heads change."""
    return np.array([LANDSCAPE(mask) + 0.0005 * np.sin(sum(mask.words)) for mask in masks])


def opposite(masks):
    return -close(masks)


def nothing(masks):
    return np.full(len(masks), np.nan)


def search(name, screen, count, seed=0):
    return run(make_sampler(name, GRID, seed=seed, screen=screen), LANDSCAPE, count)


@pytest.mark.parametrize("name", ["genetic", "mixture"])
def test_a_good_screen_finds_with_a_fifth_of_the_masks_what_is_found_without(name):
    without = [best_value(search(name, None, 49 + 300, seed)) for seed in range(2)]
    screened = [best_value(search(name, close, 49 + 60, seed)) for seed in range(2)]
    assert all(few >= many - 1e-3 for few, many in zip(screened, without, strict=True))


def test_a_screen_that_orders_masks_wrongly_is_asked_for_the_smallest_part_of_a_block():
    study = search("genetic", opposite, 49 + 128)
    sampler = make_sampler("genetic", GRID, screen=opposite)
    history = sampler_history(sampler, study)
    assert ScreenedSearch(opposite).trust(history) == 0.25
    assert ScreenedSearch(close).trust(history) > 0.9
    assert best_value(study) > LANDSCAPE(masks_of(study, GRID)[0])


def test_exact_results_correct_a_screen_that_is_wrong_about_a_head():
    """A head that a screen overrates is left alone once a few masks with it were scored."""
    wrong = list(GRID)[int(np.argmin(LANDSCAPE.gains))]

    def overrating(masks):
        return np.array([LANDSCAPE(mask) + 0.03 * (wrong in mask.heads and len(mask) > 1) for mask in masks])

    sampler = make_sampler("mixture", GRID, screen=overrating)
    masks = masks_of(run(sampler, LANDSCAPE, 49 + 240), GRID)
    bred = [
        wrong in masks[number].heads
        for number in range(49, 289)
        if sampler.strategy_of(number, masks[number]) == "genetic"
    ]
    assert np.mean(bred[:6]) > 0.7
    assert np.mean(bred[6:]) < 0.1


def test_a_screen_is_not_believed_beyond_the_sizes_that_were_found_good():
    def endless(masks):
        return np.array([0.4 + 0.01 * len(mask) for mask in masks])

    masks = masks_of(search("genetic", endless, 49 + 200), GRID)
    assert max(len(mask) for mask in masks[-64:]) < 32
    assert np.median([len(mask) for mask in masks[-64:]]) < 16


def sampler_history(sampler, study):
    seen = []
    propose = sampler.propose

    def remembering(count, history, rng):
        seen.append(history)
        return propose(count, history, rng)

    sampler.propose = remembering
    study.sampler = sampler
    run(sampler, LANDSCAPE, len(study.trials) + 1, study=study)
    return seen[-1]


def test_predictions_that_are_not_finite_are_lived_with():
    masks = masks_of(search("genetic", nothing, 49 + 64), GRID)
    assert len(set(masks)) == len(masks) == 113


@pytest.mark.parametrize("name", ["genetic", "mixture"])
def test_a_new_sampler_in_the_middle_of_a_block_goes_on_as_the_old_one_would(name):
    whole = masks_of(search(name, close, 49 + 96), GRID)
    half = search(name, close, 49 + 50)
    half.sampler = make_sampler(name, GRID, screen=close)
    assert masks_of(run(half.sampler, LANDSCAPE, 49 + 96, study=half), GRID) == whole
