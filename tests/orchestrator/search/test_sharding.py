"""Images are shared out where masks are too few for all replicas, or their embeddings too large for one device."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.driver import GRID, VIT_L_14
from headmask.errors import ConfigError
from orchestrator.search.sharding import best_shards, embeddings_gib, exchanged_bytes
from strategies import Limits
from workers.tasks.retrieval import RetrievalTargets


def sized(num_images):
    """Stand in for a session of ViT-L-14 on so many images with a caption each."""
    split = SimpleNamespace(
        embedding_shape=(num_images, 768), inputs=range(num_images), targets=RetrievalTargets(np.arange(num_images))
    )
    search = SimpleNamespace(tower="image", block_size=32)
    return SimpleNamespace(
        config=SimpleNamespace(search=search),
        chunk=256,
        payload=SimpleNamespace(splits={"search": {"": split}}),
        cost=VIT_L_14,
        grid=GRID,
        limits=Limits(),
    )


def test_few_replicas_score_all_images_each():
    assert [best_shards(sized(5_000), count, "cuda") for count in (1, 2, 4, 16)] == [1] * 4


def test_more_replicas_than_a_block_has_masks_share_the_images_out():
    assert best_shards(sized(25_000), 1000, "cuda") >= 8
    assert 1000 % best_shards(sized(25_000), 1000, "cuda") == 0


def test_few_images_are_never_shared_out():
    assert best_shards(sized(500), 64) == 1


def test_embeddings_that_exceed_one_device_are_shared_out():
    session = sized(300_000)
    assert embeddings_gib(session, 1) > 8
    shards = best_shards(session, 2, "cuda")
    assert shards == 2
    assert embeddings_gib(session, shards) <= 8


def test_what_is_exchanged_grows_with_shards_and_queries():
    assert exchanged_bytes(sized(1000), 1) == 0
    assert exchanged_bytes(sized(1000), 2) == 1000 * (4 + 2 * 13)


def test_text_towers_have_no_images_to_share_out(tiny_config):
    with pytest.raises(ConfigError, match=r"pool\.shards splits images, and the heads of the text tower .* got 2"):
        tiny_config(search__tower="text", pool__kind="ray", pool__shards=2)


def test_shards_need_replicas_on_ray_and_a_multiple_of_them(tiny_config):
    with pytest.raises(ConfigError, match="shards is for replicas on Ray; got 2 with the inline pool"):
        tiny_config(pool__shards=2)
    with pytest.raises(ConfigError, match=r"replicas must be a multiple of shards \(2\), got 3"):
        tiny_config(pool__kind="ray", pool__shards=2, pool__replicas=3)
