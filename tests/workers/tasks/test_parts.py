"""Ranks from parts of the images are those of all images at once, to the last bit, whatever the parts are."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.tasks.base import MAX_BLOCK, block_of
from workers.tasks.classification import ClassificationTargets
from workers.tasks.matching import MatchingTargets
from workers.tasks.retrieval import RetrievalTargets
from workers.tasks.similarity import SimilarityTargets

# N images, Q texts, E embedding


def embedded(targets, num_images, rng):
    """Return embeddings of random images and texts, duplicates among them."""
    num_texts = {"matching": num_images, "classification": 7, "similarity": 1}.get(targets.task)
    num_texts = num_texts or len(targets.image_of_caption_Q)
    image_NE, text_QE = (rng.normal(size=(count, 24)).astype(np.float32) for count in (num_images, num_texts))
    image_NE[rng.integers(num_images, size=num_images // 3)] = image_NE[0]
    text_QE[rng.integers(num_texts, size=num_texts // 3)] = text_QE[-1]
    return [F.normalize(torch.from_numpy(side), dim=-1) for side in (image_NE, text_QE)]


def targets_of(task, num_images, rng):
    if task == "retrieval":
        extra = rng.integers(num_images, size=num_images)
        return RetrievalTargets(np.sort(np.concatenate([np.arange(num_images), extra])), 14.0)
    if task == "classification":
        return ClassificationTargets(rng.integers(7, size=num_images), 7, scale=14.0)
    if task == "similarity":
        return SimilarityTargets(rng.integers(7, size=num_images))
    return MatchingTargets(num_images // 2)


@pytest.mark.parametrize("task", ["retrieval", "classification", "matching", "similarity"])
@given(seed=st.integers(0, 10_000), num_pairs=st.integers(1, 60), pairs_of_block=st.integers(1, 20), data=st.data())
@settings(max_examples=60, deadline=None)
def test_parts_give_the_bits_of_the_whole(task, seed, num_pairs, pairs_of_block, data):
    rng, num_images, block = np.random.default_rng(seed), 2 * num_pairs, 2 * pairs_of_block
    targets = targets_of(task, num_images, rng)
    image_NE, text_QE = embedded(targets, num_images, rng)
    num_blocks = -(-num_images // block)
    cuts = data.draw(st.lists(st.integers(0, num_blocks), max_size=4).map(sorted))
    ends = [min(block * cut, num_images) for cut in [0, *cuts, num_blocks]]
    parts = [slice(start, stop) for start, stop in pairwise(ends)]
    own_Q = torch.cat([targets.own_scores(image_NE[part], text_QE, part, block) for part in parts])
    partial = [targets.partial(image_NE[part], text_QE, part, own_Q, block) for part in parts]
    whole, combined = targets.measure(image_NE, text_QE, block), targets.combined(partial)
    assert set(combined) == set(whole)
    for kind in whole:
        np.testing.assert_array_equal(combined[kind], whole[kind])
        assert combined[kind].dtype == whole[kind].dtype


@given(st.integers(1, 100_000), st.integers(1, 700))
def test_blocks_are_whole_chunks_and_pairs_and_about_equal(num_images, chunk):
    block = block_of(num_images, chunk)
    assert block % chunk == block % 2 == 0
    num_blocks = -(-num_images // block)
    assert block < MAX_BLOCK + 2 * chunk
    # None is left out by much, but for what whole chunks need.
    assert num_blocks * block - num_images < max(block, num_blocks * 2 * chunk)
