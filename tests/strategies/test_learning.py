"""Which heads a model of trials is fitted on: those that gain alone, and those that gain in company."""

from dataclasses import replace

import numpy as np
import pytest

from headmask.mask import HeadGrid, HeadMask
from strategies import History, Limits, make_sampler
from strategies.additions import MAX_ADDED
from strategies.learning import (
    MAX_TRIALS,
    Lesson,
    company_of,
    fitted_trials,
    num_fitted,
    shortlist,
    sparse_effects,
)
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


def unknown():
    """Return what is known of company before any head was added to a mask."""
    return company_of(history())


def test_what_a_head_gains_in_company_is_read_off_masks_that_differ_in_it_alone():
    known = history([0, 1, 2], [0, 1, 2, 20], [0, 1, 2, 21], [0, 1, 2, HIDDEN], [4, 5], [4, 5, 30, 31])
    found = company_of(known)
    assert np.flatnonzero(found.is_single_F).tolist() == [20, 21, HIDDEN]
    # A lone group of its kind says nothing: what it changed may be due to size.
    assert np.flatnonzero(found.is_added_F).tolist() == [20, 21, HIDDEN]
    np.testing.assert_allclose(found.gains_F[[20, 21, HIDDEN]], [0, 0, 0.18], atol=1e-12)
    np.testing.assert_allclose(found.effects_F[[20, 21, HIDDEN]], [0, 0, 0.18], atol=1e-12)
    assert not found.doubts_F[[20, 21, HIDDEN]].any()


def test_heads_that_were_never_added_are_neither_known_nor_silent():
    found = unknown()
    assert not (found.is_added_F | found.is_single_F | found.is_silent_F).any()
    assert not found.gains_F.any()
    assert found.scale > 0


def test_what_every_addition_loses_by_size_is_not_held_against_a_head():
    full = list(range(12))
    known = history(full, *([*full, head] for head in (20, 21, 22, HIDDEN)))
    found = company_of(known)
    np.testing.assert_allclose(found.gains_F[[20, 21, 22, HIDDEN]], [0, 0, 0, 0.18], atol=1e-12)


def test_a_head_that_gained_in_company_is_on_the_shortlist():
    known, found = history([0, 1, 2]), unknown()
    assert HIDDEN not in shortlist(known, found)
    gains_F = found.gains_F.copy()
    gains_F[HIDDEN] = 0.18
    assert HIDDEN in shortlist(known, replace(found, gains_F=gains_F))


def test_a_head_whose_scale_fell_is_on_the_shortlist():
    known = history([0, 1, 2])
    scales_F = np.ones(40)
    scales_F[HIDDEN] = 0.0
    found = replace(unknown(), scale=0.09)
    assert HIDDEN not in shortlist(known, found)
    known.scales_SF = scales_F[None]
    assert HIDDEN in shortlist(known, found)


def test_a_head_that_interacts_with_none_is_not_on_the_shortlist():
    known = history([0, 1, 2])
    found = replace(unknown(), scale=0.1, doubts_F=np.zeros(40))
    known.scan_gains_F[12] = -0.2
    assert 12 not in shortlist(known, found)
    effects_F = np.where(np.arange(40) == 12, 0.4, 0)
    assert 12 in shortlist(known, replace(found, is_added_F=np.arange(40) == 12, effects_F=effects_F))
    assert 12 not in shortlist(known, replace(found, is_added_F=np.arange(40) == 12))


def test_the_heads_of_the_best_mask_are_on_the_shortlist():
    known = history([0, 1, 2, HIDDEN])
    assert HIDDEN in shortlist(known, unknown())


def test_a_single_addition_of_its_size_counts_in_full():
    known = history([0, 1, 2], [0, 1, 2, HIDDEN])
    np.testing.assert_allclose(company_of(known).gains_F[HIDDEN], 0.18, atol=1e-12)


def test_additions_are_to_the_largest_known_mask_within():
    known = history([0, 1], [0, 1, 2], [0, 1, 2, 20, 21], [5, 6])
    groups_PF, change_P, sizes_P = known.additions
    assert [np.flatnonzero(group_F).tolist() for group_F in groups_PF] == [[2], [20, 21]]
    assert sizes_P.tolist() == [2, 3]
    heads = list(GRID)
    values = [value_of(HeadMask.from_heads(GRID, [heads[at] for at in each])) for each in ([0, 1], [0, 1, 2])]
    assert change_P[0] == pytest.approx(values[1] - values[0])


def test_additions_of_too_many_heads_are_none():
    assert len(history([0, 1], [0, 1, *range(10, 10 + MAX_ADDED)]).additions[0]) == 1
    assert len(history([0, 1], [0, 1, *range(10, 11 + MAX_ADDED)]).additions[0]) == 0


def test_the_one_head_of_groups_that_changes_something_is_found():
    """Nine groups of six of 40 effects, one of which is not zero: three of the groups have it."""
    rng = np.random.default_rng(0)
    bits_PF = np.zeros((9, 40), dtype=bool)
    for row_F in bits_PF:
        row_F[rng.choice(39, size=6, replace=False)] = True
    bits_PF[:3, 39] = True
    mean_F, doubts_F = sparse_effects(bits_PF, 0.18 * bits_PF[:, 39], 0.05)
    assert int(np.abs(mean_F).argmax()) == 39
    assert mean_F[39] == pytest.approx(0.18, abs=0.02)
    assert doubts_F[39] < 0.05
    assert np.abs(mean_F[:39]).max() < 0.02


def test_without_sums_effects_are_in_doubt():
    mean_F, doubts_F = sparse_effects(np.zeros((0, 4), dtype=bool), np.zeros(0), 0.05)
    assert mean_F.tolist() == [0.0] * 4
    np.testing.assert_allclose(doubts_F, 0.05)


def test_a_head_that_fails_alone_is_not_probed():
    """Every probe of one would cost a cluster its replicas."""
    failing = list(GRID)[39]
    study = run(make_sampler("pairwise", GRID), Failing(Hiding(), lambda mask: failing in mask.heads), 41 + 120)
    assert sum(failing in mask.heads for mask in masks_of(study, GRID)) < 12


@pytest.mark.parametrize("seed", range(4))
def test_a_search_finds_the_head_that_pays_only_in_company(seed):
    study = run(make_sampler("pairwise", GRID, seed=seed), Hiding(), 41 + 120)
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


def test_a_model_is_fitted_to_a_tenth_more_masks_of_several_heads_each_time():
    rng = np.random.default_rng(0)
    bits_TF = np.vstack([np.eye(40, dtype=bool), rng.random((400, 40)) < 0.2])
    known = History(GRID, LIMITS, bits_TF, rng.random(440), set())
    counts = [num_fitted(known.first(count)) - 40 for count in range(41, 441)]
    steps = sorted(set(counts))
    assert all(count <= have < 1.11 * count + 1 for have, count in enumerate(counts, start=1))
    assert 20 < len(steps) < 60
    assert num_fitted(known.first(30)) == 30


def test_what_later_results_teach_is_added_to_what_the_first_ones_did():
    rng = np.random.default_rng(0)
    sets = [rng.choice(10, size=4, replace=False).tolist() for _ in range(60)]
    known = history(*sets, *([*each, HIDDEN] for each in sets[:20]))
    heads_S = np.r_[:10, HIDDEN]
    lesson = Lesson(known.first(len(known.values_T) - 20), heads_S, lambda bits_TF: np.full(len(bits_TF), 0.5))
    later_BS, sizes_B, values_B = known.bits_TF[101:, heads_S], known.sizes_T[101:], known.values_T[101:] - 0.5
    errors = [
        np.abs(lesson.model(each).mean_function().values(later_BS, sizes_B)[0] - values_B).mean()
        for each in (known.first(101), known)
    ]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize(("worst", "is_told"), [(4.0, False), (np.inf, True)])
def test_a_model_is_told_of_a_ruined_mask_only_where_nothing_is_too_bad(worst, is_told):
    rng = np.random.default_rng(0)
    sets = [rng.choice(10, size=4, replace=False).tolist() for _ in range(30)]
    known = history(*sets, range(30))
    before = known.first(len(known.values_T) - 1)
    lesson = Lesson(before, np.arange(10), lambda bits_TF: np.full(len(bits_TF), 0.5), worst=worst)
    heads = [lesson.model(each).mean_function().head_RS for each in (before, known)]
    assert np.array_equal(*heads) != is_told


@pytest.mark.parametrize("name", ["pairwise", "mixture"])
def test_what_a_sampler_remembers_changes_no_mask(name):
    """A resumed study begins with a sampler that remembers nothing."""
    used = make_sampler(name, GRID)
    study = run(used, Hiding(), 41 + 200)
    masks = masks_of(study, GRID)
    for block in range(2, used.blocks.of(200), 2):
        fresh = make_sampler(name, GRID)
        books = fresh.new_books()
        numbers = fresh.blocks.numbers(block)
        books.add(masks[: numbers.start])
        for number, mask in enumerate(masks[: fresh.blocks.num_known(block)]):
            books.tell(number, Hiding()(mask))
        assert fresh.block_masks(block, books) == masks[numbers.start : numbers.stop]
