"""Gradients by scales: those of finite differences, a function of micro-batch and scales, whoever computes them."""

import os
import signal
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from headmask.ablation.rules import ABLATIONS
from headmask.apply.live import calibrate_means
from headmask.errors import DataError, PoolError
from headmask.tower.towers import tower_of, view_of
from headmask.tower.views import TextView
from tests.tiny import tiny_clip
from tests.workers.fakes import FakePayload, TrainingReplica
from tests.workers.scoring.test_scorer import NORMALISATION, random_split, scorer_of
from workers.pool.ray import RayPool
from workers.scoring.inputs import make_inputs
from workers.scoring.messages import ScaleTask
from workers.scoring.scales import ScaleLoss
from workers.scoring.scorer import SplitArrays
from workers.tasks.classification import ClassificationTargets
from workers.tasks.matching import MatchingTargets
from workers.tasks.retrieval import RetrievalTargets

TARGETS = {
    "retrieval": RetrievalTargets(np.arange(12).repeat(2), 12.0),
    "classification": ClassificationTargets(np.arange(12) % 4, 4, scale=12.0),
    "matching": MatchingTargets(6, 12.0),
}


def loss_of(task, tower, ablation, dtype):
    """Return the loss of a tiny split under scales, with everything in one precision."""
    model, targets = tiny_clip(), TARGETS[task]
    split = random_split(28, num_images=12)
    num_texts = {"retrieval": 24, "classification": 4 * 3, "matching": 12}[task]
    num_compared = {"classification": 4}.get(task, num_texts)
    view = view_of(tower_of(model, tower).to(dtype), tower)
    rng = np.random.default_rng(1)
    inputs = split.inputs
    if tower == "text":
        inputs = np.sort(rng.integers(1, 64, size=(num_texts, 12)), axis=1)
    other_E = torch.from_numpy(rng.normal(size=(12 if tower == "text" else num_compared, 24)))
    made = make_inputs(inputs, view, NORMALISATION)
    take = made.take
    made.take = lambda part: take(part) if tower == "text" else take(part).to(dtype)
    means_LHd = None
    if ablation == "mean":
        means_LHd = calibrate_means(model, lambda: view.stock(made.take(slice(0, 12))), tower=tower).to(dtype)
    other_E = F.normalize(other_E, dim=-1).to(dtype)
    return ScaleLoss(view, made, other_E, targets, ablation=ABLATIONS[ablation], means_LHd=means_LHd)


@pytest.mark.parametrize("ablation", ["zero", "uniform", "mean"])
@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("task", list(TARGETS))
def test_the_gradient_is_that_of_float64_finite_differences(task, tower, ablation):
    """The gradient is computed as in a search, in float32; the differences are of losses in float64."""
    units_u = np.array([3, 0, 5, 1])
    found, exact = (loss_of(task, tower, ablation, dtype) for dtype in (torch.float32, torch.float64))
    grid = exact._view.grid
    scales_LH = 1.5 * np.random.default_rng(2).random((grid.layers, grid.heads))
    gradient = found.gradient(units_u, scales_LH)

    def loss(scales_LH):
        view, inputs = exact._view, exact._inputs
        tower_name = "text" if isinstance(view, TextView) else "image"
        batch = exact._targets.micro_batch(units_u, tower_name, len(inputs))
        taken = inputs.take(exact._place_N[batch.inputs_n])
        embedding = view.encode_scaled(taken, torch.from_numpy(scales_LH), exact._ablation, exact._means_LHd)
        return float(batch.loss(F.normalize(embedding, dim=-1), exact._other_E))

    expected = np.zeros_like(scales_LH)
    for place in np.ndindex(scales_LH.shape):
        step = np.zeros_like(scales_LH)
        step[place] = 1e-5
        expected[place] = (loss(scales_LH + step) - loss(scales_LH - step)) / 2e-5
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(gradient.gradient_LH, expected, atol=2e-4 * np.abs(expected).max())
    assert gradient.loss == pytest.approx(loss(scales_LH), rel=1e-5)


def test_gradients_do_not_depend_on_what_was_computed_before():
    split = random_split(28)
    scales_LH = np.random.default_rng(0).random((3, 4))
    one, two = (scorer_of(tiny_clip(), split).scale_loss() for _ in range(2))
    two.gradient(np.arange(9), 1 - scales_LH)
    first, second = (each.gradient(np.array([7, 2, 5]), scales_LH) for each in (one, two))
    np.testing.assert_array_equal(first.gradient_LH, second.gradient_LH)
    assert first.loss == second.loss


def test_no_weight_is_given_a_gradient():
    scorer = scorer_of(tiny_clip().requires_grad_(True), random_split(28))
    scorer.scale_loss().gradient(np.arange(8), np.full((3, 4), 0.5))
    assert all(not each.requires_grad and each.grad is None for each in scorer._engine.view.module.parameters())


def test_what_is_not_finite_has_no_gradient():
    split = random_split(28)
    other_E = split.other_E.copy()
    other_E[0] = np.nan
    scorer = scorer_of(tiny_clip(), SplitArrays(split.inputs, other_E, split.targets))
    found = scorer.scale_loss().gradient(np.arange(8), np.full((3, 4), 0.5))
    assert np.isnan(found.loss)
    assert not found.gradient_LH.any()


def gradients_of(pool, units):
    pool.submit_tasks([ScaleTask(0, np.array(each), np.ones((3, 4))) for each in units])
    found, deadline = {}, time.monotonic() + 120
    while len(found) < len(units) and time.monotonic() < deadline:
        found |= pool.collect_tasks(0.5)
    return found


@pytest.fixture(scope="module")
def training_pool(local_ray):
    pool = RayPool(FakePayload(), replicas=2, replica_class=TrainingReplica)
    yield pool
    pool.close()


def test_a_lost_replicas_micro_batch_is_differentiated_again(training_pool):
    before = training_pool.fleet.num_replaced
    os.kill(training_pool._ray.get(training_pool.fleet.members[0].call("pid")), signal.SIGKILL)
    assert gradients_of(training_pool, [[place] for place in range(5)]) == {place: place for place in range(5)}
    assert training_pool.fleet.num_replaced == before + 1


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (1, PoolError, "scales can neither be trained nor scored: a task failed on 3 replicas"),
        (2, PoolError, "scales can neither be trained nor scored: .*CUDA out of memory"),
        (3, DataError, "the data are not as they must be"),
    ],
)
def test_a_micro_batch_that_cannot_be_differentiated_is_one_clear_message(training_pool, code, kind, message):
    # What was done later than the first loss counts, so the good one is done before.
    assert gradients_of(training_pool, [[0]]) == {0: 0}
    with pytest.raises(kind, match=message):
        gradients_of(training_pool, [[1, code]])
