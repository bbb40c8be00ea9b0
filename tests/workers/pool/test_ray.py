"""Ray replicas may die, hang and fail: every mask is scored once or given up with a reason."""

import os
import re
import signal
import socket
import threading
import time

import pytest

from headmask.errors import DataError, DeviceMemoryError, PoolError, ReplicasLostError
from headmask.mask import HeadGrid, HeadMask
from orchestrator.search.scoring import score_all
from tests.workers.fakes import (
    DEADLY,
    FAILING,
    HUNGRY,
    REFUSED,
    BreakingReplica,
    FakePayload,
    FakeReplica,
    UnbornReplica,
)
from workers.pool import fleet
from workers.pool import ray as ray_pool
from workers.pool.ahead import start_ahead
from workers.pool.cluster import check_address, check_answers
from workers.pool.inline import InlinePool
from workers.pool.ray import RayPool
from workers.scoring.displacement import Displacements, displacement
from workers.scoring.messages import Stage

GRID = HeadGrid(3, 4)
SEARCH, PREDICTED = Stage("search"), Stage("search", predicted=True)
MASKS = [HeadMask(GRID, (a, b, 0)) for a in range(8) for b in range(8)]


@pytest.fixture
def make_pool(local_ray):
    pools = []

    def make(**options):
        options = {"replicas": 2, "replica_class": FakeReplica, **options}
        pools.append(RayPool(options.pop("payload", FakePayload()), **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def collected(pool, count, *, on_batch=lambda: None, timeout_s=60):
    results, deadline = [], time.monotonic() + timeout_s
    while len(results) < count and time.monotonic() < deadline:
        more = pool.collect(0.5)
        results += more
        if more:
            on_batch()
    return results


def assert_each_scored_once(results, masks):
    assert sorted(result.mask for result in results) == sorted(masks)
    assert all(result.score.metrics == {"mean_recall": len(result.mask)} for result in results)


def pids(pool):
    """Return the processes of all replicas, once they are up."""
    deadline = time.monotonic() + 60
    while len(pool.fleet.members) < pool.fleet.wanted and time.monotonic() < deadline:
        pool.fleet.refresh()
        time.sleep(0.05)
    return [pool._ray.get(member.call("pid")) for member in pool.fleet.members]


def test_every_mask_is_scored_once(make_pool):
    pool = make_pool()
    pool.submit(SEARCH, MASKS)
    assert_each_scored_once(collected(pool, len(MASKS)), MASKS)
    assert pool.collect(0.1) == []
    assert pool.device == "fake"
    pids(pool)
    assert pool.status == "2 replicas"


def test_replicas_are_given_enough_for_as_long_as_nobody_collects(make_pool):
    pool = make_pool()
    pids(pool)
    pool.submit(SEARCH, MASKS[:8])
    first = collected(pool, 8)
    pool.submit(SEARCH, MASKS[8:])
    assert len(pool._queue) == 56
    pool.look_away(0.0)
    # Two batches of 0.3 s each.
    assert len(pool._running) == 4
    waiting = len(pool._queue)
    assert waiting >= 32
    pool.look_away(1.0)
    assert 0 < len(pool._queue) < waiting
    pool.look_away(60.0)
    assert len(pool._queue) == 0
    assert_each_scored_once(first + collected(pool, 56), MASKS)


def test_a_killed_replica_is_replaced_and_its_masks_are_scored_again(make_pool):
    pool = make_pool()
    victims = iter(pids(pool))
    pool.submit(SEARCH, MASKS)

    def kill_one():
        if (pid := next(victims, None)) is not None:
            os.kill(pid, signal.SIGKILL)

    assert_each_scored_once(collected(pool, len(MASKS), on_batch=kill_one), MASKS)
    assert pool.fleet.num_replaced == 2
    pids(pool)
    assert pool.status == "2 replicas alive, 2 lost, 2 replaced"


def test_a_hung_replica_is_replaced(make_pool, monkeypatch):
    monkeypatch.setattr(fleet, "SIGN_S", 0.5)
    monkeypatch.setattr(fleet, "SILENCE_S", 8.0)
    pool = make_pool(replicas=1)
    (pid,) = pids(pool)
    pool.submit(SEARCH, MASKS)
    first = collected(pool, 1)
    os.kill(pid, signal.SIGSTOP)
    assert_each_scored_once(first + collected(pool, len(MASKS) - len(first)), MASKS)
    assert pool.fleet.num_replaced >= 1


def given_up(pool, bad):
    """Score a bad mask among good ones, and return its score; the good ones must be scored once each."""
    others = MASKS[:10]
    pool.submit(SEARCH, [bad, *others])
    results = collected(pool, 11)
    assert_each_scored_once([result for result in results if result.mask != bad], others)
    (failed,) = [result for result in results if result.mask == bad]
    return failed.score


def test_a_mask_that_kills_replicas_is_given_up_and_no_other(make_pool):
    score = given_up(make_pool(), HeadMask(GRID, DEADLY))
    assert re.match(r"failed on \d replicas: ", score.failure)
    assert score.metrics == {}


def test_the_last_mask_of_all_is_given_up_once_replicas_show_that_they_still_score_another_one(make_pool):
    pool = make_pool()
    pool.submit(SEARCH, MASKS[:4])
    collected(pool, 4)
    pool.submit(SEARCH, [HeadMask(GRID, DEADLY)])
    (result,) = collected(pool, 1, timeout_s=120)
    assert result.score.failure.startswith("failed on ")
    assert pool.collect(0.5) == []


def test_where_nothing_can_be_scored_any_more_no_mask_is_a_failure(make_pool, tmp_path):
    pool = make_pool(payload=FakePayload(str(tmp_path)), replica_class=BreakingReplica)
    pool.submit(SEARCH, MASKS[:4])
    assert_each_scored_once(collected(pool, 4), MASKS[:4])
    (tmp_path / "broken").touch()
    pool.submit(SEARCH, MASKS[4:5])
    with pytest.raises(ReplicasLostError, match=r"replicas cannot score: a mask failed on .* fallen off the bus"):
        collected(pool, 1, timeout_s=200)


def test_where_nothing_was_ever_scored_no_mask_is_a_failure(make_pool):
    pool = make_pool()
    pool.submit(SEARCH, [HeadMask(GRID, FAILING)])
    message = r"replicas cannot score: a mask failed on 3 replicas: .*CUDA out of memory"
    with pytest.raises(ReplicasLostError, match=message):
        collected(pool, 1)


def test_a_mask_that_fails_is_given_up_with_its_reason(make_pool):
    pool = make_pool()
    score = given_up(pool, HeadMask(GRID, FAILING))
    assert re.fullmatch(r"failed on \d replicas: RuntimeError: CUDA out of memory", score.failure)
    assert pool.fleet.num_replaced >= 3


def test_bad_input_found_by_a_replica_reaches_the_caller(make_pool):
    pool = make_pool()
    pool.submit(SEARCH, [HeadMask(GRID, REFUSED)])
    with pytest.raises(DataError, match="the data are not as they must be"):
        collected(pool, 1)


def test_a_lack_of_memory_is_tried_elsewhere_and_then_ends_the_search_without_blaming_the_mask(make_pool):
    pool = make_pool()
    pool.submit(SEARCH, [HeadMask(GRID, HUNGRY)])
    with pytest.raises(DeviceMemoryError, match="32 images at a time do not fit; 16 would"):
        collected(pool, 1)
    assert pool.fleet.num_lost == 3


def test_more_replicas_than_fit_are_refused(make_pool):
    with pytest.raises(
        PoolError, match=r"3 replicas cannot be placed: each needs 1 CPU, which fits 2 times. Ask for 2"
    ):
        make_pool(replicas=3)


def test_replicas_begin_in_processes_that_were_started_ahead(make_pool, local_ray):
    ahead = start_ahead(2, 1, 0, lambda reason: None)
    actors = {host._actor_id for host in ahead.hosts}
    pool = make_pool(ahead=ahead)
    pids(pool)
    assert {member.actor._actor_id for member in pool.fleet.members} == actors
    assert ahead.hosts == []
    pool.submit(SEARCH, MASKS)
    assert_each_scored_once(collected(pool, len(MASKS)), MASKS)


def test_processes_that_no_pool_has_taken_are_ended(local_ray):
    ahead = start_ahead(2, 1, 0, lambda reason: None)
    ahead.close()
    with pytest.raises(local_ray.exceptions.ActorDiedError):
        local_ray.get(ahead.hosts[0].sign.remote())
    assert local_ray.is_initialized()


def test_a_replica_that_fits_nowhere_is_refused(make_pool):
    with pytest.raises(PoolError, match="no replica can be placed: each needs 64 CPU"):
        make_pool(threads=64)


def test_replicas_that_cannot_start_are_one_clear_message(make_pool):
    with pytest.raises(ReplicasLostError, match=r"the first replica did not start: .*no such device"):
        make_pool(replica_class=UnbornReplica)


@pytest.mark.parametrize(("address", "name"), [(None, "HERE_S"), ("auto", "START_S")])
def test_a_busy_cluster_is_waited_for_longer_where_nodes_may_join(make_pool, monkeypatch, address, name):
    assert ray_pool.HERE_S < ray_pool.START_S
    make_pool()
    monkeypatch.setattr(ray_pool, name, 1.0)
    message = "no replica started within 1 s: 1 wanted, each needs 1 CPU, the cluster has 0 CPU"
    with pytest.raises(ReplicasLostError, match=message):
        make_pool(replicas=1, address=address)


def test_all_replicas_that_wait_are_what_an_autoscaler_sees(make_pool, local_ray):
    from ray.autoscaler.v2.sdk import get_cluster_status

    def demanded():
        demands = get_cluster_status(local_ray.get_runtime_context().gcs_address).resource_demands
        bundles = [each for demand in demands.ray_task_actor_demand for each in demand.bundles_by_count]
        return [(each.bundle, each.count) for each in bundles]

    pool = make_pool(replicas=6, address="auto")
    deadline = time.monotonic() + 60
    while (found := demanded()) != [({"CPU": 1.0}, 4)]:
        assert time.monotonic() < deadline, (found, pool.status, local_ray.available_resources())
        pool.fleet.refresh()
        time.sleep(0.2)


def test_a_cluster_that_stops_answering_is_no_bad_input(make_pool, monkeypatch):
    pool = make_pool()
    pool.submit(SEARCH, MASKS[:1])

    def refuse(*_, **__):
        raise pool._ray.exceptions.RpcError("failed to connect to all addresses")

    monkeypatch.setattr(pool._ray, "wait", refuse)
    with pytest.raises(ReplicasLostError, match="the Ray cluster does not answer: failed to connect to all addresses"):
        pool.collect(1)


def test_a_cluster_that_is_not_there_is_one_clear_message(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**_):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(PoolError, match="cannot join Ray at auto: Could not find any running Ray instance"):
        RayPool(FakePayload(), address="auto")


def test_an_address_at_which_nothing_listens_is_refused_at_once(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9"):
        with pytest.raises(ReplicasLostError, match=f"cannot join Ray at {address}: Connection refused"):
            RayPool(FakePayload(), address=address)


def test_an_address_at_which_something_else_listens_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.7\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(PoolError, match=f"cannot join Ray at {address}: what listens there is not a Ray cluster"):
            check_answers(address)


def test_a_control_plane_answers_as_one(local_ray):
    check_answers(local_ray.get_runtime_context().gcs_address)


@pytest.mark.parametrize("address", ["", "localhost", "localhost:abc", "ray://", "a b:1", "h:70000", "http://h:8265"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(PoolError, match="must be auto, HOST:PORT, or ray://HOST:PORT"):
        check_address(address)


def test_addresses_are_accepted():
    for address in ("auto", "localhost:6379", "10.0.0.1:6379", "ray://head.cluster.local:10001", "[::1]:6379"):
        check_address(address)


def test_ray_gives_the_same_scores_as_the_inline_pool(make_pool, tiny_session):
    masks = MASKS[::4]
    pool, inline = (
        make_pool(payload=tiny_session.payload, replica_class=ray_pool.Replica),
        InlinePool(tiny_session.payload),
    )
    values = []
    for each in (pool, inline):
        each.settle(tiny_session.wanted)
        each.submit(SEARCH, masks)
        each.submit(Stage("confirm", "bfloat16"), masks[:4])
        results = collected(each, len(masks) + 4)
        values.append({(result.stage, result.mask): result.score.metrics for result in results})
    assert values[0] == values[1]
    assert len(values[0]) == len(masks) + 4
    assert pool.device == inline.device


def test_replicas_predict_by_what_they_have_adopted_those_that_replace_others_too(make_pool):
    pool = make_pool()
    pool.adopt_displacements(7)
    os.kill(pids(pool)[0], signal.SIGKILL)
    pool.submit(SEARCH, MASKS[:30])
    scored = collected(pool, 30)
    assert pool.fleet.num_replaced == 1
    pool.submit(PREDICTED, MASKS)
    predicted = collected(pool, len(MASKS))
    assert sorted(result.mask for result in predicted) == MASKS
    assert {result.score.metrics["predicted"] for result in predicted} == {7}
    assert_each_scored_once(scored, MASKS[:30])


def test_a_replica_that_dies_while_predictions_are_awaited_costs_neither_them_nor_scores(make_pool):
    pool = make_pool()
    pool.adopt_displacements(7)
    pool.submit(SEARCH, MASKS[:30])
    first = collected(pool, 1)
    os.kill(pids(pool)[0], signal.SIGKILL)
    predicted = score_all(pool, PREDICTED, MASKS)
    assert set(predicted) == set(MASKS)
    assert_each_scored_once(first + collected(pool, 30 - len(first)), MASKS[:30])
    assert pool.fleet.num_replaced == 1


def test_a_search_ends_where_replicas_cannot_predict(make_pool):
    pool = make_pool()
    with pytest.raises(
        PoolError,
        match=r"the surrogate cannot predict \(failed on 3 replicas: .*displacements.*\); search with --no-surrogate",
    ):
        score_all(pool, PREDICTED, MASKS[:1])


def test_ray_predicts_what_the_inline_pool_predicts(make_pool, tiny_session):
    pool, inline = (
        make_pool(payload=tiny_session.payload, replica_class=ray_pool.Replica),
        InlinePool(tiny_session.payload),
    )
    found = []
    for each in (pool, inline):
        each.settle(tiny_session.wanted)
        scan = HeadMask.singles(tiny_session.grid)
        scores = {mask: r.score for mask, r in score_all(each, Stage("search", embeddings=True), scan).items()}
        (baseline_NE,), *_ = (scores[mask].embeddings for mask in scan)
        moved = {mask.heads[0]: displacement(scores[mask].embeddings[0], baseline_NE) for mask in scan[1:]}
        each.adopt_displacements([Displacements(baseline_NE, moved)])
        predicted = score_all(each, PREDICTED, MASKS)
        found.append({mask: predicted[mask].score.metrics for mask in MASKS})
    assert found[0] == found[1]
    assert len({tuple(metrics.items()) for metrics in found[0].values()}) > 5
