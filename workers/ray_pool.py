"""Replicas as Ray actors: on this machine, started by itself, or on a cluster that is joined.

Evaluations are pure, so whatever is lost is done again: the batch of a dead replica goes back to the queue, mask by
mask, and the replica is replaced. A mask that kills three replicas in a row while alone is given up, with its reason.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headmask.errors import HeadmaskError, PoolError
from headmask.mask import HeadMask
from workers.cluster import Resources, check_room, connect, describe, reason_of, room_for
from workers.constants import Constants
from workers.displacement import Displacements
from workers.messages import GateGradient, GateTask, MaskScore, Stage
from workers.pool import BatchQueue, Result, Steps
from workers.replica import Payload, Replica, Wanted

IN_FLIGHT = 2
MAX_STRIKES = 3
MAX_LOSSES = 12
"""Replicas lost in a row, for each of the pool's, after which the pool gives up: more than one bad mask can cost."""
HANG_S = 300.0
"""Seconds beyond thirty times the expected ones after which a silent replica is replaced."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Running:
    """A batch that a replica works on."""

    actor: Any
    stage: Stage
    masks: list[HeadMask]
    started: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class _Differentiating:
    """A micro-batch that a replica differentiates."""

    actor: Any
    task: GateTask
    losses: int = 0
    """Replicas lost over it."""
    started: float = field(default_factory=time.monotonic)


class RayPool:
    """Replicas on Ray.

    Args:
        payload: goes into the object store once, and from there to every node once.
        replicas: how many; None for as many as the cluster has room for.
        threads: CPU threads of one replica.
        steps: predicted cost of masks; see `BatchQueue`.
        address: of a cluster to join, such as `auto` or `ray://host:10001`; None starts Ray on this machine.
        start_timeout_s: how long to wait for the first replica.
        replica_class: what the actors are; anything with the methods of `Replica`.

    Raises:
        PoolError: the cluster cannot be joined, or no replica can be placed.
    """

    def __init__(
        self,
        payload: Payload,
        *,
        replicas: int | None = None,
        threads: int = 1,
        steps: Steps | None = None,
        address: str | None = None,
        start_timeout_s: float = 300.0,
        replica_class: type = Replica,
    ) -> None:
        self._ray, self._owns_ray = connect(address)
        self._queue = BatchQueue(steps)
        self._constants: Constants | None = None
        self._displacements: Any = None
        """In the object store, once there are any."""
        self._running: dict[Any, _Running] = {}
        self._differentiating: dict[Any, tuple[int, _Differentiating]] = {}
        self._strikes: Counter[tuple[Stage, HeadMask]] = Counter()
        self._held: list[Result] = []
        """To be collected next: given up, or put back."""
        self._actors: list[Any] = []
        self._losses = 0
        self.num_replaced = 0
        try:
            resources, room = room_for(self._ray.cluster_resources(), threads)
            self.num_replicas = replicas or room
            check_room(resources, room, self.num_replicas)
            self._payload = self._ray.put(payload.packed(None if address is None else self._ray.put))
            options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_restarts": 0, "max_task_retries": 0}
            self._actor_class = self._ray.remote(**options)(replica_class)
            self._device = "cuda" if resources.gpus else "cpu"
            self._actors = [self._start() for _ in range(self.num_replicas)]
            self.device = self._first_device(resources, start_timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def status(self) -> str:
        """A few words for the progress display."""
        replaced = f", {self.num_replaced} replaced" if self.num_replaced else ""
        return f"{len(self._actors)} replica{'s' * (len(self._actors) != 1)}{replaced}"

    def settle(self, wanted: Wanted) -> Constants:
        """Find out the constants of the study on the pool's kind of device, and use them; before the first score."""
        first, *others = self._actors
        try:
            constants: Constants = self._ray.get(first.settle.remote(wanted))
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, HeadmaskError):
                raise error.cause from None
            raise PoolError(f"the first replica could not be measured: {reason_of(error)}") from None
        except self._ray.exceptions.RayError as error:
            raise PoolError(f"the first replica died while it was measured: {reason_of(error)}") from None
        self._constants = constants
        for actor in others:
            actor.adopt.remote(constants)
        return constants

    def adopt_displacements(self, displacements: Sequence[Displacements]) -> None:
        """Let all replicas predict by the displacements of every data set on the search split."""
        self._displacements = self._ray.put(displacements)
        for actor in self._actors:
            actor.adopt_displacements.remote(self._displacements)

    def submit_gradients(self, tasks: Sequence[GateTask]) -> None:
        """Queue micro-batches for differentiation; no others before all of these were collected."""
        self._differentiating = {}
        for place, task in enumerate(tasks):
            self._differentiate(place, task)

    def collect_gradients(self, timeout_s: float) -> dict[int, GateGradient]:
        """Return gradients as soon as there are any, by the places of their tasks; none after `timeout_s` seconds."""
        ready, _ = self._ray.wait(list(self._differentiating), timeout=timeout_s)
        found = {}
        for reference in ready:
            place, running = self._differentiating.pop(reference)
            try:
                (found[place],) = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, HeadmaskError):
                    raise error.cause from None
                raise PoolError(f"gates cannot be trained: {reason_of(error)}") from None
            except self._ray.exceptions.RayError as error:
                self._differentiate_again(place, running, reason_of(error))
        for reference, (place, running) in list(self._differentiating.items()):
            if time.monotonic() - running.started > HANG_S:
                del self._differentiating[reference]
                self._differentiate_again(place, running, f"no answer for {HANG_S:.0f} s")
        return found

    def _differentiate(self, place: int, task: GateTask, losses: int = 0) -> None:
        actor = self._actors[place % len(self._actors)]
        self._differentiating[actor.differentiate.remote([task])] = place, _Differentiating(actor, task, losses)

    def _differentiate_again(self, place: int, running: _Differentiating, reason: str) -> None:
        """Let another replica differentiate a micro-batch over which one was lost; give up after a few."""
        if running.losses + 1 == MAX_STRIKES:
            raise PoolError(f"gates cannot be trained: {MAX_STRIKES} replicas were lost over a micro-batch: {reason}")
        if running.actor in self._actors:
            self._replace(running.actor, reason)
        self._differentiate(place, running.task, running.losses + 1)

    def submit(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Queue masks for scoring."""
        self._queue.put(stage, masks)

    def put_back(self, results: Iterable[Result]) -> None:
        """Let results that were collected by the way be collected again, by whom they are for."""
        self._held += results

    def collect(self, timeout_s: float) -> list[Result]:
        """Return results as soon as there are any; an empty list after `timeout_s` seconds or with nothing queued."""
        self._dispatch()
        results, self._held = self._held, []
        if self._running and not results:
            ready, _ = self._ray.wait(list(self._running), timeout=timeout_s)
            more, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
            for reference in dict.fromkeys([*ready, *more]):
                if reference in self._running:
                    results += self._finish(reference)
            self._replace_hung()
            self._dispatch()
        return results

    def close(self) -> None:
        """Stop the replicas, and Ray where this pool started it; queued masks are forgotten."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors, self._running, self._differentiating, self._queue = [], {}, {}, BatchQueue()
        if self._owns_ray:
            self._ray.shutdown()

    def _start(self) -> Any:
        actor = self._actor_class.remote(self._payload, self._device, self._constants)
        if self._displacements is not None:
            actor.adopt_displacements.remote(self._displacements)
        return actor

    def _first_device(self, resources: Resources, timeout_s: float) -> str:
        """Return the kind of device of the first replica that is up."""
        pending = {actor.device_kind.remote(): actor for actor in self._actors}
        ready, _ = self._ray.wait(list(pending), timeout=timeout_s)
        if not ready:
            raise PoolError(
                f"no replica started within {timeout_s:.0f} s: each needs {resources}, the cluster has "
                f"{describe(self._ray.available_resources())} free. Free resources, or ask for fewer --threads"
            )
        try:
            return str(self._ray.get(ready[0]))
        except self._ray.exceptions.RayError as error:
            raise PoolError(f"the first replica did not start: {reason_of(error)}") from None

    def _dispatch(self) -> None:
        for depth in range(IN_FLIGHT):
            for actor in self._actors:
                busy = sum(running.actor is actor for running in self._running.values())
                if busy > depth:
                    continue
                batch = self._queue.take(self.num_replicas)
                if batch is None:
                    return
                stage, masks = batch
                reference = actor.score.remote(stage, masks[0].grid, [mask.words for mask in masks])
                self._running[reference] = _Running(actor, stage, masks)

    def _finish(self, reference: Any) -> list[Result]:
        running = self._running[reference]
        try:
            scores: list[MaskScore] = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, HeadmaskError):
                raise error.cause from None
            del self._running[reference]
            self._do_again(running, reason_of(error), to_blame=True)
            return []
        except self._ray.exceptions.RayError as error:
            self._replace(running.actor, reason_of(error))
            return []
        del self._running[reference]
        self._losses = 0
        self._queue.learn(running.stage, running.masks, scores)
        return [Result(running.stage, mask, score) for mask, score in zip(running.masks, scores, strict=True)]

    def _replace(self, actor: Any, reason: str) -> None:
        """Replace a dead replica, and queue what it had again. It died over the oldest of its batches."""
        self._losses += 1
        if self._losses > MAX_LOSSES * self.num_replicas:
            raise PoolError(f"replicas keep dying without finishing a batch: {reason}")
        self._ray.kill(actor)
        self._actors[self._actors.index(actor)] = self._start()
        self.num_replaced += 1
        lost = {reference: running for reference, running in self._running.items() if running.actor is actor}
        _log.warning("a replica was lost (%s); its %d batches are scored again", reason, len(lost))
        for index, (reference, running) in enumerate(lost.items()):
            del self._running[reference]
            self._do_again(running, reason, to_blame=index == 0)

    def _do_again(self, running: _Running, reason: str, *, to_blame: bool) -> None:
        """Queue the masks of a batch again, one by one; give up one that failed alone too often."""
        if to_blame and len(running.masks) == 1:
            mask = running.masks[0]
            self._strikes[running.stage, mask] += 1
            if self._strikes[running.stage, mask] == MAX_STRIKES:
                failure = f"failed on {MAX_STRIKES} replicas: {reason}"
                if running.stage.predicted:
                    # A study must not depend on what a machine had room for.
                    raise PoolError(f"the surrogate cannot predict ({failure}); search with --no-surrogate")
                self._held.append(Result(running.stage, mask, MaskScore({}, 0.0, failure)))
                return
        self._queue.put_alone(running.stage, running.masks)

    def _replace_hung(self) -> None:
        now = time.monotonic()
        for reference, running in list(self._running.items()):
            expected_s = self._queue.expected_s(running.stage, running.masks)
            if reference in self._running and now - running.started > HANG_S + 30 * IN_FLIGHT * expected_s:
                self._replace(running.actor, f"no answer for {now - running.started:.0f} s")
