"""Which heads a model of trials is fitted on: those that gain alone, and those that gain in company."""

import numpy as np

from headmask.mask import HeadGrid, HeadMask
from strategies import History, Limits, make_sampler
from strategies.learning import MAX_TRIALS, company_gains, fitted_trials, shortlist
from tests.strategies.landscapes import Failing, masks_of, run

GRID = HeadGrid(5, 8)
LIMITS = Limits()
HIDDEN = 37
"""Loses alone, and gains beside any of the three best heads."""


def value_of(mask):
    bits = mask.to_bools().ravel()
    gains = np.where(np.arange(40) < 10, 0.01, -0.002 * np.arange(40))
    gains[HIDDEN] = -0.09
    return float(0.5 + bits @ gains + 0.06 * bits[HIDDEN] * bits[:3].sum() - 0.03 * max(0, bits.sum() - 12))


class Hiding:
    """The landscape of a head that pays only in company."""

    grid = GRID

    def __call__(self, mask):
        return value_of(mask)


def history(*sets):
    """Return what is known after the scan and masks of these heads."""
    heads = list(GRID)
    masks = [*HeadMask.singles(GRID), *(HeadMask.from_heads(GRID, [heads[index] for index in each]) for each in sets)]
    bits_TF = np.stack([mask.to_bools().ravel() for mask in masks])
    values_T = np.array([value_of(mask) for mask in masks])
    return History(GRID, LIMITS, bits_TF, values_T, {mask.words for mask in masks})


def test_what_a_head_gains_in_company_is_read_off_masks_that_differ_in_it_alone():
    known = history([0, 1, 2], [0, 1, 2, 20], [0, 1, 2, 21], [0, 1, 2, HIDDEN], [4, 5], [4, 5, 30, 31])
    found = company_gains(known)
    assert np.flatnonzero(np.isfinite(found)).tolist() == [20, 21, HIDDEN]
    np.testing.assert_allclose(found[[20, 21, HIDDEN]], [0, 0, 0.18], atol=1e-12)


def test_what_every_addition_loses_by_size_is_not_held_against_a_head():
    full = list(range(12))
    known = history(full, *([*full, head] for head in (20, 21, 22, HIDDEN)))
    np.testing.assert_allclose(company_gains(known)[[20, 21, 22, HIDDEN]], [0, 0, 0, 0.18], atol=1e-12)


def test_a_head_that_gained_in_company_is_on_the_shortlist():
    known, gained = history([0, 1, 2]), np.full(40, -np.inf)
    assert HIDDEN not in shortlist(known, gained)
    gained[HIDDEN] = 0.18
    assert HIDDEN in shortlist(known, gained)


def test_the_heads_of_the_best_mask_are_on_the_shortlist():
    known = history([0, 1, 2, HIDDEN])
    assert HIDDEN in shortlist(known, np.full(40, -np.inf))


def test_a_single_addition_of_its_size_counts_in_full():
    known = history([0, 1, 2], [0, 1, 2, HIDDEN])
    np.testing.assert_allclose(company_gains(known)[HIDDEN], 0.18, atol=1e-12)


def test_a_head_that_fails_alone_is_not_probed():
    """Every probe of one would cost a cluster its replicas."""
    failing = list(GRID)[39]
    study = run(make_sampler("pairwise", GRID), Failing(Hiding(), lambda mask: failing in mask.heads), 41 + 120)
    assert sum(failing in mask.heads for mask in masks_of(study, GRID)) < 12


def test_a_search_finds_the_head_that_pays_only_in_company():
    study = run(make_sampler("pairwise", GRID), Hiding(), 41 + 120)
    best = max(masks_of(study, GRID), key=value_of)
    assert list(GRID)[HIDDEN] in best.heads


def test_a_model_of_many_trials_is_fitted_to_the_best_and_to_some_of_all_others():
    rng = np.random.default_rng(0)
    bits_TF = rng.random((3 * MAX_TRIALS, 40)) < 0.2
    known = History(GRID, LIMITS, bits_TF, rng.random(len(bits_TF)), set())
    fitted = fitted_trials(known)
    assert len(fitted) == len(set(fitted.tolist())) == MAX_TRIALS
    assert fitted[: MAX_TRIALS // 2].tolist() == known.ranked[: MAX_TRIALS // 2].tolist()
    assert fitted[-1] == known.ranked[-1]
