"""Finalists, selection, and statistics against exact or independent computations."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.stats import bootstrap

from headmask.mask import HeadGrid, HeadMask
from orchestrator.statistics.paired import (
    MIN_CLUSTERS,
    MIN_DIFFERING,
    Outcomes,
    drawn_values,
    evidence,
    holm,
    paired_interval,
    paired_standard_error,
    permutation_p_value,
    permutation_p_values,
)
from orchestrator.statistics.selection import Judged, as_good, finalists, matched_random_masks, select
from strategies import Limits

# C clusters, K metrics

GRID = HeadGrid(3, 4)
EMPTY = HeadMask.empty(GRID)


def mask(*heads):
    return HeadMask.from_text(GRID, ",".join(heads))


def test_finalists_are_the_best_masks_the_best_of_every_smaller_size_and_the_best_single_head():
    two, other, three = mask("L2H2", "L1H1"), mask("L2H3", "L1H1"), mask("L0H0", "L1H1", "L2H0")
    masks = [EMPTY, mask("L0H0"), mask("L0H1"), three, two, other]
    values = np.array([0.3, 0.1, 0.2, 0.9, 0.8, 0.7])
    assert finalists(masks, values, 1) == [three, two, EMPTY, masks[2]]
    assert finalists(masks, values, 3) == [three, two, other, EMPTY, masks[2]]
    assert finalists(masks, values, 99) == [three, two, other, EMPTY, masks[2], masks[1]]


def test_failed_masks_are_no_finalists():
    masks = [EMPTY, mask("L0H0"), mask("L0H1")]
    assert finalists(masks, np.array([0.1, np.nan, 0.05]), 5) == [EMPTY, masks[2]]


def chosen(masks, values, guides=None, error=lambda index, best: None, guide_error=lambda index, best: None):
    """Return the index of the selected mask; without guides, the objective is the guide."""
    values = np.array(values)
    guides = values if guides is None else np.array(guides)
    return select(masks, Judged(values, error), Judged(guides, guide_error))


def test_ties_go_to_fewer_heads():
    masks = [mask("L0H0", "L0H1"), mask("L2H3"), EMPTY]
    assert chosen(masks, [0.5, 0.5, 0.5]) == 2
    assert chosen(masks, [0.5, 0.5, 0.4]) == 1
    assert chosen(masks, [0.5, np.nan, 0.4]) == 0


def test_of_masks_with_about_the_same_recall_the_smallest_that_is_as_good_by_the_guide_is_selected():
    masks = [mask("L0H0", "L0H1", "L1H0"), mask("L2H3", "L2H0"), mask("L0H0", "L0H1"), mask("L1H1"), EMPTY]
    values, guides = [0.5, 0.46, 0.47, 0.42, 0.1], [0.70, 0.69, 0.75, 0.60, 0.80]
    assert chosen(masks, values, guides) == 0, "without a standard error, only the best recall counts"
    close = {"error": lambda index, best: 0.0401}
    assert chosen(masks, values, guides, **close) == 2
    assert chosen(masks, values, guides, **close, guide_error=lambda index, best: 0.299) == 2
    assert chosen(masks, values, guides, **close, guide_error=lambda index, best: 0.301) == 3
    far = {"error": lambda index, best: 0.0399}
    assert chosen(masks, values, guides, **far, guide_error=lambda index, best: 0.301) == 2
    assert chosen(masks, values, guides, error=lambda index, best: 0.2001) == 4


@given(st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_the_selected_mask_is_that_of_the_rule_word_by_word(seed):
    rng = np.random.default_rng(seed)
    masks = [
        HeadMask.from_heads(GRID, [list(GRID)[i] for i in rng.permutation(12)[: rng.integers(4)]]) for _ in range(9)
    ]
    masks = list(dict.fromkeys(masks))
    values, guides = rng.integers(-1, 6, size=(2, len(masks))) / 10
    errors, guide_errors = rng.random((2, len(masks))) / 5
    best = min(range(len(masks)), key=lambda i: (-values[i], len(masks[i]), masks[i].words))
    close = [
        i
        for i in range(len(masks))
        if values[best] - values[i] <= 2 * errors[i] and not (values[i] < 0 <= values[best])
    ]
    leader = min(close, key=lambda i: (-guides[i], len(masks[i]), masks[i].words))
    good = [i for i in close if i == leader or guides[leader] - guides[i] <= 0.5 * guide_errors[i]]
    expected = min(good, key=lambda i: (len(masks[i]), i != leader, -guides[i], masks[i].words))
    found = chosen(masks, values, guides, lambda i, best: errors[i], lambda i, best: guide_errors[i])
    assert found == expected


def test_standard_errors_are_asked_for_between_a_mask_and_the_best_one():
    masks, asked = [mask("L0H0", "L0H1", "L1H0"), mask("L2H3", "L2H0"), mask("L1H1")], []

    def error(index, best):
        asked.append((index, best))
        return 1.0

    assert chosen(masks, [0.5, 0.46, 0.42], [0.1, 0.3, 0.2], error, error) == 2
    assert asked == [(1, 0), (2, 1), (2, 0)]


def test_a_mask_that_breaks_a_limit_is_selected_only_if_all_do():
    masks = [mask("L0H0", "L0H1"), mask("L1H1"), EMPTY]
    wide = {"error": lambda index, best: 1.0}
    assert chosen(masks, [0.02, -0.01, np.nan], [0.1, 0.9, 0.9], **wide) == 0
    assert chosen(masks, [-0.02, -0.01, np.nan], [0.9, 0.1, 0.9], **wide) == 0
    assert chosen(masks, [-0.02, -0.01, np.nan], [0.9, 0.1, 0.9]) == 1


def test_where_the_objective_is_the_guide_half_a_standard_error_decides():
    masks = [mask("L0H0", "L0H1"), mask("L1H1"), EMPTY]
    error = {"error": lambda index, best: 0.1, "guide_error": lambda index, best: 0.1}
    assert chosen(masks, [0.5, 0.451, 0.449], **error) == 1


def test_nothing_to_select_from_is_an_error():
    with pytest.raises(ValueError, match="no finalist has a value"):
        chosen([EMPTY], [np.nan])


@given(st.integers(0, 500), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_matched_random_masks_match_per_layer_and_keep_to_limits(seed, size):
    rng = np.random.default_rng(seed)
    limits = Limits(protect=frozenset({"L0H3", "L2H0"}))
    free = limits.free_heads(GRID)
    size = min(size, len(free))
    own = HeadMask.from_heads(GRID, [free[i] for i in rng.choice(len(free), size=size, replace=False)])
    drawn = matched_random_masks(own, 10, rng, limits)
    assert len(set(drawn)) == len(drawn) <= 10
    assert own not in drawn
    assert all(each.layer_counts == own.layer_counts and set(each.heads) <= set(free) for each in drawn)


def test_the_empty_mask_has_no_random_match():
    assert matched_random_masks(EMPTY, 10, np.random.default_rng(0)) == []


def outcomes(hits, queries=None, weights=None):
    hits_CK = np.asarray(hits, dtype=float)
    hits_CK = hits_CK[:, None] if hits_CK.ndim == 1 else hits_CK
    queries_CK = np.ones_like(hits_CK) if queries is None else np.asarray(queries, dtype=float)
    weights_K = np.full(hits_CK.shape[1], 1 / hits_CK.shape[1]) if weights is None else weights
    return Outcomes(hits_CK, queries_CK, lambda ratios_RK: ratios_RK @ weights_K)


def test_the_interval_is_that_of_scipys_paired_bootstrap():
    """Unequal cluster sizes and two metrics, against scipy's percentile bootstrap of the same statistic."""
    rng = np.random.default_rng(0)
    queries = np.stack([rng.integers(1, 6, size=150), np.ones(150)], axis=1)
    before, after = (rng.binomial(queries.astype(int), p).astype(float) for p in (0.4, 0.5))
    ours = paired_interval(outcomes(before, queries), outcomes(after, queries), draws=10_000)

    def delta(*columns, axis):
        b0, b1, a0, a1, q0, q1 = columns
        return 0.5 * ((a0 - b0).sum(axis) / q0.sum(axis) + (a1 - b1).sum(axis) / q1.sum(axis))

    data = (*before.T, *after.T, *queries.T)
    theirs = bootstrap(
        data, delta, paired=True, vectorized=True, n_resamples=10_000, method="percentile", batch=500, random_state=rng
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_the_interval_of_equal_outcomes_is_zero():
    same = outcomes(np.random.default_rng(0).integers(2, size=50))
    assert paired_interval(same, same) == (0.0, 0.0)
    assert permutation_p_value(same, same) == 1.0


def test_the_standard_error_is_that_of_a_mean_of_paired_differences():
    """Textbook: the deviation of the differences over the root of their number."""
    rng = np.random.default_rng(4)
    before, after = rng.random((2, 500)) < [[0.5], [0.6]]
    textbook = np.std(after.astype(float) - before) / np.sqrt(500)
    assert paired_standard_error(outcomes(before), outcomes(after)) == pytest.approx(textbook, rel=0.08)
    assert paired_standard_error(outcomes(before), outcomes(before)) == 0


def test_intervals_cover_the_truth_as_often_as_they_say():
    """2,000 simulated test splits of 200 images, true delta 5 points: 95 % of intervals hold it, give or take."""
    rng, held, runs = np.random.default_rng(1), 0, 400
    for seed in range(runs):
        before = rng.random(200) < 0.5
        after = np.where(rng.random(200) < 0.1, True, before)  # turns half of those chosen from miss to hit
        low, high = paired_interval(outcomes(before), outcomes(after), draws=1000, seed=seed)
        held += low <= 0.05 <= high
    assert 0.91 <= held / runs <= 0.99


def test_p_values_equal_full_enumeration():
    rng = np.random.default_rng(2)
    before, after = rng.integers(2, size=(2, 10)).astype(float)
    difference = after - before
    exact = np.mean(
        [abs(np.dot(signs, difference)) >= abs(difference.sum()) - 1e-12 for signs in product((-1, 1), repeat=10)]
    )
    found = permutation_p_value(outcomes(before), outcomes(after), draws=20_000, min_clusters=0)
    assert found == pytest.approx(exact, abs=0.012)


def test_p_values_are_uniform_when_nothing_changed():
    rng, below = np.random.default_rng(3), 0
    for seed in range(300):
        before, after = rng.random((2, 80)) < 0.5
        below += permutation_p_value(outcomes(before), outcomes(after), draws=400, seed=seed) <= 0.1
    assert 0.05 <= below / 300 <= 0.15


def turned(num_clusters, num_turned, sizes=None):
    """Return outcomes before and after some clusters turn from miss to hit."""
    before, after = np.zeros(num_clusters), np.arange(num_clusters) < num_turned
    sides = [outcomes(hits) for hits in (before, after.astype(float))]
    return [replace(side, sizes_C=sizes) for side in sides]


@pytest.mark.parametrize("num_clusters", [1, 2, 7, MIN_CLUSTERS - 1])
def test_too_few_clusters_have_no_interval_no_p_value_no_error_and_claim_nothing(num_clusters):
    sides = turned(num_clusters, num_clusters // 2)
    found = evidence(*sides)
    assert (found.interval, found.p_value, found.num_clusters) == (None, None, num_clusters)
    assert paired_standard_error(*sides) is None
    assert not found.improves
    assert not found.loses_at_most(1.0)


def test_on_several_data_sets_that_with_the_fewest_clusters_decides():
    sides = zip(turned(400, 200), turned(MIN_CLUSTERS - 1, 10), strict=True)
    assert evidence(*map(list, sides)).interval is None


def test_a_cluster_that_holds_half_of_the_images_counts_as_much_as_it_weighs():
    sizes = np.array([60, *[1] * 60])
    found = evidence(*turned(61, 40, sizes))
    assert found.num_clusters == pytest.approx(120**2 / (60**2 + 60))
    assert found.interval is None


def test_enough_clusters_that_change_improve():
    found = evidence(*turned(MIN_CLUSTERS, MIN_DIFFERING))
    assert 0 < found.interval[0] < 0.5 < found.interval[1]
    assert found.p_value < 0.01
    assert found.improves


def test_an_improvement_needs_enough_clusters_that_change():
    found = evidence(*turned(1000, MIN_DIFFERING - 1))
    assert found.interval[0] > 0
    assert found.p_value < 0.01
    assert not found.improves


def test_an_interval_without_width_shows_no_improvement():
    found = evidence(*turned(30, 30))
    assert found.interval == (1.0, 1.0)
    assert not found.improves


def test_an_improvement_needs_the_permutation_test_too():
    before = np.zeros(200)
    after = np.concatenate([[40.0], np.full(9, 0.1), np.zeros(190)])
    found = evidence(*(outcomes(hits) for hits in (before, after)))
    assert not replace(found, p_value=0.051).improves
    assert replace(found, p_value=0.05, interval=(0.01, 0.1)).improves


@pytest.mark.parametrize(("num_clusters", "limit", "shown"), [(1000, 0.01, True), (300, 0.01, False), (30, 0.0, False)])
def test_where_nothing_changes_a_limit_holds_with_many_clusters_only(num_clusters, limit, shown):
    found = evidence(*turned(num_clusters, 0))
    assert found.interval == (0.0, 0.0)
    assert found.loses_at_most(limit) == shown


def test_one_mask_beside_itself_loses_nothing_whatever_there_is():
    (same, _) = turned(3, 0)
    found = evidence(same, same)
    assert (found.interval, found.p_value) == ((0.0, 0.0), 1.0)
    assert found.loses_at_most(0.0)
    assert not found.improves


@pytest.mark.parametrize("num_clusters", [2, 5, 10, 20, 40])
def test_few_clusters_claim_nothing_more_often_than_intervals_promise(num_clusters):
    """Clusters that differ by as much either way, at random: 2.5 % may claim; 17 of 400 are the 99 % point."""
    claims = 0
    for seed in range(400):
        rng = np.random.default_rng((seed, num_clusters))
        sides = [outcomes(hits) for hits in (np.zeros(num_clusters), rng.normal(size=num_clusters))]
        claims += evidence(*sides, draws=400, seed=seed).improves
    assert claims <= 17 if num_clusters >= MIN_CLUSTERS else claims == 0


def test_without_a_standard_error_only_a_smaller_mask_that_scores_no_less_is_selected():
    assert as_good(0.5, 0.5, None)
    assert not as_good(0.4999, 0.5, None)


def test_the_objective_is_the_weighted_sum_of_ratios():
    value = outcomes([[1, 2], [0, 3]], [[1, 4], [1, 4]], np.array([0.25, 0.75])).objective()
    assert value == pytest.approx(0.25 * 0.5 + 0.75 * 5 / 8)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_several_masks_compared_together_are_compared_as_each_pair_alone(is_sparse):
    rng = np.random.default_rng(5)

    def drawn(num_clusters):
        found = outcomes(rng.integers(3, size=(num_clusters, 2)), np.full((num_clusters, 2), 2))
        return Outcomes(csr_array(found.hits_CK), found.queries_CK, found.value) if is_sparse else found

    masks = [(drawn(30), drawn(40)) for _ in range(4)]
    options = {"combine": lambda values_RD: values_RD.min(1), "draws": 600, "seed": 3}
    values_RM = drawn_values(masks, **options)
    assert values_RM.shape == (600, 4)
    for one, other in combinations(range(4), 2):
        alone = paired_interval(masks[one], masks[other], **options)
        assert np.quantile(values_RM[:, other] - values_RM[:, one], (0.025, 0.975)) == pytest.approx(alone)
    alone = [permutation_p_value(masks[0], mask, **options) for mask in masks[1:]]
    assert permutation_p_values(masks[0], masks[1:], **options) == alone
    assert permutation_p_values(masks[0], []) == []


@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.03, 0.2, 0.6, 1.0]), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_holms_adjustment_is_the_closed_test_of_bonferroni(p_values):
    """A hypothesis falls when every set of hypotheses with it falls by Bonferroni (Marcus et al. 1976), enumerated."""
    places = range(len(p_values))
    sets = [chosen for size in places for chosen in combinations(places, size + 1)]
    by_sets = [
        max(min(1.0, len(chosen) * min(p_values[j] for j in chosen)) for chosen in sets if place in chosen)
        for place in places
    ]
    assert holm(p_values) == pytest.approx(by_sets)


def test_nothing_is_adjusted_where_nothing_is_compared():
    assert holm([]) == []
