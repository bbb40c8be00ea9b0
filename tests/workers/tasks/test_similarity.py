"""Image-to-image retrieval equals pytorch-metric-learning's figures, and counts ties against the model."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from headmask.errors import DataError
from orchestrator.statistics.clusters import Clusters
from orchestrator.verdict.outcomes import outcomes_of
from workers.tasks import similarity
from workers.tasks.base import Rows
from workers.tasks.losses import micro_batches
from workers.tasks.metrics import Mix
from workers.tasks.similarity import SimilarityTargets

# N images, E embedding

NO_TEXT = torch.empty(0, 24)


class Calculator(AccuracyCalculator):
    """The library's, with recall at 5 read from the neighbours that it found."""

    def calculate_recall_at_5(self, knn_labels, query_labels, not_lone_query_mask, **_):
        found_Q = (knn_labels[:, :5] == query_labels[:, None]).any(1)[not_lone_query_mask]
        return found_Q.double().mean().item()

    def requires_knn(self):
        return [*super().requires_knn(), "recall_at_5"]


def oracle(image_NE, label_N):
    calculator = Calculator(
        include=("precision_at_1", "recall_at_5", "mean_average_precision_at_r"),
        k=len(label_N) - 1,
        knn_func=CustomKNN(DotProductSimilarity()),
        device=torch.device("cpu"),
    )
    found = calculator.get_accuracy(image_NE, torch.from_numpy(label_N))
    return {
        "map_at_r": found["mean_average_precision_at_r"],
        "i2i_r1": found["precision_at_1"],
        "i2i_r5": found["recall_at_5"],
    }


def unit(image_NE):
    return F.normalize(torch.from_numpy(np.asarray(image_NE, dtype=np.float32)), dim=-1)


def brute_force(image_NE, label_N):
    """Return what every query earns, sorted by hand: where scores tie, images of other labels come first."""
    scores_NN, earned = (image_NE @ image_NE.T).tolist(), []
    for query, label in enumerate(label_N):
        others = [image for image in range(len(label_N)) if image != query]
        right = sum(label_N[image] == label for image in others)
        if not right:
            continue
        order = sorted(others, key=lambda image: (-scores_NN[query][image], label_N[image] == label))
        hits = [label_N[image] == label for image in order]
        average = sum(hit * sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits[:right])) / right
        earned.append((average, hits.index(True)))
    return earned


@given(seed=st.integers(0, 10_000), num_images=st.integers(7, 90), num_labels=st.integers(2, 30))
@settings(max_examples=60, deadline=None)
def test_the_metrics_are_pytorch_metric_learnings(seed, num_images, num_labels):
    rng = np.random.default_rng(seed)
    label_N = rng.integers(num_labels, size=num_images)
    label_N[:2] = 0
    centre_E = rng.normal(size=(num_labels, 24))
    image_NE = unit(centre_E[label_N] + 1.5 * rng.normal(size=(num_images, 24)))
    targets = SimilarityTargets(label_N)
    values = targets.values(targets.measure(image_NE, NO_TEXT))
    assert set(values) == set(SimilarityTargets.metrics)
    assert values == pytest.approx(oracle(image_NE, label_N), abs=1e-6)


@given(seed=st.integers(0, 10_000), num_images=st.integers(3, 40), tile=st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_ties_count_against_the_model(seed, num_images, tile):
    rng = np.random.default_rng(seed)
    label_N = rng.integers(4, size=num_images)
    label_N[:2] = 0
    # Whole numbers: products are exact, and many tie.
    image_NE = torch.from_numpy(rng.integers(-1, 2, size=(num_images, 5)).astype(np.float32))
    targets = SimilarityTargets(label_N)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_TILE_SCORES", tile * num_images)
        ranks = targets.measure(image_NE, NO_TEXT)
    expected = brute_force(image_NE, label_N.tolist())
    np.testing.assert_allclose(ranks["i2i_precision"], [average for average, _ in expected], rtol=1e-6)
    assert ranks["i2i"].tolist() == [rank for _, rank in expected]


def test_a_collapsed_model_scores_nothing():
    targets = SimilarityTargets(np.repeat(np.arange(30), 10))
    values = targets.values(targets.measure(unit(np.ones((300, 24))), NO_TEXT))
    assert values == dict.fromkeys(SimilarityTargets.metrics, 0.0)


def test_an_image_is_not_found_by_itself():
    targets = SimilarityTargets(np.array([0, 0, 1, 1]))
    image_NE = unit([[1, 0], [0, 1], [1, 0.1], [0.1, 1]])
    assert targets.values(targets.measure(image_NE, NO_TEXT)) == {"map_at_r": 0, "i2i_r1": 0, "i2i_r5": 1}


def test_an_image_that_is_alone_with_its_label_is_no_query_but_in_the_way():
    targets = SimilarityTargets(np.array([3, 7, 3]))
    ranks = targets.measure(unit([[1, 0], [1, 0.1], [1, 0.3]]), NO_TEXT)
    assert targets.image_of_queries["i2i"].tolist() == [0, 2]
    assert ranks["i2i"].tolist() == [1, 1]
    assert ranks["i2i_precision"].tolist() == [0, 0]


def test_only_clusters_of_queries_are_resampled():
    targets = SimilarityTargets(np.array([5, 3, 3, 4, 3, 4]))
    clusters_N = targets.resampled(np.array([0, 1, 2, 3, 2, 0]))
    assert clusters_N.tolist() == [-1, 1, 2, 3, 2, 0]
    rng = np.random.default_rng(0)
    ranks = targets.measure(unit(rng.normal(size=(6, 24))), NO_TEXT)
    split = SimpleNamespace(targets=targets, clusters_N=clusters_N)
    outcomes = outcomes_of(split, ranks, Mix.parse("map_at_r"))
    assert outcomes.sizes_C.tolist() == [1, 1, 2, 1]
    assert outcomes.objective() == pytest.approx(targets.values(ranks)["map_at_r"])
    found = Clusters.of("data", clusters_N)
    assert (found.number, found.num_images) == (4, 5)


def test_targets_are_restored_from_what_queries_are_kept_with():
    targets = SimilarityTargets(np.array([5, 3, 3, 4, 3, 4, 9]))
    image_Q = targets.image_of_queries["i2i"]
    restored = SimilarityTargets.restored({"i2i": {"image": image_Q, **targets.columns()}})
    assert restored.image_of_queries["i2i"].tolist() == image_Q.tolist() == [1, 2, 3, 4, 5]
    assert restored.num_right_N[image_Q].tolist() == [2, 2, 1, 2, 1]


def test_a_split_without_two_images_of_a_label_is_refused():
    with pytest.raises(DataError, match="split confirm has no two images of one label"):
        SimilarityTargets.of(Rows("confirm", labels=[2, 0, 1], class_names=("a", "b", "c")))


def test_the_first_images_are_so_many_that_half_of_them_are_queries():
    label_N = np.concatenate([np.arange(100), np.arange(100)])
    targets, images, texts = SimilarityTargets(label_N).first(64)
    assert (images, texts) == (slice(128), slice(0))
    assert len(targets.label_of_image_N) == 128
    assert len(targets.image_of_queries["i2i"]) == 56
    few, images, _ = SimilarityTargets(label_N[:102]).first(64)
    assert images == slice(102)
    assert len(few.image_of_queries["i2i"]) == 4


def test_chance_is_the_share_of_right_images_among_the_others():
    chance = SimilarityTargets(np.array([0, 0, 0, 1, 1, 2])).chance
    assert chance.value == pytest.approx((3 * 2 / 5 + 2 * 1 / 5) / 5)
    assert chance.num_queries == 5


def test_images_are_contrasted_with_the_others_of_the_micro_batch():
    label_N = np.array([1, 0, 1, 0, 0, 2, 1, 1])
    targets = SimilarityTargets(label_N, 7.0)
    batch = targets.micro_batch(np.array([2, 0]), "image", 8)
    images = batch.inputs_n.tolist()
    assert sorted(label_N[images]) == [0, 0, 0, 1, 1]
    image_nE = unit(np.random.default_rng(0).normal(size=(5, 12))).double()
    scores_nn, surprises = (7.0 * image_nE @ image_nE.T).tolist(), []
    for query in range(5):
        others = {place: math.exp(scores_nn[query][place]) for place in range(5) if place != query}
        right = sum(value for place, value in others.items() if label_N[images[place]] == label_N[images[query]])
        surprises.append(-math.log(right / sum(others.values())))
    assert float(batch.loss(image_nE, NO_TEXT)) == pytest.approx(np.mean(surprises))


def test_every_image_of_a_micro_batch_has_another_of_its_label():
    targets = SimilarityTargets(np.random.default_rng(0).integers(60, size=400))
    parts = [targets.micro_batch(units, "image", 400).inputs_n for units in micro_batches(targets, 400, seed=0)]
    images = np.concatenate(parts)
    assert sorted(images) == targets.image_of_queries["i2i"].tolist()
    for part in parts:
        assert min(np.unique(targets.label_of_image_N[part], return_counts=True)[1]) > 1
