"""The pairwise model against a known function, and tabu search against brute force."""

from itertools import product

import numpy as np

from strategies.model import Functions, PairwiseModel
from strategies.tabu import tabu_search


def quadratic(num_heads, seed):
    """Return head and pair terms; a tenth of the pairs interact."""
    rng = np.random.default_rng(seed)
    pairs = np.triu(rng.normal(size=(num_heads, num_heads)) * (rng.random((num_heads, num_heads)) < 0.1), 1)
    return rng.normal(size=num_heads), pairs + pairs.T


def values(bits, heads, pairs):
    return bits @ heads + 0.5 * ((bits @ pairs) * bits).sum(1)


def test_sparse_pairs_are_recovered_from_fewer_trials_than_there_are_pairs():
    heads, pairs = quadratic(30, seed=0)
    bits = np.random.default_rng(1).random((300, 30)) < 0.3
    model = PairwiseModel(bits, values(bits, heads, pairs), np.ones(300), bits.sum(1))
    found = model.mean_function().pair_RSS[0]
    assert np.corrcoef(found.ravel(), pairs.ravel())[0, 1] > 0.99


def test_a_cliff_beyond_a_size_is_learned():
    bits = np.random.default_rng(1).random((200, 20)) < np.linspace(0.1, 0.8, 200)[:, None]
    sizes = bits.sum(1)
    model = PairwiseModel(bits, -1.0 * np.maximum(0, sizes - 7) ** 1.5, np.ones(200), sizes)
    functions = model.mean_function()
    few_and_many = np.arange(20) < np.array([[5], [12]])
    predicted = functions.values(few_and_many, few_and_many.sum(1))[0]
    assert abs(predicted[0]) < 1
    assert abs(predicted[1] + 5**1.5) < 2


def test_samples_scatter_where_nothing_is_known_and_agree_where_all_is():
    heads, pairs = quadratic(12, seed=3)
    rng = np.random.default_rng(0)
    spread = []
    for count in (20, 400):
        bits = np.random.default_rng(1).random((count, 12)) < 0.4
        model = PairwiseModel(bits, values(bits, heads, pairs), np.ones(count), bits.sum(1))
        spread.append(model.functions(16, rng, np.zeros(12)).pair_RSS[1:].std(0).mean())
    assert spread[0] > 10 * spread[1]


def test_tabu_search_finds_the_best_mask_of_every_function():
    functions = [quadratic(10, seed) for seed in range(6)]
    sizes = -0.3 * np.maximum(0, np.arange(11) - 4.0)
    stacked = Functions(
        np.stack([heads for heads, _ in functions]), np.stack([pairs for _, pairs in functions]), np.tile(sizes, (6, 1))
    )
    starts = np.zeros((2, 10), dtype=bool)
    starts[1, :4] = True
    visited, found = tabu_search(stacked, starts, 60, 7, np.random.default_rng(0))
    every = np.array(list(product([0.0, 1.0], repeat=10)))
    every = every[every.sum(1) <= 7]
    for place, ((heads, pairs), bits, each) in enumerate(zip(functions, visited, found, strict=True)):
        np.testing.assert_allclose(each, stacked.values(bits, bits.sum(1))[place], atol=1e-9)
        assert (bits.sum(1) <= 7).all()
        np.testing.assert_allclose(each, values(bits.astype(float), heads, pairs) + sizes[bits.sum(1)], atol=1e-9)
        assert np.isclose(each.max(), (values(every, heads, pairs) + sizes[every.sum(1).astype(int)]).max())


def test_a_model_given_trials_later_is_that_given_all_at_once():
    """But for the variances, which are those that the first trials taught."""
    heads, pairs = quadratic(12, seed=3)
    bits = np.random.default_rng(1).random((120, 12)) < 0.4
    told = bits, values(bits, heads, pairs) + 5.0, np.linspace(1, 3, 120), bits.sum(1)
    first, middle, last = ([part[a:b] for part in told] for a, b in ((0, 60), (60, 100), (100, 120)))
    model = PairwiseModel(*first)
    at_once = model.updated(*(part[60:] for part in told)).mean_function()
    in_turn = model.updated(*middle).updated(*last).mean_function()
    np.testing.assert_allclose(in_turn.pair_RSS, at_once.pair_RSS, atol=1e-6)
    np.testing.assert_allclose(in_turn.size_RN, at_once.size_RN, atol=1e-6)
    before, after = (np.abs(each.pair_RSS[0] - pairs).mean() for each in (model.mean_function(), at_once))
    assert after < before


def test_what_a_model_expects_is_what_a_dense_posterior_says():
    """With the variances that it learned, and all coefficients at once."""
    heads, pairs = quadratic(8, seed=2)
    rng = np.random.default_rng(4)
    bits = rng.random((90, 8)) < 0.4
    rest, noise, sizes = values(bits, heads, pairs) + rng.normal(0, 0.3, 90), np.linspace(1, 2, 90), bits.sum(1)
    model = PairwiseModel(bits[:60], rest[:60], noise[:60], sizes[:60]).updated(
        bits[60:], rest[60:], noise[60:], sizes[60:]
    )
    features, variance = model._features(bits, sizes), model._variance_C
    covariance = features * variance @ features.T + model._noise * np.diag(noise**2)
    mean = variance * (features.T @ np.linalg.solve(covariance, rest / model._scale)) * model._scale
    found = model.mean_function()
    np.testing.assert_allclose(found.head_RS[0], mean[:8], atol=1e-6)
    np.testing.assert_allclose(found.values(bits, sizes)[0], features @ mean, atol=1e-6)
