"""Replicas that share the images out give the bits of one that scores them all; only what is lost is done again."""

import contextlib

import numpy as np
import pytest
import torch

from headmask.mask import HeadMask
from tests.orchestrator.studies import outcome, start, trials
from tests.tiny import random_masks, write_tiny_dataset
from workers.pool.cluster import Resources
from workers.pool.fleet import Member
from workers.pool.group import ShardGroup
from workers.pool.shard import Shard, joined
from workers.scoring.constants import Constants
from workers.scoring.displacement import Displacements, displacement
from workers.scoring.messages import ScaleTask, Stage
from workers.scoring.replica import Replica
from workers.scoring.scorer import Scorer

CONSTANTS = Constants("float32", 32)
NUM_IMAGES = 1100
"""Two blocks: so many that every one of two shards has some."""


@pytest.fixture(scope="module")
def large_files(tiny_files, tmp_path_factory):
    """A tiny model and a data set with two blocks of images in one split, and one in the others."""
    path = tmp_path_factory.mktemp("large") / "data.parquet"
    return tiny_files[0], write_tiny_dataset(path, search=NUM_IMAGES, confirm=30, test=30)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        # Predictions for so many images take most of the time.
        {"search__ablation": "mean", "search__precision": "bfloat16", "search__surrogate": False},
    ],
)
def test_a_sharded_study_is_the_unsharded_one(tiny_config, large_files, local_ray, changes):
    changes = {"budget__masks": 16, "search__finalists": 2, **changes}
    alone = tiny_config(name="alone", files=large_files, **changes)
    shared = tiny_config(
        name="shared", files=large_files, pool__kind="ray", pool__replicas=2, pool__shards=2, **changes
    )
    start(alone), start(shared)
    assert trials(shared.folder) == trials(alone.folder)
    assert outcome(shared.folder) == outcome(alone.folder)


@pytest.fixture(scope="module")
def payload(tmp_path_factory, large_files, task_files, empty_mlflow):
    """What shards are given: a large data set, and a small one of labels."""
    from orchestrator.search.preparing import prepare
    from orchestrator.settings.config import read_config
    from orchestrator.settings.options import flags_of

    paths = [str(large_files[1]), str(task_files / "labels.parquet")]
    options = {"model": f"local-dir:{large_files[0]}", "data": paths, "out": tmp_path_factory.mktemp("shards")}
    return prepare(read_config(None, flags_of(options))).payload


@pytest.fixture(scope="module")
def shards(payload, local_ray):
    """Two shards, driven from this process."""
    packed = local_ray.put(payload.packed())
    made = ShardGroup(payload, "cpu", CONSTANTS, [packed], 2, Resources(1), mixed=False)
    yield made
    made._fleet.stop()


@pytest.fixture
def group(shards):
    """The two shards, after those that a test before has killed were replaced."""
    shards._displacements = None
    shards._done(lambda index, member: member.call("device_kind"))
    return shards


def kill(ray, member):
    """Kill a shard; return once calls to it fail: one that is made sooner may still be answered."""
    ray.kill(member.actor)
    with contextlib.suppress(ray.exceptions.RayActorError):
        while ray.get(member.actor.call.remote("device_kind")):
            pass


def test_a_lost_shard_is_done_again_and_nothing_else_is(group, payload, local_ray, monkeypatch):
    stage = Stage("search", ranks=True, embeddings=True)
    words = [mask.words for mask in random_masks(group.grid, 5)]
    called, call, done = [], Member.call, group._done
    monkeypatch.setattr(
        Member, "call", lambda self, method, *rest: (called.append((self, method)), call(self, method, *rest))[1]
    )
    lost = group._shards[1]

    def done_and_lost(request, shards=None):
        found = done(request, shards)
        if called[-1][1] == "embed":
            kill(local_ray, lost)
        return found

    monkeypatch.setattr(group, "_done", done_and_lost)
    scores = group.score(stage, group.grid, words)
    expected = Replica(payload, "cpu", CONSTANTS).score(stage, group.grid, words)
    for score, whole in zip(scores, expected, strict=True):
        assert score.metrics == whole.metrics
        for place, ranks_of_set in enumerate(whole.ranks):
            np.testing.assert_array_equal(score.embeddings[place], whole.embeddings[place])
            for kind, ranks in ranks_of_set.items():
                np.testing.assert_array_equal(score.ranks[place][kind], ranks)
    first, second = group._shards
    assert second is not lost
    by_member = {member: [method for each, method in called if each is member] for member in (first, lost, second)}
    assert by_member[first] == by_member[lost] == ["embed", "rank"]
    assert by_member[second] == ["take_part", "adopt", "rank"]


def test_shards_that_predict_for_their_own_images_predict_what_one_does(group, payload, local_ray, monkeypatch):
    alone, stage = Replica(payload, "cpu", CONSTANTS), Stage("search", embeddings=True)
    masks = HeadMask.singles(group.grid)
    words = [mask.words for mask in masks]
    baseline, *moved = (score.embeddings for score in alone.score(stage, group.grid, words))
    displacements = [
        Displacements(
            baseline[place],
            {
                mask.heads[0]: displacement(each[place], baseline[place])
                for mask, each in zip(masks[1:], moved, strict=True)
            },
        )
        for place in range(len(baseline))
    ]
    words = [mask.words for mask in random_masks(group.grid, 20)]
    alone.adopt_displacements(displacements)
    expected = alone.score(Stage("search", predicted=True), group.grid, words)
    held = [local_ray.put(displacements)]
    for by_parts in (False, True):
        monkeypatch.setattr(group, "_displacements_are_parted", lambda by_parts=by_parts: by_parts)
        group.adopt_displacements(held)
        found = group.score(Stage("search", predicted=True), group.grid, words)
        assert [score.metrics for score in found] == [score.metrics for score in expected]


def test_micro_batches_are_shared_out(group, payload):
    tasks = [ScaleTask(0, np.arange(start, start + 8), np.full((3, 4), 0.5)) for start in (0, 8, 16)]
    alone = Replica(payload, "cpu", CONSTANTS).do(tasks)
    for ours, theirs in zip(group.do(tasks), alone, strict=True):
        assert ours.loss == theirs.loss
        np.testing.assert_array_equal(ours.gradient_LH, theirs.gradient_LH)


def test_a_mask_that_one_shard_cannot_embed_fails_alone(payload, monkeypatch):
    shards = [Shard(payload, "cpu", CONSTANTS) for _ in range(2)]
    for index, shard in enumerate(shards):
        shard.take_part((index, 2))
    embed = Scorer.embed

    def spoiled(self, masks_MLH):
        embedding_MnE = embed(self, masks_MLH).clone()
        if self._part.start:
            embedding_MnE[0, 0, 0] = torch.nan
        return embedding_MnE

    monkeypatch.setattr(Scorer, "embed", spoiled)
    stage, masks = Stage("search"), random_masks(shards[0].grid, 2)
    about = 1, stage, masks[0].grid, [mask.words for mask in masks]
    own = joined([shard.embed(*about) for shard in shards])
    assert [[each is None for each in own_M] for own_M in own] == [[True, False], [False, False]]
    found = [shard.rank(*about, own) for shard in shards]
    assert [[[each.partial is None for each in found_M] for found_M in found_DM] for found_DM in found] == [
        [[True, False], [False, False]]
    ] * 2


def test_a_replacement_is_not_blamed_for_whom_it_replaces(group, local_ray, monkeypatch):
    """Both shards die; that the second did is seen while the first is being replaced."""
    monkeypatch.setattr("workers.pool.fleet.SIGN_S", 0.0)
    monkeypatch.setattr("workers.pool.fleet.LOOK_S", 0.0)
    first, before = list(group._shards), group._fleet.num_lost

    def request(index, member):
        if member in first:
            kill(local_ray, member)
        return member.call("device_kind")

    assert group._done(request) == [group.device_kind()] * 2
    assert group._fleet.num_lost == before + 2


def test_a_shard_that_is_lost_again_and_again_ends_the_batch(group, local_ray):
    def request(index, member):
        kill(local_ray, member)
        return member.call("device_kind")

    with pytest.raises(RuntimeError, match="shard 0 was lost 2 times over the same work"):
        group._done(request, [0])
