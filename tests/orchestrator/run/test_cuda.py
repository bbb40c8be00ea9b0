"""On a GPU, too, a study is a function of its fingerprint, whoever scores it and however little memory there is."""

import numpy as np
import pytest
import torch

from headmask.mask import HeadMask
from tests.orchestrator.studies import outcome, start, trials
from tests.tiny import tiny_clip
from tests.workers.scoring.test_engine import WIDE, engine_of
from tests.workers.scoring.test_scorer import random_split, scorer_of

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("strategy", ["mixture", "scales"])
def test_replicas_that_share_a_gpu_give_the_study_of_one_process(tiny_config, local_ray, precision, strategy):
    alone = tiny_config(name="alone", search__precision=precision, search__strategy=strategy)
    shared = tiny_config(
        name="shared",
        search__precision=precision,
        search__strategy=strategy,
        pool__kind="ray",
        pool__replicas=2,
        pool__gpus_per_replica=0.5,
    )
    start(alone), start(shared)
    assert trials(shared.folder) == trials(alone.folder)
    assert outcome(shared.folder) == outcome(alone.folder)
    assert torch.cuda.get_device_name() in trials(alone.folder)[0]["device"]


def test_gradients_by_scales_are_the_same_to_the_last_bit_and_those_of_the_cpu():
    split, scales_LH = random_split(28), np.random.default_rng(0).random((3, 4))
    on_cpu = scorer_of(tiny_clip(), split).scale_loss().gradient(np.arange(9), scales_LH)
    on_gpu = [scorer_of(tiny_clip(), split, device="cuda").scale_loss() for _ in range(2)]
    first, second = (loss.gradient(np.arange(9), scales_LH) for loss in on_gpu)
    np.testing.assert_array_equal(first.gradient_LH, second.gradient_LH)
    np.testing.assert_allclose(first.gradient_LH, on_cpu.gradient_LH, atol=1e-4 * np.abs(on_cpu.gradient_LH).max())


def test_short_of_memory_embeddings_are_the_same_bits():
    engine = engine_of(tiny_clip(**WIDE | {"layers": 8}).cuda(), 1024, chunk=1024)
    # Single heads share all layers above theirs, so a node is kept for every layer: more than what one node takes.
    masks = HeadMask.singles(engine.view.grid)
    torch.cuda.reset_peak_memory_stats()
    roomy = engine.embed(masks)
    kept, used = engine.max_nodes, torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(0.75 * used / torch.cuda.get_device_properties(0).total_memory)
        assert torch.equal(engine.embed(masks), roomy)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.max_nodes < kept
