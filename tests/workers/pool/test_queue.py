"""Batches are neighbours of the trie, and the inline pool returns every mask once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmask.apply.folding import probe_images
from headmask.mask import HeadGrid, HeadMask
from headmask.tower.towers import view_of
from tests.tiny import tiny_clip
from workers.pool.inline import InlinePool
from workers.pool.queue import MAX_BATCH, BatchQueue, may_wait
from workers.scoring.messages import MaskScore, Stage
from workers.scoring.trie import TowerCost

GRID = HeadGrid(3, 4)
SEARCH, CONFIRM = Stage("search"), Stage("confirm", ranks=True)
PREDICTED = Stage("search", predicted=True)


def some_masks(count, seed=0):
    rng = np.random.default_rng(seed)
    return [HeadMask(GRID, tuple(rng.integers(16, size=3).tolist())) for _ in range(count)]


def drained(queue, num_replicas=2):
    batches = []
    while (batch := queue.take(num_replicas)) is not None:
        batches.append(batch)
    return batches


@given(st.integers(0, 200), st.integers(1, 8), st.floats(0.001, 5))
def test_batches_hold_every_mask_once_in_order_of_words(count, num_replicas, seconds):
    queue = BatchQueue()
    queue.learn(SEARCH, some_masks(1), [MaskScore({}, seconds)])
    masks = some_masks(count)
    queue.put(SEARCH, masks)
    batches = drained(queue, num_replicas)
    assert [mask for _, batch in batches for mask in batch] == sorted(masks)
    assert all(1 <= len(batch) <= MAX_BATCH for _, batch in batches)
    assert len(queue) == 0


def test_slow_masks_come_in_small_batches():
    slow, fast = BatchQueue(), BatchQueue()
    for queue, seconds in ((slow, 1.0), (fast, 0.01)):
        queue.learn(SEARCH, some_masks(1), [MaskScore({}, seconds)])
        queue.put(SEARCH, some_masks(400))
    assert len(slow.take(1)[1]) == 1
    assert len(fast.take(1)[1]) == 30


@pytest.mark.parametrize(("seconds", "size"), [(0.1, 2), (0.03, 3), (0.001, 4)])
def test_the_last_masks_are_shared_among_replicas_in_batches_that_are_worth_a_call(seconds, size):
    queue = BatchQueue()
    queue.learn(SEARCH, some_masks(1), [MaskScore({}, seconds)])
    queue.put(SEARCH, some_masks(16))
    assert len(queue.take(4)[1]) == size


def test_many_replicas_get_what_was_put_first_and_few_get_neighbours():
    first, later = sorted(set(some_masks(12))), sorted(set(some_masks(12, seed=1)))
    for num_replicas, expected in ((8, first + later), (7, sorted(first + later))):
        queue = BatchQueue()
        queue.put(SEARCH, first)
        queue.put(SEARCH, later)
        assert len(queue) == len(first + later)
        assert [mask for _, batch in drained(queue, num_replicas) for mask in batch] == expected


@pytest.mark.parametrize(
    ("num_replicas", "num_waiting", "ahead_s", "expected"),
    [(2, 1, 5.0, True), (64, 32, 0.87, False), (64, 64, 0.87, True), (64, 32, 0.05, True), (64, 1, 0.0, True)],
)
def test_a_busy_replica_gets_what_another_one_would_not_do_sooner(num_replicas, num_waiting, ahead_s, expected):
    assert may_wait(num_replicas, num_waiting, ahead_s) is expected


def test_a_slow_replica_takes_less():
    queue = BatchQueue()
    queue.learn(SEARCH, some_masks(1), [MaskScore({}, 0.02)])
    queue.put(SEARCH, some_masks(64))
    assert len(queue.take(4, pace=2.0)[1]) == 4
    assert len(queue.take(4, pace=0.5)[1]) == 16


@pytest.mark.parametrize("seconds", [0.01, 10.0])
def test_batches_keep_nine_tenths_of_what_masks_share(seconds):
    """However slow a mask is: one that is alone computes all layers before its first head again."""
    model = tiny_clip(layers=6)
    cost = TowerCost.of(view_of(model), probe_images(model, 2))
    scan = sorted(HeadMask.singles(HeadGrid(6, 4)))
    queue = BatchQueue(cost.steps)
    queue.learn(SEARCH, scan[:1], [MaskScore({}, seconds)])
    queue.put(SEARCH, scan)
    batches = drained(queue, num_replicas=1)
    alone = sum(cost.steps([mask])[0] for mask in scan)
    spent = sum(sum(cost.steps(batch)) for _, batch in batches)
    assert (alone - spent) / (alone - sum(cost.steps(scan))) >= 0.9
    assert len(batches) > 1


def test_replicas_are_rather_busy_than_sharing():
    cost = TowerCost(1.0, 0.0, (0.3,) * 3, (0.03,) * 3, (0.0,) * 3, 0.0, 1, (0.1,) * 3)
    queue = BatchQueue(cost.steps)
    masks = some_masks(8)
    queue.learn(SEARCH, masks[:1], [MaskScore({}, 1.0)])
    queue.put(SEARCH, masks)
    assert len(drained(queue, num_replicas=8)) >= 6


def test_a_batch_is_expected_to_take_its_cost():
    queue = BatchQueue(lambda masks: [2.0] + [1.0] * (len(masks) - 1))
    assert queue.expected_s(SEARCH, some_masks(3)) == 0.0
    queue.learn(SEARCH, some_masks(3), [MaskScore({}, 0.4)] * 3)
    assert queue.expected_s(SEARCH, some_masks(7)) == pytest.approx(8 * 1.2 / 4)


def test_masks_to_be_alone_come_first_and_one_by_one():
    queue = BatchQueue()
    waiting, alone = some_masks(8), some_masks(3, seed=1)
    queue.put(SEARCH, waiting)
    queue.put_alone(CONFIRM, alone)
    assert [queue.take(2) for _ in alone] == [(CONFIRM, [mask]) for mask in alone]
    assert queue.take(2)[0] == SEARCH


def test_predictions_come_before_masks_that_wait_longer_and_all_cost_the_same():
    queue = BatchQueue(lambda masks: [float(index) for index, _ in enumerate(masks, 1)])
    queue.learn(PREDICTED, some_masks(1), [MaskScore({}, 0.001)])
    queue.put(SEARCH, some_masks(8))
    queue.put(PREDICTED, some_masks(200, seed=1))
    stage, masks = queue.take(1)
    assert (stage, len(masks)) == (PREDICTED, MAX_BATCH)
    assert queue.expected_s(PREDICTED, masks) == pytest.approx(0.001 * MAX_BATCH)


@pytest.fixture
def pool(tiny_session):
    pool = InlinePool(tiny_session.payload)
    pool.settle(tiny_session.wanted)
    yield pool
    pool.close()


def collected(pool):
    results = []
    while more := pool.collect(1.0):
        results += more
    return results


def test_the_inline_pool_scores_every_stage(pool):
    masks = sorted(set(some_masks(20)))
    pool.submit(SEARCH, masks)
    pool.submit(CONFIRM, masks[:3])
    results = collected(pool)
    assert [result.mask for result in results if result.stage == SEARCH] == masks
    confirm = [result for result in results if result.stage == CONFIRM]
    assert [result.mask for result in confirm] == masks[:3]
    assert all(len(result.score.ranks[0]["i2t"]) == 20 for result in confirm)


def test_a_closed_inline_pool_forgets_its_queue(pool):
    pool.submit(SEARCH, some_masks(5))
    pool.close()
    assert pool.collect(0.1) == []


def test_results_that_are_put_back_are_collected_again(pool):
    masks = sorted(set(some_masks(6)))
    pool.submit(SEARCH, masks)
    results = collected(pool)
    pool.put_back(results[:2])
    assert pool.collect(1.0) == results[:2]
    assert pool.collect(1.0) == []
