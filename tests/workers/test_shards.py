"""Replicas that share the images out give the bits of one that scores them all; only what is lost is done again."""

import numpy as np
import pytest

from headmask.mask import HeadMask
from tests.orchestrator.studies import outcome, start, trials
from tests.tiny import random_masks, write_tiny_dataset
from workers.cluster import Resources
from workers.constants import Constants
from workers.fleet import Member
from workers.messages import Stage
from workers.replica import Replica
from workers.shards import ShardGroup

NUM_IMAGES = 1100
"""Two blocks: so many that every one of two shards has some."""


@pytest.fixture(scope="module")
def large_files(tiny_files, tmp_path_factory):
    """A tiny model and a data set with two blocks of images in one split, and one in the others."""
    path = tmp_path_factory.mktemp("large") / "data.parquet"
    return tiny_files[0], write_tiny_dataset(path, search=NUM_IMAGES, confirm=30, test=30)


@pytest.mark.parametrize("changes", [{}, {"search__ablation": "mean", "search__precision": "bfloat16"}])
def test_a_sharded_study_is_the_unsharded_one(tiny_config, large_files, local_ray, changes):
    alone = tiny_config(name="alone", files=large_files, **changes)
    shared = tiny_config(
        name="shared", files=large_files, pool__kind="ray", pool__replicas=2, pool__shards=2, **changes
    )
    start(alone), start(shared)
    assert trials(shared.folder) == trials(alone.folder)
    assert outcome(shared.folder) == outcome(alone.folder)


@pytest.fixture
def group(tiny_config, large_files, local_ray):
    """Two shards, driven from this process, and the payload that they score."""
    from orchestrator.session import prepare

    payload = prepare(tiny_config(files=large_files)).payload
    packed = local_ray.put(payload.packed())
    made = ShardGroup(payload, "cpu", Constants("float32", 32), [packed], 2, Resources(1))
    yield made, payload
    for fleet in made._fleets:
        fleet.stop()


def test_a_lost_shard_is_done_again_and_nothing_else_is(group, local_ray, monkeypatch):
    group, payload = group
    stage = Stage("search", ranks=True, embeddings=True)
    masks = random_masks(group.grid, 5)
    words = [mask.words for mask in masks]
    called, call, done = [], Member.call, group._done
    monkeypatch.setattr(
        Member, "call", lambda self, method, *rest: (called.append((self, method)), call(self, method, *rest))[1]
    )
    lost = group._fleets[1].members[0]

    def done_and_lost(request, shards=None):
        found = done(request, shards)
        if called[-1][1] == "embed":
            local_ray.kill(lost.actor)
        return found

    monkeypatch.setattr(group, "_done", done_and_lost)
    scores = group.score(stage, group.grid, words)
    expected = Replica(payload, "cpu", Constants("float32", 32)).score(stage, group.grid, words)
    for score, whole in zip(scores, expected, strict=True):
        assert score.metrics == whole.metrics
        np.testing.assert_array_equal(score.embeddings[0], whole.embeddings[0])
        for kind, ranks in whole.ranks[0].items():
            np.testing.assert_array_equal(score.ranks[0][kind], ranks)
    first, second = (fleet.members[0] for fleet in group._fleets)
    assert second is not lost
    by_member = {member: [method for each, method in called if each is member] for member in (first, lost, second)}
    assert by_member[first] == ["embed", "rank"]
    assert by_member[lost] == ["embed", "rank"]
    assert by_member[second] == ["adopt", "embed", "rank"]


def test_a_mask_without_finite_embeddings_fails_alone(group, monkeypatch):
    group, _ = group
    empty = HeadMask.empty(group.grid)
    exchanged = group._exchanged

    def spoiled(stage, grid, words):
        found_SDM = exchanged(stage, grid, words)
        found_SDM[1][0][0] = type(found_SDM[1][0][0])(None)
        return found_SDM

    monkeypatch.setattr(group, "_exchanged", spoiled)
    first, second = group.score(Stage("search"), group.grid, [empty.words, empty.words])
    assert (first.failure, first.metrics) == ("non-finite embeddings", {})
    assert second.failure is None


def test_a_shard_that_is_lost_again_and_again_ends_the_batch(group, local_ray):
    group, _ = group

    def request(index, member):
        local_ray.kill(member.actor)
        return member.call("device_kind")

    with pytest.raises(RuntimeError, match="shard 0 was lost 2 times over the same work"):
        group._done(request, [0])
