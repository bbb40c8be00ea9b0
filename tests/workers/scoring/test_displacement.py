"""Predictions by displacements: exact for single heads, close for masks, and a function of the mask alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from headmask.mask import Head, HeadMask, bools_of
from orchestrator.search.preparing import prepare
from tests.tiny import random_masks, tiny_clip
from tests.workers.scoring.test_scorer import random_split, scorer_of
from workers.scoring.displacement import Displacements, Predictor, displacement, displacement_bytes
from workers.scoring.messages import Stage
from workers.scoring.replica import Replica

CPU = torch.device("cpu")


def scanned(scorer):
    """Return the displacements of all heads, and the embeddings of every mask of the scan."""
    scan = HeadMask.singles(scorer.grid)
    embeddings = {mask: score.embeddings[0] for mask, score in zip(scan, scores_of(scorer, scan), strict=True)}
    baseline_NE = embeddings[scan[0]]
    moved = {mask.heads[0]: displacement(embeddings[mask], baseline_NE) for mask in scan[1:]}
    return Displacements(baseline_NE, moved), embeddings


def scores_of(scorer, masks):
    return scorer.score(bools_of(masks), embeddings=True)


@pytest.fixture(scope="module")
def scorer():
    return scorer_of(tiny_clip(), random_split(28))


@pytest.fixture(scope="module")
def predictor(scorer):
    return Predictor(scanned(scorer)[0], CPU)


def test_scores_are_the_same_whether_embeddings_are_kept_or_not(scorer):
    masks = random_masks(scorer.grid, 12)
    kept, plain = scores_of(scorer, masks), scorer.score(bools_of(masks))
    assert [score.metrics for score in kept] == [score.metrics for score in plain]
    assert plain[0].embeddings is None
    assert kept[0].embeddings[0].dtype == np.float32


def test_the_empty_mask_is_predicted_exactly(scorer, predictor):
    empty = HeadMask.empty(scorer.grid)
    (exact,) = scores_of(scorer, [empty])
    assert (predictor.embed(empty).numpy() == exact.embeddings[0]).all()
    assert scorer.predict([empty], predictor)[0].metrics == exact.metrics


def test_single_heads_are_predicted_but_for_the_rounding_of_float16(scorer):
    displacements, embeddings = scanned(scorer)
    predictor = Predictor(displacements, CPU)
    for mask, embedding_NE in embeddings.items():
        moved_NE = np.abs(embedding_NE - displacements.baseline_NE)
        rounding_NE = 2.0**-11 * moved_NE + 2.0**-24 + 2.0**-23 * np.abs(embedding_NE)
        assert (np.abs(predictor.embed(mask).numpy() - embedding_NE) <= rounding_NE).all()


def test_masks_are_predicted_better_than_by_the_baseline(scorer, predictor):
    """Weights in which every head matters little are the usual case, and additive there."""
    scorer = scorer_of(tiny_clip(std=0.05), random_split(28))
    displacements, _ = scanned(scorer)
    predictor = Predictor(displacements, CPU)
    masks = [mask for mask in random_masks(scorer.grid, 20) if len(mask) > 1]
    for mask, score in zip(masks, scores_of(scorer, masks), strict=True):
        error, moved = (
            np.linalg.norm(score.embeddings[0] - guess)
            for guess in (predictor.embed(mask).numpy(), displacements.baseline_NE)
        )
        assert error < 0.2 * moved


def test_predictions_are_measured_as_exact_embeddings_are(scorer, predictor):
    split = random_split(28)
    (mask,) = random_masks(scorer.grid, 1)
    image_NE = F.normalize(predictor.embed(mask), dim=-1)
    expected = split.targets.values(split.targets.measure(image_NE, torch.from_numpy(split.other_E)))
    assert scorer.predict([mask], predictor)[0].metrics == expected


def test_a_prediction_is_a_function_of_its_mask(scorer, predictor):
    masks = random_masks(scorer.grid, 24)
    together = [score.metrics for score in scorer.predict(masks, predictor)]
    backward = [score.metrics for score in scorer.predict(masks[::-1], predictor)]
    alone = [scorer.predict([mask], predictor)[0].metrics for mask in masks]
    assert together == backward[::-1] == alone
    assert len({tuple(metrics.items()) for metrics in together}) > 5


def test_a_head_whose_embeddings_are_not_finite_has_no_prediction_and_others_have(scorer):
    displacements, _ = scanned(scorer)
    bad = np.full_like(displacements.baseline_NE, np.inf)
    moved = {**displacements.moved, Head(0, 0): displacement(bad, displacements.baseline_NE)}
    predictor = Predictor(replace(displacements, moved=moved), CPU)
    masks = [HeadMask.from_heads(scorer.grid, heads) for heads in ([(0, 0), (1, 1)], [(1, 1)])]
    failed, good = scorer.predict(masks, predictor)
    assert (failed.failure, failed.metrics) == ("non-finite embeddings", {})
    assert good.failure is None


def test_the_size_of_displacements_is_known_before_there_are_any(scorer):
    displacements, _ = scanned(scorer)
    assert displacement_bytes(12, [displacements.baseline_NE.shape]) == displacements.nbytes
    # ViT-B/32 and ViT-L/14 on 5,000 images.
    assert displacement_bytes(144, [(5000, 512)]) == pytest.approx(0.74e9, rel=0.02)
    assert displacement_bytes(384, [(5000, 768)]) == pytest.approx(2.9e9, rel=0.03)


def test_a_replica_predicts_only_from_displacements(tiny_session):
    replica = Replica(tiny_session.payload)
    replica.settle(tiny_session.wanted)
    with pytest.raises(RuntimeError, match="adopts displacements before it predicts"):
        replica.score(Stage("search", predicted=True), replica.grid, [(0, 0, 0)])


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_replica_predicts_single_heads_of_either_tower(tiny_config, tower):
    session = prepare(tiny_config(search__tower=tower))
    replica = Replica(session.payload)
    replica.settle(session.wanted)
    scan = HeadMask.singles(session.grid)
    words = [mask.words for mask in scan]
    scores = replica.score(Stage("search", embeddings=True), session.grid, words)
    baseline_NE, *others = (score.embeddings[0] for score in scores)
    assert baseline_NE.shape == session.payload.splits["search"][""].embedding_shape
    moved = {mask.heads[0]: displacement(each, baseline_NE) for mask, each in zip(scan[1:], others, strict=True)}
    replica.adopt_displacements([Displacements(baseline_NE, moved)])
    predicted = replica.score(Stage("search", predicted=True), session.grid, words)
    differences = [
        abs(first.metrics["mean_recall"] - second.metrics["mean_recall"])
        for first, second in zip(scores, predicted, strict=True)
    ]
    # Rounding may flip a rank here and there.
    assert max(differences) < 0.02
    assert predicted[0].metrics == scores[0].metrics
