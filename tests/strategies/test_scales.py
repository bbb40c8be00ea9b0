"""Scales: what they are is a function of gradients alone, they lead to good masks, and they cost what they say."""

from itertools import combinations

import numpy as np
import pytest

from headmask.errors import ConfigError
from headmask.mask import HeadGrid, HeadMask
from strategies import MixtureSampler, PairwiseSampler, ScalesSampler, make_sampler
from strategies.base import MAX_STEPS, MIN_STEPS, OPENING
from strategies.scaled import THRESHOLDS
from strategies.scales import DECAY, HIGHEST, RATE, SQUARE_DECAY, Scales
from tests.strategies.landscapes import Landscape, Slopes, best_value, masks_of, run

GRID = HeadGrid(4, 5)
NUM = 20


class Noted(Slopes):
    """Gradients that remember the micro-batches that were asked for, and the scales."""

    def __init__(self, landscape, cost=0.5):
        super().__init__(landscape)
        self.batches, self.scales, self.masks_per_step = [], [], cost

    def __call__(self, batch, scales_F):
        self.batches.append(batch)
        self.scales.append(scales_F.copy())
        return super().__call__(batch, scales_F)


class Given:
    """The same gradient whatever the scales, one per micro-batch."""

    masks_per_step = 1.0

    def __init__(self, *gradients):
        self.gradients, self.num_batches = [np.array(each) for each in gradients], len(gradients)

    def __call__(self, batch, scales_F):
        return float(batch), self.gradients[batch]


def trained(steps, landscape=0):
    scales = Scales(Slopes(Landscape(GRID, landscape)), NUM)
    scales.advance(steps)
    return scales


def test_all_scales_start_at_1():
    gradients = Noted(Landscape(GRID))
    scales = Scales(gradients, NUM)
    assert scales.averaged(0).tolist() == NUM * [1.0]
    scales.advance(1)
    assert gradients.scales[0].tolist() == NUM * [1.0]
    assert scales.path[0].tolist() != NUM * [1.0]


def test_steps_are_those_of_adam():
    """Against the formulas of Kingma and Ba, algorithm 1, written out for one scale."""
    slopes = [0.3, -0.1, 0.7, 0.2]
    scales = Scales(Given(*([slope] for slope in slopes)), 1)
    scales.advance(6)
    now, mean, square, expected = 1.0, 0.0, 0.0, []
    for step in range(1, 7):
        slope = slopes[(step - 1) % 4]
        mean, square = DECAY * mean + (1 - DECAY) * slope, SQUARE_DECAY * square + (1 - SQUARE_DECAY) * slope**2
        now -= RATE * (mean / (1 - DECAY**step)) / (square / (1 - SQUARE_DECAY**step)) ** 0.5
        expected.append(now)
    np.testing.assert_allclose(np.concatenate(scales.path), expected, atol=1e-9)


def test_scales_stay_between_0_and_the_highest():
    scales = Scales(Given([1.0, -1.0, 0.0]), 3)
    scales.advance(40)
    assert scales.path[-1].tolist() == [0.0, HIGHEST, 1.0]


def test_micro_batches_take_turns_one_a_step():
    gradients = Noted(Landscape(GRID))
    scales = Scales(gradients, NUM)
    scales.advance(3)
    scales.advance(12)
    assert gradients.batches == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert scales.step == len(scales.path) == len(scales.losses) == 12


def test_training_goes_on_where_it_ended():
    pieces, whole = trained(7), trained(30)
    pieces.advance(30)
    np.testing.assert_array_equal(pieces.path, whole.path)
    assert pieces.losses == whole.losses


def test_the_state_after_a_step_is_a_function_of_the_gradients_alone():
    """No random numbers: the same gradients give the same path, and others another."""
    np.testing.assert_array_equal(trained(30).path, trained(30).path)
    assert not np.array_equal(trained(30).path[0], trained(30, landscape=1).path[0])
    whole = trained(30)
    whole.advance(10)
    assert whole.step == 30


def test_averaged_scales_are_the_mean_of_the_second_half_of_the_steps():
    scales = trained(30)
    np.testing.assert_array_equal(scales.averaged(30), np.mean(scales.path[15:30], axis=0))
    np.testing.assert_array_equal(scales.averaged(7), np.mean(scales.path[3:7], axis=0))
    np.testing.assert_array_equal(scales.averaged(1), scales.path[0])


def test_averages_of_earlier_steps_do_not_change_as_training_goes_on():
    scales = trained(12)
    before = scales.averaged(12)
    scales.advance(40)
    np.testing.assert_array_equal(scales.averaged(12), before)


def test_averages_swing_less_than_single_scales():
    """Where micro-batches disagree about a head, its scale swings, and its average does not."""
    scales = Scales(Given([1.0], [-1.0]), 1)
    scales.advance(60)
    swings = np.ptp([scales_F[0] for scales_F in scales.path[40:]])
    averages = np.ptp([scales.averaged(step)[0] for step in range(40, 60)])
    assert averages < swings / 2


def test_the_known_optimum_is_found_where_heads_do_not_interact():
    for seed in range(6):
        landscape = Landscape(GRID, seed)
        landscape.pair_gains = np.zeros_like(landscape.pair_gains)
        scales = Scales(Slopes(landscape, noise=0), NUM)
        scales.advance(48)
        assert (scales.averaged(48) < 0.5).tolist() == (landscape.gains > 0).tolist()


def test_low_scales_are_nearly_always_among_the_best_masks_of_their_size():
    heads, better = list(GRID), []
    for seed in range(6):
        landscape = Landscape(GRID, seed)
        low = np.argsort(trained(48, landscape=seed).averaged(48))[:3]
        every = [landscape(HeadMask.from_heads(GRID, chosen)) for chosen in combinations(heads, 3)]
        found = landscape(HeadMask.from_heads(GRID, [heads[place] for place in low]))
        better.append(float(np.mean(np.array(every) > found)))
    assert np.median(better) < 0.01
    assert max(better) < 0.2


def test_what_is_not_finite_teaches_nothing():
    class Broken(Slopes):
        def __call__(self, batch, scales_F):
            return np.nan, np.zeros_like(scales_F)

    scales = Scales(Broken(Landscape(GRID)), NUM)
    scales.advance(20)
    assert np.isnan(scales.losses).all()
    np.testing.assert_array_equal(scales.path, np.ones((20, NUM)))


def test_one_micro_batch_that_is_not_finite_does_not_keep_the_others_from_teaching():
    class Partly(Slopes):
        def __call__(self, batch, scales_F):
            loss, gradient_F = super().__call__(batch, scales_F)
            return (np.nan, np.zeros_like(gradient_F)) if batch == 2 else (loss, gradient_F)

    landscape = Landscape(GRID)
    scales = Scales(Partly(landscape), NUM)
    scales.advance(48)
    assert np.flatnonzero(np.isnan(scales.losses)).tolist() == list(range(2, 48, 5))
    np.testing.assert_array_equal(scales.averaged(48) < 0.5, trained(48).averaged(48) < 0.5)
    assert (scales.averaged(48) < 0.5).any()


def test_scales_find_good_masks_with_few_evaluations():
    landscape = Landscape(HeadGrid(6, 8))
    learned = best_value(run(ScalesSampler(landscape.grid, gradients=Slopes(landscape)), landscape, 24))
    assert learned > best_value(run(PairwiseSampler(landscape.grid), landscape, 49))


def test_the_first_masks_are_those_by_threshold():
    grid = HeadGrid(6, 8)
    strategy = ScalesSampler(grid, gradients=Slopes(Landscape(grid)))
    masks = masks_of(run(strategy, Landscape(grid), 9), grid)
    scales_F = strategy.scales.averaged(strategy.scales.step)
    below = [
        HeadMask.from_heads(grid, [head for head, scale in zip(grid, scales_F, strict=True) if scale < threshold])
        for threshold in THRESHOLDS
    ]
    expected = list(dict.fromkeys([HeadMask.empty(grid), *below]))[:9]
    assert len(expected) > 1
    assert masks[: len(expected)] == expected


@pytest.mark.parametrize(
    ("cost", "expected"),
    [(3.0, MIN_STEPS), (0.5, round(OPENING / 0.5)), (0.25, round(OPENING / 0.25)), (0.001, MAX_STEPS)],
)
def test_as_many_steps_are_trained_as_the_opening_may_cost(cost, expected):
    """A constant of the study: the first block after the baseline waits for all of them, and later ones add none."""
    for name in ("scales", "mixture"):
        strategy = make_sampler(name, GRID, gradients=Noted(Landscape(GRID), cost))
        first = strategy.num_steps_at(0)
        assert first == {"scales": 0, "mixture": 1}[name]
        assert [strategy.num_steps_for(block) for block in range(4)] == [first, expected - first, 0, 0]
        run(strategy, Landscape(GRID), 60)
        assert strategy.scales.step == len(strategy.gradients.batches) == expected


def test_a_mixture_trains_once_for_all_of_its_members():
    gradients = Noted(Landscape(GRID))
    shares = ((ScalesSampler, 1), (PairwiseSampler, 3))
    run(MixtureSampler(GRID, shares=shares, gradients=gradients), Landscape(GRID), 60)
    assert len(gradients.batches) == round(OPENING / 0.5)


def test_only_strategies_that_train_have_scales():
    gradients = Noted(Landscape(GRID))
    assert make_sampler("mixture", GRID).scales is None
    assert make_sampler("mixture", GRID, gradients=gradients).scales is not None
    for name in ("scan", "genetic", "pairwise", "tpe", "nsga2"):
        strategy = make_sampler(name, GRID, gradients=gradients)
        assert strategy.scales is None
        assert [strategy.num_steps_for(block) for block in range(3)] == [0, 0, 0]
    assert gradients.batches == []


def test_gradients_that_are_all_broken_leave_a_search_that_goes_on():
    class Broken(Slopes):
        def __call__(self, batch, scales_F):
            return np.nan, np.zeros_like(scales_F)

    for name in ("scales", "mixture"):
        study = run(make_sampler(name, GRID, gradients=Broken(Landscape(GRID))), Landscape(GRID), 60)
        assert len(set(masks_of(study, GRID))) == 60


def test_without_gradients_the_strategy_is_refused():
    with pytest.raises(ConfigError, match="ScalesSampler needs gradients of a loss; choose another strategy without"):
        run(make_sampler("scales", GRID), Landscape(GRID), 60)
