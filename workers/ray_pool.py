"""Replicas as Ray actors: on this machine, started by itself, or on a cluster that is joined.

Evaluations are pure, so whatever is lost is done again: the batch of a dead replica goes back to the queue, mask by
mask, and the replica is replaced. A mask that kills three replicas in a row while alone is given up, with its reason.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headmask.errors import HeadmaskError, PoolError
from headmask.mask import HeadMask
from workers.constants import Constants
from workers.displacement import Displacements
from workers.pool import BatchQueue, Result, Steps
from workers.replica import Payload, Replica, Stage, Wanted
from workers.scorer import MaskScore

IN_FLIGHT = 2
MAX_STRIKES = 3
MAX_LOSSES = 12
"""Replicas lost in a row, for each of the pool's, after which the pool gives up: more than one bad mask can cost."""
HANG_S = 300.0
"""Seconds beyond thirty times the expected ones after which a silent replica is replaced."""

CONNECT_S = 10.0
"""Seconds that a cluster may take to answer at its address."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resources:
    """What one replica holds of a node."""

    cpus: int = 1
    gpus: float = 0

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


@dataclass(eq=False)
class _Running:
    """A batch that a replica works on."""

    actor: Any
    stage: Stage
    masks: list[HeadMask]
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
        self._ray, self._owns_ray = _connect(address)
        self._queue = BatchQueue(steps)
        self._constants: Constants | None = None
        self._displacements: Any = None
        """In the object store, once there are any."""
        self._running: dict[Any, _Running] = {}
        self._strikes: Counter[tuple[Stage, HeadMask]] = Counter()
        self._held: list[Result] = []
        """To be collected next: given up, or put back."""
        self._actors: list[Any] = []
        self._losses = 0
        self.num_replaced = 0
        try:
            resources, room = _room(self._ray.cluster_resources(), threads)
            self.num_replicas = replicas or room
            _check_room(resources, room, self.num_replicas)
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
            raise PoolError(f"the first replica could not be measured: {_reason(error)}") from None
        except self._ray.exceptions.RayError as error:
            raise PoolError(f"the first replica died while it was measured: {_reason(error)}") from None
        self._constants = constants
        for actor in others:
            actor.adopt.remote(constants)
        return constants

    def adopt_displacements(self, displacements: Sequence[Displacements]) -> None:
        """Let all replicas predict by the displacements of every data set on the search split."""
        self._displacements = self._ray.put(displacements)
        for actor in self._actors:
            actor.adopt_displacements.remote(self._displacements)

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
        self._actors, self._running, self._queue = [], {}, BatchQueue()
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
                f"{_describe(self._ray.available_resources())} free. Free resources, or ask for fewer --threads"
            )
        try:
            return str(self._ray.get(ready[0]))
        except self._ray.exceptions.RayError as error:
            raise PoolError(f"the first replica did not start: {_reason(error)}") from None

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
            self._do_again(running, _reason(error), to_blame=True)
            return []
        except self._ray.exceptions.RayError as error:
            self._replace(running.actor, _reason(error))
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


def _connect(address: str | None) -> tuple[Any, bool]:
    """Return the ray module, connected, and whether this process started the cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        # A token of this run's own: a saved one would silently turn authentication on for other clusters here.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if ray.is_initialized():
        return ray, False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "headmask"}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **options)
        else:
            _check_answers(address)
            ray.init(address=address, **options)
    # Ray raises ConnectionError, ValueError, RuntimeError and its own kinds for an address that it cannot join.
    except Exception as error:
        raise PoolError(
            f"cannot {'start Ray' if address is None else f'join Ray at {address}'}: {_reason(error)}"
        ) from None
    return ray, address is None


def _check_answers(address: str) -> None:
    """Refuse an address at which nothing listens: Ray itself waits for many minutes there.

    Raises:
        OSError: no connection within a few seconds.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _room(cluster: dict[str, float], threads: int) -> tuple[Resources, int]:
    """Return what a replica holds and how many fit: one per GPU where there are any, else one per `threads` CPUs."""
    cpus, gpus = int(cluster.get("CPU", 0)), int(cluster.get("GPU", 0))
    if gpus:
        return Resources(1, 1), gpus
    return Resources(threads, 0), cpus // threads


def _check_room(resources: Resources, room: int, replicas: int) -> None:
    if room < 1:
        raise PoolError(
            f"no replica can be placed: each needs {resources}, and the cluster has less. Use fewer --threads"
        )
    if replicas > room:
        raise PoolError(
            f"{replicas} replicas cannot be placed: each needs {resources}, which fits {room} times. Ask for {room}"
        )


def _describe(resources: dict[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
