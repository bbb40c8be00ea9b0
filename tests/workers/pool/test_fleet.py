"""Keeping replicas alive, on a cluster that is made up: nodes come and go, replicas die, devices differ."""

import logging
import re
from types import SimpleNamespace

import pytest

from headmask.errors import PixelsGoneError, ReplicasLostError
from workers.pool import fleet as fleet_module
from workers.pool.cluster import Resources, need_of, room_for
from workers.pool.fleet import Birth, Fleet, Member

CPU = Resources(1, 0)


class FakeError(Exception):
    """What Ray raises for a dead actor."""


class Reference:
    """What a call returns: a value, an error, or nothing yet."""

    def __init__(self, value=None, *, error=None, is_ready=True):
        self.value, self.error, self.is_ready = value, error, is_ready


class Remote:
    def __init__(self, call):
        self.remote = call

    def options(self, **_):
        return self


class FakeRay:
    """A cluster of nodes that replicas are put on, the emptiest first."""

    exceptions = SimpleNamespace(RayError=FakeError, RayTaskError=FakeError)

    def __init__(self, **cpus):
        self.cpus = dict(cpus)
        self.devices, self.broken, self.silent, self.dead = {}, set(), set(), set()
        self.hopeless = {}
        self.hosts = {}
        self.selectors = []

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": count}} for count in self.cpus.values()]

    def cluster_resources(self):
        return {"CPU": sum(self.cpus.values())}

    def available_resources(self):
        return {"CPU": sum(self.cpus.values()) - len(self.hosts)}

    def start(self, options):
        selector = options.get("label_selector", {}).get(fleet_module.NODE_LABEL, "")
        self.selectors.append(selector)
        avoided = re.findall(r"\w+", selector.removeprefix("!in"))
        actor = SimpleNamespace(sign=Remote(lambda: self.sign(actor)))
        used = list(self.hosts.values())
        room = [node for node, count in self.cpus.items() if node not in avoided and used.count(node) < count]
        if room:
            self.hosts[id(actor)] = min(room, key=used.count)
        return actor, self.birth(actor)

    def birth(self, actor):
        node = self.hosts.get(id(actor))
        if node is None:
            return Reference(is_ready=False)
        failure = "RuntimeError: no such device" if node in self.broken else None
        return Reference(Birth(node, self.devices.get(node, "cpu"), failure, self.hopeless.get(node)))

    def sign(self, actor):
        node = self.hosts.get(id(actor))
        if node in self.dead:
            return Reference(error=FakeError("The actor died"))
        return Reference(is_ready=node not in self.silent)

    def wait(self, references, timeout=None, num_returns=1):
        ready = [each for each in references if each.is_ready]
        return ready, [each for each in references if not each.is_ready]

    def get(self, reference):
        if reference.error is not None:
            raise reference.error
        return reference.value

    def kill(self, actor):
        self.hosts.pop(id(actor), None)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(fleet_module.time, "monotonic", lambda: now.s)
    return now


def fleet_on(ray, count=None, **options):
    fleet = Fleet(ray, ray.start, CPU, count, **options)
    for _ in range(3):
        fleet.refresh()
    return fleet


def nodes_of(fleet):
    return sorted(member.node for member in fleet.members)


def test_there_is_a_replica_for_all_that_there_is_room_for(clock):
    fleet = fleet_on(FakeRay(a=2, b=1))
    assert nodes_of(fleet) == ["a", "a", "b"]
    assert fleet.status == "3 replicas"


def test_a_replica_that_finds_no_pixels_ends_the_pool_instead_of_being_replaced_for_ever(clock):
    ray = FakeRay(a=1)
    fleet = fleet_on(ray, count=1)
    ray.hopeless["a"] = PixelsGoneError("the pixel cache is not on this host")
    fleet.lose(fleet.members[0], "killed")
    with pytest.raises(PixelsGoneError, match="the pixel cache is not on this host"):
        fleet.wait_for(1, 60)


def test_replicas_join_when_a_node_does(clock):
    ray = FakeRay(a=1)
    fleet = fleet_on(ray)
    ray.cpus["b"] = 2
    fleet.refresh()
    assert nodes_of(fleet) == ["a"]
    clock.s += fleet_module.ROOM_S
    for _ in range(2):
        fleet.refresh()
    assert nodes_of(fleet) == ["a", "b", "b"]


def test_more_replicas_than_fit_wait_so_that_an_autoscaler_sees_them(clock):
    ray = FakeRay(a=1)
    fleet = fleet_on(ray, 3)
    assert (len(fleet.members), len(fleet.pending)) == (1, 2)
    assert fleet.status == "1 replica, 2 starting"


def test_without_any_room_one_replica_waits(clock):
    fleet = fleet_on(FakeRay())
    assert (len(fleet.members), len(fleet.pending)) == (0, 1)


def test_while_the_first_one_is_waited_for_every_minute_says_what_is_lacking(clock, monkeypatch):
    ray, said = FakeRay(), []
    fleet = Fleet(ray, ray.start, CPU, 2)
    wait = ray.wait

    def ticking(references, timeout=None, num_returns=1):
        clock.s += timeout or 0
        return wait(references)

    monkeypatch.setattr(ray, "wait", ticking)
    lack = "2 wanted, each needs 1 CPU, the cluster has 0 CPU and 0 GPU free"
    with pytest.raises(ReplicasLostError, match=rf"no replica started within 180 s: {lack}\. Free resources"):
        fleet.wait_for(1, 180, said.append)
    assert said == [f"waiting for the first replica, {left} minutes more at most: {lack}" for left in (2, 1)]
    assert fleet.num_lost == 0


@pytest.mark.parametrize(
    ("cpus", "by_others", "lack"),
    [
        (2, 0, "2 wanted, each needs 1 CPU, 2 starting. Other programs may slow them down, or fill the memory; ask"),
        (1, 0, "2 wanted, each needs 1 CPU, 1 starting, the cluster has 0 CPU and 0 GPU free. Free resources, or"),
        (3, 3, "2 wanted, each needs 1 CPU, the cluster has 0 CPU and 0 GPU free. Free resources, or ask for fewer"),
    ],
)
def test_replicas_that_merely_start_are_not_a_lack_of_room(clock, monkeypatch, cpus, by_others, lack):
    ray = FakeRay(a=cpus)
    ray.hosts |= dict.fromkeys(range(by_others), "a")
    monkeypatch.setattr(ray, "birth", lambda actor: Reference(is_ready=False))
    fleet = Fleet(ray, ray.start, CPU, 2)

    def ticking(references, timeout=None, num_returns=1):
        clock.s += timeout or 0
        return [], references

    monkeypatch.setattr(ray, "wait", ticking)
    with pytest.raises(ReplicasLostError, match=re.escape(f"no replica started within 60 s: {lack}")):
        fleet.wait_for(1, 60)


def test_a_node_that_is_gone_is_not_waited_for(clock):
    ray = FakeRay(a=1, b=1)
    fleet = fleet_on(ray)
    del ray.cpus["b"]
    (lost,) = [member for member in fleet.members if member.node == "b"]
    fleet.lose(lost, "the node died")
    fleet.refresh()
    clock.s += fleet_module.ROOM_S
    fleet.refresh()
    assert (nodes_of(fleet), fleet.pending) == (["a"], [])


def test_a_lost_replica_is_replaced_and_counted(clock):
    fleet = fleet_on(FakeRay(a=2))
    fleet.lose(fleet.members[0], "killed")
    fleet.refresh()
    fleet.refresh()
    assert fleet.status == "2 replicas alive, 1 lost, 1 replaced"


def test_one_that_gives_no_sign_of_life_is_lost_and_one_that_works_long_is_not(clock):
    ray = FakeRay(a=1, b=1)
    fleet = fleet_on(ray)
    ray.silent.add("b")
    for _ in range(12):
        clock.s += fleet_module.SIGN_S
        lost = fleet.refresh()
        if lost:
            break
    assert [(member.node, reason) for member, reason in lost] == [("b", "no sign of life for 60 s")]
    assert [member.node for member in fleet.members] == ["a"]


def test_one_that_dies_while_idle_is_noticed(clock):
    ray = FakeRay(a=1)
    fleet = fleet_on(ray)
    ray.dead.add("a")
    clock.s += fleet_module.SIGN_S
    fleet.refresh()
    clock.s += fleet_module.LOOK_S
    ((member, reason),) = fleet.refresh()
    assert (member.node, reason) == ("a", "The actor died")


def test_replicas_that_do_not_come_up_are_started_ever_later(clock):
    ray = FakeRay(a=1)
    fleet = fleet_on(ray)
    pauses = []
    ray.broken.add("a")
    fleet.lose(fleet.members[0], "died")
    for number in range(2, 10):
        before = clock.s
        while fleet.num_lost < number:
            fleet.refresh()
            clock.s += 0.25 if fleet.num_lost < number else 0
        pauses.append(clock.s - before)
    assert max(pauses[:2]) < 0.5
    assert pauses[2:] == sorted(pauses[2:])
    assert pauses[-1] >= fleet_module.MAX_BACK_OFF_S


def test_replicas_that_are_killed_while_they_work_are_replaced_at_once(clock):
    fleet = fleet_on(FakeRay(a=1))
    for _ in range(10):
        fleet.lose(fleet.members[0], "killed")
        fleet.refresh()
        fleet.refresh()
        assert fleet.members


def test_at_last_the_pool_gives_up(clock):
    fleet = fleet_on(FakeRay(a=2))

    def lose_all():
        for _ in range(100):
            clock.s += fleet_module.MAX_BACK_OFF_S
            fleet.refresh()
            if fleet.members:
                fleet.lose(fleet.members[0], "no luck")

    with pytest.raises(
        ReplicasLostError, match=r"replicas keep dying: \d+ in a row, and no batch was finished for \d+ s: no luck"
    ):
        lose_all()


def test_a_node_on_which_replicas_die_in_a_row_is_left_alone_for_a_while(clock, caplog):
    ray = FakeRay(good=1, bad=1)
    fleet = fleet_on(ray, 2)
    ray.broken.add("bad")
    (victim,) = [member for member in fleet.members if member.node == "bad"]
    with caplog.at_level(logging.WARNING):
        fleet.lose(victim, "killed")
        for _ in range(60):
            fleet.did_well(next(member for member in fleet.members if member.node == "good"))
            clock.s += 1
            fleet.refresh()
    assert ray.selectors[-1] == "!in(bad)"
    assert nodes_of(fleet) == ["good"]
    assert "node bad is avoided" in caplog.text
    ray.broken.clear()
    clock.s += fleet_module.BAD_NODE_S + fleet_module.START_S
    for _ in range(3):
        fleet.refresh()
        clock.s += fleet_module.MAX_BACK_OFF_S
    assert nodes_of(fleet) == ["bad", "good"]


def test_a_device_of_another_kind_is_left_out_and_named(clock, caplog):
    ray = FakeRay(a=1, b=1)
    ray.devices["b"] = "cuda NVIDIA H100"
    with caplog.at_level(logging.WARNING):
        fleet = fleet_on(ray)
    assert nodes_of(fleet) == ["a"]
    assert "node b is left out: its device is cuda NVIDIA H100, the study's cpu" in caplog.text
    assert "--mixed-devices" in caplog.text
    assert ray.selectors[-1] == "!in(b)"


def test_devices_of_different_kinds_work_together_where_that_is_wanted(clock):
    ray = FakeRay(a=1, b=1)
    ray.devices["b"] = "cuda NVIDIA H100"
    fleet = fleet_on(ray, mixed=True)
    assert {member.device for member in fleet.members} == {"cpu", "cuda NVIDIA H100"}


def test_whoever_comes_up_is_told_what_was_settled(clock):
    told = []
    fleet = fleet_on(FakeRay(a=2), on_birth=told.append)
    assert told == fleet.members
    assert isinstance(told[0], Member)


@pytest.mark.parametrize(
    ("gpus_per_replica", "need", "room"),
    [(None, Resources(1, 1), 3), (1.0, Resources(1, 1), 3), (0.5, Resources(1, 0.5), 6), (0.0, Resources(2, 0), 8)],
)
def test_a_gpu_holds_one_replica_or_several_and_cpus_are_an_alternative(gpus_per_replica, need, room):
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8, "GPU": 2}},
        {"Alive": True, "Resources": {"CPU": 9, "GPU": 1}},
        {"Alive": False, "Resources": {"CPU": 64, "GPU": 8}},
        {"Alive": True, "Resources": {}},
    ]
    assert need_of(nodes, 2, gpus_per_replica) == need
    assert room_for(nodes, need) == room
