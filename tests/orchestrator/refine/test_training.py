"""Training: folds that keep clusters together, queries that are ranked by scales that did not see them, early ends."""

from types import SimpleNamespace

import numpy as np
import pytest

from headmask.errors import DataError
from headmask.mask import HeadMask
from headmask.scales import HeadScales
from orchestrator.refine import training
from orchestrator.refine.training import FOLDS, MASK, MODEL, HeldOut, Recipe, Trainer, checkpoints, folds_of
from orchestrator.search.preparing import prepare
from orchestrator.search.session import SPLITS
from orchestrator.search.tasks import KeptTasks
from workers.pool.inline import InlinePool
from workers.scoring.messages import ScaledStage, ScaleTask


@pytest.fixture
def working(tiny_config, monkeypatch, tmp_path):
    """A session, and its tasks as they are done."""
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "cache"))

    def make(**changes):
        session = prepare(tiny_config(**changes))
        pool = InlinePool(session.payload)
        session = session.settled(pool.settle(session.wanted)).embedded(pool, SPLITS)
        done = []
        submit = pool.submit_tasks
        monkeypatch.setattr(pool, "submit_tasks", lambda tasks: (done.extend(tasks), submit(tasks)))
        return session, KeptTasks(session, pool), done

    return make


def test_images_of_a_cluster_are_in_one_fold():
    clusters_N = np.array([0, 1, 1, 2, -1, 3, 0, 4, 5])
    fold_N = folds_of(SimpleNamespace(clusters_N=clusters_N), seed=0)
    assert fold_N[4] == -1
    assert sorted(np.bincount(fold_N[[0, 1, 3, 5, 7, 8]])) == [2, 2, 2]
    assert (fold_N[0], fold_N[1]) == (fold_N[6], fold_N[2])
    assert fold_N.tolist() == folds_of(SimpleNamespace(clusters_N=clusters_N), seed=0).tolist()


def test_too_few_clusters_are_refused():
    with pytest.raises(DataError, match="needs at least 3 independent groups of images; got 2"):
        folds_of(SimpleNamespace(clusters_N=np.array([0, 1, 1])), seed=0)


def test_held_out_parts_are_looked_at_after_twice_as_many_steps():
    assert checkpoints(256) == [8, 16, 32, 64, 128, 256]
    assert checkpoints(100) == [8, 16, 32, 64]
    assert checkpoints(5) == [5]


def test_the_smallest_number_of_steps_that_is_about_the_best_is_chosen():
    found = HeldOut(Recipe(MODEL, 0.003), {0: 0.5, 8: 0.6, 16: 0.6995, 32: 0.7})
    assert (found.steps, found.best, found.goes_on) == (16, 0.7, False)
    assert HeldOut(Recipe(MODEL, 0.003), {0: 0.5, 8: 0.6}).goes_on
    assert HeldOut(Recipe(MASK, 0.003), {8: 0.1}).goes_on
    assert not HeldOut(Recipe(MODEL, 0.003), {0: 0.5, 8: 0.4}).goes_on
    assert HeldOut(Recipe(MODEL, 0.003), {0: 0.5, 8: 0.4}).steps == 0


def test_no_scales_are_trained_on_what_they_are_held_out_for(working):
    session, tasks, done = working()
    trainer = Trainer(session, tasks, {MODEL: HeadScales.ones(session.grid)}, max_steps=8)
    found = trainer.held_out()
    (split,) = session.splits["search"]
    fold_N = folds_of(split, session.config.search.seed)
    gradients = [task for task in done if isinstance(task, ScaleTask)]
    assert len(gradients) == 8 * FOLDS * len(training.PULLS)
    seen = [set(task.units_u.tolist()) for task in gradients[:FOLDS]]
    assert seen == [set(np.flatnonzero(fold_N != fold).tolist()) for fold in range(FOLDS)]
    assert [each.recipe for each in found] == [Recipe(MODEL, pull) for pull in training.PULLS]
    assert all(set(each.values) == {0, 8} for each in found)


def test_a_value_is_that_of_ranks_from_every_querys_own_fold(working):
    session, tasks, _ = working()
    trainer = Trainer(session, tasks, {MODEL: HeadScales.ones(session.grid)}, max_steps=8)
    rng = np.random.default_rng(0)
    scales = [HeadScales.from_array(rng.uniform(0, 2, size=(3, 4))).to_array() for _ in range(FOLDS)]
    scores = tasks.scores(training.SEARCH, scales)
    (split,), (part,) = session.splits["search"], session.payload.splits["search"].values()
    fold_N = folds_of(split, session.config.search.seed)
    ranks = {
        kind: np.array([scores[fold_N[image]].ranks[0][kind][query] for query, image in enumerate(image_q)])
        for kind, image_q in part.targets.image_of_queries.items()
    }
    assert trainer._value(scores) == session.search_value(part.targets.values(ranks))


def test_heads_of_a_kept_mask_stay_ablated(working):
    session, tasks, done = working()
    mask = HeadMask.from_text(session.grid, "L0H1,L2H2")
    trainer = Trainer(session, tasks, {MASK: HeadScales.of(mask)}, fixed=mask, max_steps=8)
    (trained,) = trainer.trained(trainer.held_out())
    assert trained.scales.ablated == mask
    for task in done:
        assert (task.scales_LH == 0).sum() >= 2
        assert task.scales_LH[0, 1] == task.scales_LH[2, 2] == 0


def test_heads_that_may_not_be_ablated_keep_their_scale(working):
    session, tasks, _ = working(search__layers=[1])
    trainer = Trainer(session, tasks, {MODEL: HeadScales.ones(session.grid)}, max_steps=8)
    for each in trainer.trained([HeldOut(Recipe(MODEL, 0.003), {0: 0.1, 8: 0.2})]):
        assert {head.layer for head in each.scales.heads} == {1}


def test_what_was_computed_is_not_computed_again(working):
    session, tasks, done = working()
    starts = {MODEL: HeadScales.ones(session.grid)}
    first = Trainer(session, tasks, starts, max_steps=8).held_out()
    count = len(done)
    assert Trainer(session, tasks, starts, max_steps=8).held_out() == first
    assert len(done) == count
    assert any(isinstance(task, ScaledStage) for task in done)


def test_scores_that_were_kept_are_those_that_were_computed(working):
    _, tasks, _ = working()
    scales = [np.full((3, 4), 0.5), np.full((3, 4), 1.5)]
    computed = tasks.scores(training.SEARCH, scales)
    kept = tasks.scores(training.SEARCH, scales)
    for first, second in zip(computed, kept, strict=True):
        assert first.metrics == second.metrics
        for ours, theirs in zip(first.ranks, second.ranks, strict=True):
            assert {kind: table.tolist() for kind, table in ours.items()} == {
                kind: table.tolist() for kind, table in theirs.items()
            }
