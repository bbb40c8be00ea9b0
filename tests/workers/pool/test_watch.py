"""A driver learns at once that a process of Ray's has died, and what Ray leaves behind is ended."""

import os
import signal
import subprocess
import sys
import time

import pytest

from headmask.errors import ReplicasLostError
from workers.pool import watch as module
from workers.pool.watch import Process, Watch, children

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
CHILD = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
PARENT = f"import subprocess, sys, time; {CHILD}; time.sleep(60)"


@pytest.fixture
def started():
    """Starts processes that are ended with the test."""
    processes = []

    def start(command):
        processes.append(subprocess.Popen(command))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def until(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_death_is_known_at_once(started):
    process = started(SLEEP)
    watch = Watch([Process("raylet", process.pid)])
    with watch.call():
        pass
    process.kill()
    process.wait()
    with pytest.raises(ReplicasLostError, match="Ray's raylet on this machine has died"):
        watch.check()
    with pytest.raises(ReplicasLostError, match="Ray's raylet"), watch.call():
        pytest.fail("Ray is not called any more")
    watch.close()


def test_a_call_that_goes_on_is_ended_and_no_other_work(started, monkeypatch):
    monkeypatch.setattr(module, "STUCK_S", 0.2)
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    process, ended = started(SLEEP), []
    watch = Watch([Process("control plane", process.pid)], on_stuck=ended.append)
    process.kill()
    until(lambda: watch.reason)
    time.sleep(0.6)
    assert not ended
    watch._call_since = time.monotonic()
    until(lambda: ended)
    assert ended == ["Ray's control plane on this machine has died"]


def test_a_control_plane_elsewhere_is_probed(monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    monkeypatch.setattr(module, "PROBE_S", 0.02)
    answers = [True, False, False, True, *[False] * 100]
    monkeypatch.setattr(module, "_answers", lambda *_: answers.pop(0))
    watch = Watch([], ("head", 6379))
    until(lambda: watch.reason)
    assert watch.reason == "Ray's control plane at head:6379 does not answer any more"
    assert 100 - len(answers) <= 8


def test_agents_end_with_their_raylet_however_it_ends(started):
    raylet = started([sys.executable, "-c", PARENT])
    until(lambda: children(raylet.pid))
    (agent,) = children(raylet.pid)
    module._guard(raylet.pid)
    time.sleep(1)
    descriptor = os.pidfd_open(agent)
    os.kill(raylet.pid, signal.SIGKILL)
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(20_000)
    os.close(descriptor)
