"""The guard against overfitting holds on null data, and what measures that would notice if it did not."""

import json
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from benchmarks.validity import clusters, control, differences, null, planted, refined, shuffled
from benchmarks.validity.control import random_masks
from benchmarks.validity.differences import Differences, Searched
from benchmarks.validity.null import Sizes
from benchmarks.validity.searches import Workload, write_scenes
from benchmarks.validity.shares import most_by_chance, share
from headmask.mask import HeadGrid, HeadMask
from headmask.models.loading import load_model
from headmask.scales import HeadScales
from orchestrator.demo import unpack_demo
from orchestrator.statistics.paired import Outcomes
from tests.tiny import random_masks as any_masks
from workers.data.dataset import Dataset

pytestmark = pytest.mark.usefixtures("undrawn")

# M masks, C clusters, K ratio metrics

GRID = HeadGrid(3, 4)
SIZES = Sizes(search=60, confirm=80, test=200)
NUM_DRAWS = 100
SMALL = {"search": 100, "confirm": 100, "test": 200}
TINY = {"search": 30, "confirm": 30, "test": 60}


@pytest.fixture(scope="module")
def stored():
    """60 masks that change one scene in seven, half of them all in the same scenes."""
    rng = np.random.default_rng(0)
    masks = [HeadMask.empty(GRID), *(mask for mask in any_masks(GRID, 60) if not mask.is_empty)]
    before_CK = rng.integers(2, size=(500, 2)).astype(float)
    delta_MCK = np.where(rng.random((len(masks), 500, 2)) < 0.15, 1 - 2 * before_CK, 0)
    delta_MCK[::2] = np.where(rng.random((len(masks), 500, 2)) < 0.7, delta_MCK[2], delta_MCK)[::2]
    delta_MCK[0] = 0
    before = Outcomes(before_CK, np.ones_like(before_CK), lambda ratios_RK: ratios_RK.mean(1))
    found = Differences(before, delta_MCK)
    return Searched(tuple(masks), found, found)


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    return Workload(unpack_demo(tmp_path_factory.mktemp("demo")).model, 60, SMALL)


def test_no_more_is_claimed_on_null_draws_than_chance_allows(stored):
    assert null.count_claims(stored, SIZES, range(NUM_DRAWS)) <= most_by_chance(NUM_DRAWS)


@pytest.mark.parametrize("way", [null.reported_on_confirm, null.reported_on_search])
def test_reporting_where_was_selected_is_noticed(stored, way):
    assert null.count_claims(stored, SIZES, range(NUM_DRAWS), way) > 2 * most_by_chance(NUM_DRAWS)


def test_refinements_claim_no_more_on_null_draws_than_chance_allows(stored):
    scales = tuple(HeadScales.of(mask) for mask in stored.masks)
    assert refined.count_claims(scales, stored.objective, SIZES, range(NUM_DRAWS)) <= most_by_chance(NUM_DRAWS)


def test_splits_share_no_scene():
    parts = null.three_splits(SIZES, 500, np.random.default_rng(0))
    assert list(map(len, parts)) == [60, 80, 200]
    assert len(np.unique(np.concatenate(parts))) == 340


def test_a_flipped_scene_loses_what_it_gained_under_every_mask(stored):
    part, ones_C = np.arange(500), np.ones(500)
    found = stored.objective
    gains = [found.values(sign * ones_C, part) - found.values(0 * ones_C, part) for sign in (1, -1)]
    assert gains[0] == pytest.approx(-gains[1])
    assert found.values(ones_C, part) == pytest.approx(
        [found.outcomes(index, ones_C, part).objective() for index in range(len(stored.masks))]
    )


def test_few_clusters_claim_nothing_and_intervals_alone_would():
    above, would, claimed = clusters.count_few("normally distributed", "of one size", 5, range(200))
    assert above > most_by_chance(200)
    assert would == claimed == 0


def test_every_rule_links_what_its_name_says():
    found = clusters.count_linked("own captions, and one that all share", range(2))
    assert {rule: each.clusters for rule, each in found.items()} == {
        "none": 200, "any caption": 1, "a caption that 5 at most share": 200, "all captions": 200, "product": 200,
    }  # fmt: skip
    assert found["any caption"].width == 0
    found = clusters.count_linked("5 views of each thing, with its caption", range(1))
    assert found["product"].clusters == found["all captions"].clusters == 40


def test_more_than_the_99_percent_point_is_too_much():
    assert most_by_chance(1000) == 37
    assert most_by_chance(20) == 3


def test_shares_have_exact_intervals():
    assert share(0, 50)["interval"] == pytest.approx([0, 1 - 0.025 ** (1 / 50)])
    assert share(50, 50)["interval"] == pytest.approx([0.025 ** (1 / 50), 1])


def test_shuffled_captions_stay_in_their_split_but_not_with_their_image(tmp_path):
    own, dealt = (
        Dataset(write_scenes(tmp_path / f"{shuffled}.parquet", 1, TINY, shuffled=shuffled))
        for shuffled in (False, True)
    )
    assert own.splits() == dealt.splits()
    for name in TINY:
        before, after = (
            [captions for captions, split in zip(data.captions(), data.splits(), strict=True) if split == name]
            for data in (own, dealt)
        )
        assert sorted(chain.from_iterable(before)) == sorted(chain.from_iterable(after))
        assert sum(bool({*a} & {*b}) for a, b in zip(before, after, strict=True)) < len(before) / 4


def test_random_masks_are_small_and_distinct():
    grid = HeadGrid(8, 6)
    masks = random_masks(grid, 150, np.random.default_rng(0))
    assert len(set(masks)) == 150
    assert masks[0].is_empty
    assert {len(mask) for mask in masks[1:]} == set(range(1, 13))


def test_planted_noise_goes_with_its_heads(workload, tmp_path):
    """Ablating planted heads gives what ablating them in the model without noise gives, and costs enough not to."""
    data = write_scenes(tmp_path / "scenes.parquet", 5, SMALL, cue=1.0)
    model = load_model(f"local-dir:{workload.model}")
    planting = planted.plant(model, data, seed=2)
    assert len(planting.mask) == 3
    assert planting.cost >= 2 * planting.standard_error > 0
    again = planted.plant(model, data, seed=2)
    assert (again.mask, again.scale, again.cost) == (planting.mask, planting.scale, planting.cost)


@pytest.mark.slow
def test_a_refinement_weakens_useful_heads_with_noise(workload, runs):
    found = refined.undo(runs, workload, seed=7)
    assert found.refined > found.baseline
    assert len(found.planted) == 12
    assert found.planted == tuple(found.scales)
    json.dumps(found.to_json())


def test_a_search_undoes_planted_harm(workload, runs):
    recovery = planted.recover(runs, workload, seed=6, galleries=2)
    assert len(recovery.planted) == 1
    assert recovery.selected_removed > recovery.baseline
    assert recovery.not_below
    json.dumps(recovery.to_json())


def test_the_margin_is_kept_only_if_the_interval_shows_it():
    recovery = planted.Recovery(0, ("L0H0",), (), 1.0, 0.1, 0.01, 0.5, 0.6, 0.592, (-0.012, 0.004), is_reliable=True)
    assert recovery.not_below
    assert not recovery.not_inferior


def test_a_search_where_nothing_can_be_learnt_claims_nothing(workload, runs):
    found = shuffled.search_nothing(runs, replace(workload, sizes=TINY), seed=0)
    assert found.gain_on_search > 0
    assert not found.is_reliable


@pytest.mark.slow
def test_random_search_is_compared_on_the_same_data(workload, runs):
    comparison = control.compare(runs, replace(workload, sizes=TINY), seed=0)
    assert comparison.difference == pytest.approx(comparison.gain_searched - comparison.gain_random)
    assert len(comparison.random) <= 12


@pytest.mark.slow
def test_differences_are_those_of_all_masks_on_test(workload, runs):
    found = differences.measure(runs, replace(workload, sizes=TINY), seed=0)
    assert len(found.masks) == workload.masks
    for each in (found.objective, found.guide):
        assert each.num_clusters == TINY["test"]
        assert each.delta_MCK.any(axis=(1, 2)).sum() > workload.masks / 2
        assert not each.delta_MCK[[mask.is_empty for mask in found.masks]].any()
