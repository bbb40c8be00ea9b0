"""Gates: what they are is a function of seed and gradients, and they neither all open nor all shut."""

from itertools import combinations

import numpy as np
import pytest

from headmask.errors import ConfigError
from headmask.mask import HeadGrid, HeadMask
from strategies import GatesSampler, MixtureSampler, PairwiseSampler, make_sampler
from strategies.gates import SWEEP, Gates, hard_concrete
from tests.strategies.landscapes import Landscape, Slopes, best_value, run

GRID = HeadGrid(4, 5)
NUM = 20


def trained(steps, seed=0, most=NUM, landscape=0):
    gates = Gates(Slopes(Landscape(GRID, landscape)), NUM, most, seed)
    gates.advance(steps)
    return gates


def test_the_slope_of_a_gate_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    log_alpha_F, noise_BF = rng.normal(0, 2, 50), rng.random((6, 50))
    (above, _), (below, _) = (hard_concrete(log_alpha_F + step, noise_BF) for step in (1e-6, -1e-6))
    gates_BF, slope_BF = hard_concrete(log_alpha_F, noise_BF)
    np.testing.assert_allclose(slope_BF, (above - below) / 2e-6, atol=1e-6)
    assert {0.0, 1.0} < set(gates_BF.ravel())


def test_the_probability_to_be_shut_is_the_share_of_zeros():
    gates = trained(SWEEP // 2)
    gates_BF, _ = hard_concrete(gates.log_alpha_F, np.random.default_rng(0).random((20_000, NUM)))
    np.testing.assert_allclose((gates_BF == 0).mean(0), gates.shut_F, atol=0.015)


@pytest.mark.parametrize("most", [1, 4, NUM])
def test_as_many_gates_are_expected_to_be_shut_as_the_schedule_says(most):
    gates = Gates(Slopes(Landscape(GRID)), NUM, most, 0)
    sizes = []
    for step in range(1, 4 * SWEEP + 1):
        gates.advance(step)
        assert gates.shut_F.sum() == pytest.approx(gates.num_shut, abs=1e-6)
        sizes.append(int(gates.path[-1].sum()))
    assert (min(sizes), max(sizes)) == (1, min(most, round(NUM / 3)))
    assert sizes[SWEEP - 1] == max(sizes)
    assert sizes[2 * SWEEP - 1] == 1


def test_training_goes_on_where_it_ended():
    pieces, whole = trained(7), trained(30)
    pieces.advance(30)
    np.testing.assert_array_equal(pieces.log_alpha_F, whole.log_alpha_F)
    assert pieces.losses == whole.losses
    assert not np.array_equal(whole.log_alpha_F, trained(30, seed=1).log_alpha_F)


def test_what_is_shut_is_nearly_always_among_the_best_masks_of_its_size():
    heads, better = list(GRID), []
    for seed in range(6):
        landscape = Landscape(GRID, seed)
        shut_F = trained(2 * SWEEP - 12, landscape=seed).path[-1]
        every = [landscape(HeadMask.from_heads(GRID, chosen)) for chosen in combinations(heads, int(shut_F.sum()))]
        found = landscape(HeadMask.from_heads(GRID, [heads[place] for place in np.flatnonzero(shut_F)]))
        better.append(float(np.mean(np.array(every) > found)))
    assert np.median(better) < 0.002
    assert max(better) < 0.2


def test_what_is_not_finite_teaches_nothing():
    class Broken(Slopes):
        def __call__(self, batches, gates_BF):
            losses_B, gradients_BF = super().__call__(batches, gates_BF)
            return np.full_like(losses_B, np.nan), np.zeros_like(gradients_BF)

    gates = Gates(Broken(Landscape(GRID)), NUM, NUM, 0)
    gates.advance(SWEEP)
    assert np.isnan(gates.losses).all()
    assert np.ptp(gates.log_alpha_F) == 0


def test_gates_find_good_masks_with_few_evaluations():
    landscape = Landscape(HeadGrid(6, 8))
    learned = best_value(run(GatesSampler(landscape.grid, gradients=Slopes(landscape)), landscape, 49 + 24))
    assert learned > best_value(run(PairwiseSampler(landscape.grid), landscape, 49 + 24))


def test_steps_are_in_proportion_to_the_masks_that_gates_propose():
    alone = GatesSampler(GRID, gradients=Slopes(Landscape(GRID)))
    shares = ((GatesSampler, 1), (PairwiseSampler, 3))
    mixture = MixtureSampler(GRID, shares=shares, gradients=Slopes(Landscape(GRID)))
    assert alone.num_steps_at(0) == mixture.num_steps_at(0) == 0
    assert alone.num_steps_at(1) == mixture.num_steps_at(1) == SWEEP
    assert (alone.num_steps(21 + 80), mixture.num_steps(21 + 80)) == (SWEEP + 40, SWEEP + 10)
    assert mixture.gates is not None
    assert make_sampler("mixture", GRID).gates is None


def test_without_gradients_the_strategy_is_refused():
    with pytest.raises(ConfigError, match="GatesSampler needs gradients of a loss; choose another strategy without"):
        make_sampler("gates", GRID)
