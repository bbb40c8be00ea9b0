"""Recalls agree with CLIP_benchmark's functions and with a sort; ties, duplicates and constants are pessimistic."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from clip_benchmark.metrics.zeroshot_retrieval import evaluate
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.tasks import retrieval
from workers.tasks.metrics import Mix
from workers.tasks.retrieval import RECALLS, RetrievalTargets

# N images, Q captions, E embedding, C clusters, K metrics


def random_pairs(seed, num_images, num_captions, levels=None):
    """Return embeddings; with `levels`, of small integers, so that scores tie exactly."""
    rng = np.random.default_rng(seed)
    if levels:
        image_NE, text_QE = (rng.integers(levels, size=(count, 4)) for count in (num_images, num_captions))
    else:
        image_NE, text_QE = (rng.normal(size=(count, 16)) for count in (num_images, num_captions))
    return torch.tensor(image_NE).float(), torch.tensor(text_QE).float()


def random_targets(seed, num_images, extra_captions):
    """Return which image each caption belongs to, in order; every image has one."""
    rng = np.random.default_rng(seed)
    return np.sort(np.concatenate([np.arange(num_images), rng.integers(num_images, size=extra_captions)]))


def brute_force(image_NE, text_QE, targets_Q):
    """Return ranks by looking at every pair, in Python."""
    scores_QN = (text_QE @ image_NE.T).tolist()
    t2i = [
        sum(score >= row[target] for image, score in enumerate(row) if image != target)
        for row, target in zip(scores_QN, targets_Q.tolist(), strict=True)
    ]
    i2t = []
    for image in range(len(image_NE)):
        own = [q for q, target in enumerate(targets_Q.tolist()) if target == image]
        best = max(scores_QN[q][image] for q in own)
        i2t.append(sum(scores_QN[q][image] >= best for q in range(len(scores_QN)) if q not in own))
    return t2i, i2t


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(0, 20), st.sampled_from([None, 2, 3]))
@settings(max_examples=80, deadline=None)
def test_ranks_equal_brute_force_ties_included(seed, num_images, extra_captions, levels):
    image_NE, text_QE = random_pairs(seed, num_images, num_images + extra_captions, levels)
    targets_Q = torch.from_numpy(random_targets(seed, num_images, extra_captions))
    ranks = RetrievalTargets(targets_Q.numpy()).measure(image_NE, text_QE)
    t2i, i2t = brute_force(image_NE, text_QE, targets_Q)
    assert ranks["t2i"].tolist() == t2i
    assert ranks["i2t"].tolist() == i2t


class Embedded:
    """Stands in for a model whose images and texts are embedded already."""

    def __init__(self, text_QE):
        self.text_QE = text_QE

    def encode_image(self, image_NE):
        return image_NE

    def encode_text(self, rows_Q):
        return self.text_QE[rows_Q]


@pytest.mark.parametrize("extra_captions", [0, 150, 700])
@pytest.mark.parametrize("seed", range(3))
def test_recalls_equal_clip_benchmarks_to_the_last_digit(seed, extra_captions):
    """Its own evaluation, on continuous scores and therefore without ties; captions per image as they come."""
    num_images, generator = 150, torch.Generator().manual_seed(seed)
    targets_Q = torch.from_numpy(random_targets(seed, num_images, extra_captions))
    image_NE = F.normalize(torch.randn(num_images, 16, generator=generator), dim=-1)
    text_QE = F.normalize(image_NE[targets_Q] + torch.randn(len(targets_Q), 16, generator=generator), dim=-1)
    texts = [[str(row) for row in torch.nonzero(targets_Q == image).flatten().tolist()] for image in range(num_images)]
    batches = [(image_NE[start : start + 32], texts[start : start + 32]) for start in range(0, num_images, 32)]
    theirs = evaluate(
        Embedded(text_QE),
        batches,
        tokenizer=lambda rows: torch.tensor([int(row) for row in rows]),
        device="cpu",
        amp=False,
        recall_k_list=[1, 5, 10],
    )
    targets = RetrievalTargets(targets_Q.numpy())
    ours = targets.values(targets.measure(image_NE, text_QE))
    for k in (1, 5, 10):
        assert np.float32(ours[f"t2i_r{k}"]) == np.float32(theirs[f"image_retrieval_recall@{k}"])
        assert np.float32(ours[f"i2t_r{k}"]) == np.float32(theirs[f"text_retrieval_recall@{k}"])
    assert ours["mean_recall"] == pytest.approx(np.mean([ours[name] for name in RECALLS]))


def test_coco_sized_ranks_stay_within_a_tile(tmp_path):
    """5,000 images x 25,010 captions: what a mask takes beside its embeddings, measured as the process's peak.

    Masks are ranked one after another, so 64 of them take 64 embeddings (0.61 GiB at width 512) and this once: less
    than 2 GiB above model and data.
    """
    script = tmp_path / "ranks.py"
    script.write_text(COCO_SIZED)
    # What is freed goes back to the system at once: glibc otherwise keeps a part, another one in every run.
    environment = os.environ | ROOT | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.25


ROOT = {"PYTHONPATH": str(Path(__file__).parents[3])}
COCO_SIZED = """
import torch
import numpy as np
from pathlib import Path
from workers.tasks.retrieval import RetrievalTargets

def peak_gib():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20

torch.set_num_threads(1)
images, texts = torch.randn(5000, 32), torch.randn(25010, 32)
targets = RetrievalTargets(np.sort(np.arange(25010) % 5000))
RetrievalTargets(np.arange(100)).measure(images[:100], texts[:100])
before = peak_gib()
for _ in range(2):
    targets.measure(images, texts)
print(peak_gib() - before)
"""


def sorted_places(scores_QN, targets_Q):
    """Return the place, from 1, of every query's target in its competitors sorted by score, the target last of ties."""
    is_target_QN = np.arange(scores_QN.shape[1]) == targets_Q[:, None]
    order_QN = np.lexsort((is_target_QN, -scores_QN))
    return np.argmax(np.take_along_axis(is_target_QN, order_QN, axis=1), axis=1) + 1


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([None, 2, 3]))
@settings(max_examples=40, deadline=None)
def test_reciprocal_and_log_ranks_are_those_of_a_sorted_list(seed, num_images, levels):
    """One caption per image, so that both directions are a sort of the rows or the columns of one matrix."""
    image_NE, text_NE = random_pairs(seed, num_images, num_images, levels)
    targets = RetrievalTargets(np.arange(num_images))
    ours = targets.values(targets.measure(image_NE, text_NE))
    scores_NN = (text_NE @ image_NE.T).numpy()
    for way, scores in (("t2i", scores_NN), ("i2t", scores_NN.T)):
        places_N = sorted_places(scores, np.arange(num_images))
        assert ours[f"{way}_mrr"] == pytest.approx(np.mean(1 / places_N))
        assert ours[f"{way}_log_rank"] == pytest.approx(1 - np.mean(np.log(places_N)) / np.log(256))
    for name in ("mrr", "log_rank"):
        assert ours[name] == pytest.approx((ours[f"t2i_{name}"] + ours[f"i2t_{name}"]) / 2)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_probabilities_are_those_of_a_softmax_among_the_same_competitors(scale):
    targets_Q = random_targets(0, 40, 30)
    image_NE, text_QE = (F.normalize(side, dim=-1) for side in random_pairs(0, 40, len(targets_Q)))
    targets = RetrievalTargets(targets_Q).at_scale(scale)
    ours = targets.values(targets.measure(image_NE, text_QE))
    logits_QN = scale * (text_QE.double() @ image_NE.double().T)
    t2i_Q = torch.softmax(logits_QN, 1)[torch.arange(len(targets_Q)), torch.from_numpy(targets_Q)]
    i2t = []
    for image in range(40):
        own_Q = torch.from_numpy(targets_Q == image)
        best = logits_QN[own_Q, image].max()
        i2t.append(torch.softmax(torch.cat([best[None], logits_QN[~own_Q, image]]), 0)[0].item())
    assert ours["t2i_probability"] == pytest.approx(t2i_Q.mean().item(), rel=1e-4)
    assert ours["i2t_probability"] == pytest.approx(np.mean(i2t), rel=1e-4)
    assert ours["probability"] == pytest.approx((t2i_Q.mean().item() + np.mean(i2t)) / 2, rel=1e-4)


def test_hopeless_targets_have_a_probability_near_zero_not_nan():
    image_NE = F.normalize(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), dim=-1)
    ranks = RetrievalTargets(np.arange(2), 1000.0).measure(image_NE, image_NE.flip(0))
    for kind in ("t2i_probability", "i2t_probability"):
        assert ranks[kind] == pytest.approx(2**-20, rel=1e-5)


def test_ranks_beyond_255_earn_nothing_and_cost_less_than_a_256th():
    image_NE, text_NE = random_pairs(0, 1000, 1000)
    targets = RetrievalTargets(np.arange(1000))
    ours = targets.values(targets.measure(image_NE, text_NE))["t2i_mrr"]
    places_N = sorted_places((text_NE @ image_NE.T).numpy(), np.arange(1000))
    assert ours == pytest.approx(np.mean(np.where(places_N <= 255, 1 / places_N, 0)))
    assert 0 < np.mean(1 / places_N) - ours < 1 / 256


def test_a_collapsed_model_scores_nothing():
    constant_NE = F.normalize(torch.ones(300, 8), dim=-1)
    targets = RetrievalTargets(np.arange(300))
    values = targets.values(targets.measure(constant_NE, constant_NE))
    chances = {f"{way}probability": pytest.approx(1 / 300) for way in ("", "t2i_", "i2t_")}
    assert values == dict.fromkeys(RetrievalTargets.metrics, 0.0) | chances


def test_identical_images_count_against_each_other():
    image_NE = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=-1)
    ranks = RetrievalTargets(np.arange(3)).measure(image_NE, image_NE)
    assert ranks["t2i"].tolist() == [1, 1, 0]
    assert ranks["i2t"].tolist() == [1, 1, 0]


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(0, 30), st.sampled_from([None, 2, 3]), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_ranks_do_not_depend_on_tiles(seed, num_images, extra_captions, levels, block):
    targets = RetrievalTargets(random_targets(seed, num_images, extra_captions), 1.0)
    image_NE, text_QE = random_pairs(seed, num_images, num_images + extra_captions, levels)
    whole, tiled = targets.measure(image_NE, text_QE), targets.measure(image_NE, text_QE, block)
    with mock.patch.object(retrieval, "_TILE_SCORES", 60):
        small = targets.measure(image_NE, text_QE, block)
    for found in (tiled, small):
        for kind in ("t2i", "i2t"):
            np.testing.assert_array_equal(found[kind], whole[kind])
            np.testing.assert_allclose(found[f"{kind}_probability"], whole[f"{kind}_probability"], rtol=1e-5)


def test_ranks_beyond_255_are_clipped():
    image_NE = F.normalize(torch.ones(300, 4), dim=-1)
    ranks = RetrievalTargets(np.arange(300)).measure(image_NE, image_NE)
    assert ranks["t2i"].dtype == np.uint8
    assert set(ranks["t2i"].tolist()) == {255}


@given(st.integers(0, 1000), st.integers(2, 12), st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_the_ratio_of_summed_outcomes_is_the_recall(seed, num_images, extra_captions):
    rng = np.random.default_rng(seed)
    targets_Q = random_targets(seed, num_images, extra_captions)
    image_NE, text_QE = random_pairs(seed, num_images, len(targets_Q), levels=3)
    targets = RetrievalTargets(targets_Q)
    ranks = targets.measure(image_NE, text_QE)
    clusters_N = np.unique(rng.integers(num_images, size=num_images), return_inverse=True)[1]
    values = targets.values(ranks)
    for text in (*RetrievalTargets.metrics, "0.7*t2i_r1 + 0.3*i2t_r5", "mean_recall + t2i_r1"):
        table = targets.table(ranks, Mix.parse(text), clusters_N)
        ratios_1K = (table.hits_CK.sum(0) / table.queries_CK.sum(0))[None]
        assert table.value(ratios_1K)[0] == pytest.approx(Mix.parse(text).value(values))
