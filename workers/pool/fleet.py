"""Replicas as actors that are kept alive: started, watched, replaced elsewhere, and added where there is room.

Lost work is not this module's concern: the caller learns that a replica is gone, and gives its work to another one. A
replica that does not answer a sign of life counts as lost, too; one that computes for hours still answers.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headmask.border.shown import counted
from headmask.errors import ReplicasLostError
from workers.pool.cluster import Resources, describe, reason_of, room_for
from workers.pool.host import Birth, Start

SIGN_S = 10.0
"""Seconds between two requests for a sign of life."""
LOOK_S = 1.0
"""Seconds between two looks for answers."""
SILENCE_S = 60.0
"""Seconds without an answer after which a replica counts as lost."""
START_S = 1800.0
"""Seconds that a replica may take to start before another one is started; while it waits, an autoscaler sees that."""
TELL_S = 60.0
"""Seconds between two messages about what is waited for."""
ROOM_S = 5.0
"""Seconds between two checks of the cluster's room."""
BACK_OFF_S, MAX_BACK_OFF_S = 0.5, 30.0
"""Pause before the next start, once more replicas than the pool has did not come up; doubled by every further one."""
MAX_PENDING = 1000
"""Maximum number of replicas that start or wait for room: enough for an autoscaler, without burdening a control
plane.
"""
MAX_LOSSES, GIVE_UP_S = 12, 1800.0
"""Losses in a row, for each of the pool's replicas, and seconds without a finished batch, after which it gives up."""
BAD_NODE, BAD_NODE_S = 3, 600.0
"""Replicas lost in a row on one node while others get on, and for how many seconds the node is left alone then."""
NODE_LABEL = "ray.io/node-id"
"""Label of every node, set by Ray itself."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Member:
    """One replica of the fleet."""

    actor: Any
    birth: Any
    """Reference to its `Birth`."""
    since: float
    """When it was started."""
    node: str = ""
    device: str = ""
    sign: Any = None
    """Reference to a sign of life that has been requested."""
    asked: float = 0.0
    """When a sign of life was last requested."""
    pace: float = 1.0
    """Seconds that it takes for work that takes the average replica one second."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Return the reference to the result of a method of the replica."""
        return self.actor.call.remote(method, *arguments)


class Fleet:
    """Keeps as many replicas as are wanted, or as fit.

    Args:
        ray: the module, connected.
        start: begins a replica.
        need: resources of a node that a replica needs.
        count: number of replicas; None for as many as fit, which is checked regularly.
        size: how many times a replica of this fleet needs that: more than once if it is a group of them.
        mixed: whether replicas on devices of different kinds may work together.
        on_birth: called with every replica that has started.
        check: raises when the cluster cannot work any more.
    """

    def __init__(
        self,
        ray: Any,
        start: Start,
        need: Resources,
        count: int | None,
        *,
        size: int = 1,
        mixed: bool = False,
        on_birth: Callable[[Member], None] = lambda member: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._ray, self._start, self._need, self._count = ray, start, need, count
        self._size, self._mixed, self._on_birth, self._check = size, mixed, on_birth, check
        self.members: list[Member] = []
        """Replicas that have started."""
        self.pending: list[Member] = []
        """Replicas that have not started yet."""
        self.device = ""
        """Kind of device of the first replica that started."""
        self.num_lost = self.num_replaced = 0
        self._others: set[str] = set()
        """Nodes whose devices are of another kind."""
        self._in_a_row = self._num_unborn = 0
        """Losses in a row, and losses in a row of replicas that never started."""
        self._did_well_at = time.monotonic()
        self._on_node: Counter[str] = Counter()
        """Losses in a row, by node."""
        self._avoided: dict[str, float] = {}
        """Time until which nodes are avoided."""
        self._not_before = 0.0
        self._room, self._room_at = 1, float("-inf")
        self._looked_at = float("-inf")
        self.reason = ""
        """Why the last replica was lost."""

    @property
    def wanted(self) -> int:
        """Number of replicas that there should be."""
        return self._room if self._count is None else self._count

    @property
    def status(self) -> str:
        """A short text for the progress display."""
        alive = len(self.members) * self._size
        parts = [counted(alive, "replica") + (" alive" if self.num_lost else "")]
        parts += [f"{len(self.pending)} starting"] if self.pending else []
        parts += [f"{self.num_lost} lost, {self.num_replaced} replaced"] if self.num_lost else []
        return ", ".join(parts)

    def refresh(self) -> list[tuple[Member, str]]:
        """Return replicas that were lost silently, with the reason, having started missing ones and taken in new ones.

        Raises:
            ReplicasLostError: replicas keep dying.
        """
        now = time.monotonic()
        self._look_for_room(now)
        self._take_in(now)
        silent = self._silent(now)
        for member, reason in silent:
            self.lose(member, reason)
        missing = min(self.wanted - len(self.members), MAX_PENDING) - len(self.pending)
        if self._size > 1:
            # One after the other: groups that each hold a part of what they need would wait for each other.
            missing = min(missing, 1 - len(self.pending))
        if now >= self._not_before:
            for _ in range(missing):
                self._add(now)
        return silent

    def lose(self, member: Member, reason: str) -> None:
        """Give up a replica and start another one in its place.

        Raises:
            ReplicasLostError: replicas keep dying.
        """
        was_up = member in self.members
        self.members = [each for each in self.members if each is not member]
        self.pending = [each for each in self.pending if each is not member]
        self._ray.kill(member.actor)
        self.num_lost += 1
        self.reason = reason
        now = time.monotonic()
        self._in_a_row += 1
        if self._in_a_row > MAX_LOSSES * max(1, self.wanted) and now - self._did_well_at > GIVE_UP_S:
            raise ReplicasLostError(
                f"replicas keep dying: {self._in_a_row} in a row, and no batch was finished for "
                f"{now - self._did_well_at:.0f} s: {reason}"
            )
        self._num_unborn = 0 if was_up else self._num_unborn + 1
        beyond = self._num_unborn - self.wanted
        pause_s = min(MAX_BACK_OFF_S, BACK_OFF_S * 2.0 ** min(beyond, 16)) if beyond > 0 else 0.0
        self._not_before = max(self._not_before, now + pause_s)
        self._blame(member.node, now)
        _log.warning("a replica was lost (%s)", reason)

    def did_well(self, member: Member) -> None:
        """Record a finished batch."""
        self._in_a_row, self._did_well_at = 0, time.monotonic()
        self._on_node[member.node] = 0

    def stop(self) -> None:
        """Stop all replicas."""
        for member in (*self.members, *self.pending):
            self._ray.kill(member.actor)
        self.members, self.pending = [], []

    def _blame(self, node: str, now: float) -> None:
        """Avoid a node for a while if replicas die there in a row and there are other nodes."""
        if not node:
            return
        self._on_node[node] += 1
        others = {member.node for member in self.members} - {node}
        if self._on_node[node] >= BAD_NODE and others:
            self._avoided[node] = now + BAD_NODE_S
            self._on_node[node] = 0
            _log.warning("node %s is avoided for %.0f s: %d replicas died there in a row", node, BAD_NODE_S, BAD_NODE)

    def _add(self, now: float) -> None:
        avoided = sorted({node for node, until in self._avoided.items() if until > now} | self._others)
        options = {"label_selector": {NODE_LABEL: f"!in({','.join(avoided)})"}} if avoided else {}
        self.pending.append(Member(*self._start(options), now))
        self.num_replaced += self.num_replaced < self.num_lost

    def _look_for_room(self, now: float) -> None:
        if self._count is not None or now < self._room_at + ROOM_S:
            return
        self._room_at = now
        # Without any room, one that waits is what an autoscaler sees.
        self._room = max(1, room_for(self._ray.nodes(), self._need) // self._size)
        while self.pending and len(self.members) + len(self.pending) > self._room:
            self._ray.kill(self.pending.pop().actor)

    def _take_in(self, now: float) -> None:
        by_birth = {member.birth: member for member in self.pending}
        born = self._ready(list(by_birth))
        for birth, member in by_birth.items():
            if birth in born:
                self._welcome(member)
            elif now - member.since > START_S:
                self.lose(member, f"not up after {START_S:.0f} s")

    def _ready(self, references: list[Any]) -> set[Any]:
        """Return the references whose results have arrived."""
        if not references:
            return set()
        ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return set(ready)

    def _welcome(self, member: Member) -> None:
        try:
            birth: Birth = self._ray.get(member.birth)
        except self._ray.exceptions.RayError as error:
            self.lose(member, reason_of(error))
            return
        member.node, member.device = birth.node, birth.device
        if birth.error is not None:
            raise birth.error
        if birth.failure is not None:
            self.lose(member, birth.failure)
            return
        self.device = self.device or birth.device
        self.pending.remove(member)
        if birth.device != self.device and not self._mixed:
            self._leave_out(member)
            return
        self.members.append(member)
        self._on_birth(member)

    def _leave_out(self, member: Member) -> None:
        """Exclude a device of another kind, with one warning."""
        self._ray.kill(member.actor)
        if member.node not in self._others:
            _log.warning(
                "node %s is left out: its device is %s, the study's %s, and scores would differ in their last bits; "
                "--mixed-devices takes both",
                member.node,
                member.device,
                self.device,
            )
        self._others.add(member.node)

    def _silent(self, now: float) -> list[tuple[Member, str]]:
        """Return replicas that no longer answer, and request signs of life from the others when due."""
        if now < self._looked_at + LOOK_S:
            return []
        self._looked_at = now
        silent = []
        answered = self._ready([member.sign for member in self.members if member.sign is not None])
        for member in self.members:
            if member.sign is None:
                if now - member.asked >= SIGN_S:
                    member.sign, member.asked = member.actor.sign.options(concurrency_group="signs").remote(), now
            elif member.sign in answered:
                try:
                    self._ray.get(member.sign)
                    member.sign = None
                except self._ray.exceptions.RayError as error:
                    silent.append((member, reason_of(error)))
            elif now - member.asked > SILENCE_S:
                silent.append((member, f"no sign of life for {SILENCE_S:.0f} s"))
        return silent

    def wait_for(self, count: int, timeout_s: float, say: Callable[[str], None] = lambda text: None) -> None:
        """Wait until enough replicas have started.

        Args:
            count: number of replicas.
            timeout_s: maximum time to wait.
            say: called every minute with what is waited for.

        Raises:
            ReplicasLostError: they have not started in time.
        """
        tell_at, deadline = time.monotonic() + TELL_S, time.monotonic() + timeout_s
        self.refresh()
        while len(self.members) < count:
            if self._in_a_row > self.wanted:
                raise ReplicasLostError(f"the first replica did not start: {self.reason}")
            now = time.monotonic()
            if now >= deadline:
                lack, advice = self._lack()
                raise ReplicasLostError(f"no replica started within {timeout_s:.0f} s: {lack}. {advice}")
            if now >= tell_at:
                tell_at = now + TELL_S
                lack, _ = self._lack()
                say(f"waiting for the first replica, {(deadline - now) / 60:.0f} minutes more at most: {lack}")
            self._ray.wait([member.birth for member in self.pending], timeout=min(1.0, deadline - now))
            self._check()
            self.refresh()

    def _lack(self) -> tuple[str, str]:
        """Return what is missing, replicas that start or room for them, and what would help."""
        free, total = self._ray.available_resources(), self._ray.cluster_resources()
        wanted, kind = self.wanted * self._size, "GPU" if self._need.gpus else "CPU"
        taken = (total.get(kind, 0) - free.get(kind, 0)) / (self._need.gpus or self._need.cpus)
        # What others hold cannot be told from what replicas hold that start, unless it is all theirs.
        is_ours = taken <= (len(self.members) + len(self.pending)) * self._size
        starting = max(0, round(taken) - len(self.members) * self._size) if is_ours else 0
        parts = [f"{wanted} wanted", f"each needs {self._need}"] + [f"{starting} starting"] * (starting > 0)
        if starting and starting + len(self.members) * self._size >= wanted:
            return ", ".join(parts), "Other programs may slow them down, or fill the memory; ask for fewer --replicas"
        return ", ".join([*parts, f"the cluster has {describe(free)} free"]), (
            "Free resources, or ask for fewer --threads"
        )
