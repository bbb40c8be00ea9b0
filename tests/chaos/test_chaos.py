"""A little chaos in every test run; `make chaos` has all of it."""

import os
import random
import signal

import psutil
import pytest

from tests.chaos.arena import is_replica
from tests.orchestrator.studies import outcome, start, trials
from workers.pool.ray import RayPool

KILLS = 3


@pytest.mark.usefixtures("undrawn")
def test_a_search_whose_replicas_are_killed_equals_an_undisturbed_one(tiny_config, wide_files, local_ray, monkeypatch):
    changes = {"search__image_chunk": 8, "search__finalists": 3, "budget__masks": 60}
    whole = tiny_config("whole", wide_files, **changes)
    start(whole)
    collect, rng, kills = RayPool.collect, random.Random(0), []

    def kill_one():
        replicas = [each for each in psutil.Process().children(recursive=True) if is_replica(each)]
        if replicas:
            victim = rng.choice(replicas)
            os.kill(victim.pid, signal.SIGKILL)
            kills.append(victim.pid)

    def collecting(pool, timeout_s):
        results = collect(pool, timeout_s)
        # One after another: the next victim is up only when there are results again.
        if results and len(kills) < KILLS and rng.random() < 0.7:
            kill_one()
        return results

    monkeypatch.setattr(RayPool, "collect", collecting)
    disturbed = tiny_config("disturbed", wide_files, pool__kind="ray", pool__replicas=2, **changes)
    start(disturbed)
    assert len(kills) == KILLS
    assert trials(disturbed.folder) == trials(whole.folder)
    assert outcome(disturbed.folder) == outcome(whole.folder)
