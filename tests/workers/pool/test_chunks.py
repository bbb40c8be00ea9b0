"""The other side is embedded by replicas, each a share: the same bits whoever does what, and nothing by the driver."""

import os
import signal
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from headmask.errors import PoolError
from orchestrator.search.preparing import load, ready
from tests.orchestrator.studies import start, trials
from tests.tiny import TEXT, tiny_clip
from tests.workers.fakes import FATAL, FakePayload, FakeReplica
from workers.pool.cluster import Resources
from workers.pool.group import ShardGroup
from workers.pool.inline import InlinePool
from workers.pool.ray import RayPool
from workers.scoring.embedding import embedded
from workers.scoring.inputs import Normalisation
from workers.scoring.stock import Encoder, EncodingHere

pytestmark = pytest.mark.usefixtures("undrawn")

NORMALISATION = Normalisation(np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
FAKE_ENCODER = SimpleNamespace(key="fake", size=lambda device: 4)


@pytest.fixture(scope="module")
def encoder():
    return Encoder.of(tiny_clip(text={**TEXT, "context_length": 40}), "text", NORMALISATION, 1)


@pytest.fixture(scope="module")
def tokens():
    tokens_QT = np.zeros((300, 40), np.int64)
    tokens_QT[:, :9] = np.random.default_rng(0).integers(1, 60, size=(300, 9))
    return tokens_QT


@pytest.mark.parametrize("replicas", [1, 2])
def test_pools_of_any_size_embed_with_the_bits_of_this_process(local_ray, tiny_session, encoder, tokens, replicas):
    here = embedded(EncodingHere("cpu"), encoder, tokens)
    progress = []
    with closing(RayPool(tiny_session.payload, replicas=replicas)) as pool:
        found = embedded(pool, encoder, tokens, on_progress=lambda *count: progress.append(count))
    np.testing.assert_array_equal(found, here)
    np.testing.assert_array_equal(embedded(InlinePool(tiny_session.payload), encoder, tokens), here)
    assert progress[-1] == (300, 300)
    assert len(progress) > 2


def test_a_group_of_shards_embeds_with_the_bits_of_one(local_ray, tiny_session, encoder, tokens):
    group = ShardGroup(
        tiny_session.payload, "cpu", None, [local_ray.put(tiny_session.payload.packed())], 2, Resources(1), mixed=False
    )
    try:
        found = group.encode(encoder.key, [local_ray.put(encoder)], [tokens[:32], tokens[32:64], tokens[64:96]])
        group.forget_encoder()
        assert group.survey().cost == tiny_session.survey.cost
    finally:
        group._fleet.stop()
    np.testing.assert_array_equal(np.concatenate(found), embedded(EncodingHere("cpu"), encoder, tokens)[:96])


def test_the_chunks_of_a_lost_replica_are_embedded_by_others(local_ray):
    tokens_QT = np.arange(200).reshape(100, 2)
    with closing(RayPool(FakePayload(), replicas=2, replica_class=FakeReplica)) as pool:
        pool.fleet.wait_for(2, 60)
        pids = [local_ray.get(member.call("pid")) for member in pool.fleet.members]
        collect = pool.collect_chunks

        def collecting(timeout_s):
            if pids:
                os.kill(pids.pop(), signal.SIGKILL)
            return collect(timeout_s)

        pool.collect_chunks = collecting
        np.testing.assert_array_equal(embedded(pool, FAKE_ENCODER, tokens_QT), tokens_QT / 2)
        assert pool.fleet.num_lost == 2


def test_a_chunk_that_nobody_can_embed_ends_the_search(local_ray):
    with closing(RayPool(FakePayload(), replicas=1, replica_class=FakeReplica)) as pool:
        message = r"the side that no mask changes cannot be embedded: a chunk of it failed on 3 replicas"
        with pytest.raises(PoolError, match=message):
            embedded(pool, FAKE_ENCODER, np.full((1, 2), FATAL))


def counted_forwards():
    """Return a list that every forward pass of a module in this process adds to, and what ends that."""
    seen = []

    def count(module, _):
        # The steps of an image's preprocessing are modules, too.
        if not type(module).__module__.startswith("torchvision"):
            seen.append(type(module).__name__)

    return seen, register_module_forward_pre_hook(count)


@pytest.mark.parametrize("tower", ["image", pytest.param("text", marks=pytest.mark.slow)])
def test_the_driver_of_a_search_on_ray_runs_no_forward_pass(
    tiny_config, local_ray, tmp_path, monkeypatch, tower, task_files
):
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "cache"))
    data = str(task_files / "pairs.parquet")  # Which the precheck lets pass: it knows no chance level.
    changes = {"data__path": data, "search__tower": tower, "search__precheck": True, "budget__masks": 14}
    seen, hook = counted_forwards()
    try:
        torch.nn.Linear(1, 1)(torch.zeros(1))
        assert seen == ["Linear"]
        seen.clear()
        config = tiny_config("ray", pool__kind="ray", pool__replicas=1, **changes)
        start(config)
        assert seen == []
    finally:
        hook.remove()
    alone = tiny_config("alone", **changes)
    start(alone)
    assert trials(config.folder) == trials(alone.folder)


def test_what_is_not_needed_yet_is_embedded_later(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "cache"))
    session = load(tiny_config())
    pool = InlinePool(session.payload)
    session = ready(session, pool)
    assert session.embedded_splits == {"search"}
    assert len(list((tmp_path / "cache").glob("embeddings-*.npz"))) == 1
    session.embedded(pool, ["confirm", "test"])
    assert len(list((tmp_path / "cache").glob("embeddings-*.npz"))) == 3
