"""Replicas as Ray actors: on this machine, with a Ray started for them, or on a cluster that is joined.

Evaluations are pure, so lost work is done again: the batch of a lost replica goes back to the queue, mask by mask, and
the replica is replaced. A mask that costs three replicas while it is alone is given up, with its reason.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from headmask.border.shown import counted
from headmask.errors import DeviceMemoryError, HeadmaskError, PoolError, ReplicasLostError
from headmask.mask import HeadMask
from workers.pool.ahead import Ahead
from workers.pool.blame import STRIKES, Blame
from workers.pool.cluster import Resources, check_room, connect, need_of, reason_of, room_for
from workers.pool.fleet import START_S, Fleet, Member
from workers.pool.group import REPLACED_S, ShardGroup
from workers.pool.host import host_for, starter
from workers.pool.meters import Meters
from workers.pool.protocol import Result
from workers.pool.queue import BatchQueue, Steps, hand_out, may_wait
from workers.pool.work import Check, Chunks, MaskBatch, Running, Tasks, Work
from workers.scoring.constants import Constants
from workers.scoring.displacement import Displacements
from workers.scoring.messages import MaskScore, Probe, ScaleGradient, Stage, Survey, Task
from workers.scoring.replica import Payload, Replica, Wanted
from workers.scoring.stock import Chunk, Encoder

IN_FLIGHT = 2
HERE_S = 300.0
"""Seconds that the first replica may take on this machine; on a cluster, which may have to add a node, it is
`START_S`.
"""
UNKNOWN_S, MIN_S, TIMES = 6 * 3600.0, 120.0, 20.0
"""Seconds that a batch may take as long as no speed is known; later at least, and times as many as expected."""


class RayPool:
    """Replicas on Ray.

    Args:
        payload: put into the object store once, and sent from there to every node once.
        replicas: number of replicas; None for as many as fit, also when nodes join or leave.
        threads: CPU threads of one replica.
        gpus_per_replica: 0 for replicas on CPUs, a part of 1 for several on a GPU; None for 1 if there are any.
        mixed_devices: let devices of different kinds score one study, though their scores differ in the last bits.
        shards: replicas that share the images out and score as one, see `workers.pool.group`; or a function of what a
            replica finds out about the tower, of how many there are, and of `cuda` or `cpu`. 1 for replicas that each
            score all images.
        steps: predicted cost of masks; see `BatchQueue`.
        address: address of a cluster to join, such as `auto` or `ray://host:10001`; None starts Ray on this machine.
        ahead: Ray on this machine, where it has been started before; whoever did that closes it.
        say: called with what is waited for.
        on_stuck: called with the reason, on a thread, when a call of Ray's goes on although Ray has died; it ends the
            process, as Ray would a minute later without our message.
        replica_class: class of the replicas; anything with the methods of `Replica`.

    Raises:
        PoolError: the cluster cannot be joined, or no replica can be placed.
        ReplicasLostError: no replica comes up.
    """

    def __init__(
        self,
        payload: Payload,
        *,
        replicas: int | None = None,
        threads: int = 1,
        gpus_per_replica: float | None = None,
        mixed_devices: bool = False,
        shards: int | Callable[[Survey, int, str], int] = 1,
        steps: Steps | None = None,
        address: str | None = None,
        ahead: Ahead | None = None,
        say: Callable[[str], None] = lambda text: None,
        on_stuck: Callable[[str], None] | None = None,
        replica_class: type = Replica,
    ) -> None:
        self._connection = ahead.connection if ahead else connect(address, on_stuck)
        self._closes = ahead is None
        self._ray, self._watch = self._connection.ray, self._connection.watch
        self._queue = BatchQueue(steps)
        self._constants: Constants | None = None
        self._survey: Survey | None = None
        self._displacements: Any = None
        """Reference to them in the object store, once they exist."""
        self._others: dict[str, list[Any]] = {}
        """References to the embeddings of the other side, by split."""
        self._running: dict[Any, Running] = {}
        self._urgent: deque[Tasks | Check | Chunks] = deque()
        """Work that goes before the waiting masks."""
        self._done: dict[int, ScaleGradient | MaskScore] = {}
        self._encoded: dict[int, NDArray[np.float32]] = {}
        """Embeddings of chunks for the next call of `collect_chunks`, by place."""
        self._blame = Blame()
        self._scored: dict[Stage, HeadMask] = {}
        """One scored mask of every stage."""
        self._held: list[Result] = []
        """Results for the next call of `collect`."""
        self._fleet: Fleet | None = None
        try:
            with self._answering():
                need = need_of(self._ray.nodes(), threads, gpus_per_replica)
                room = room_for(self._ray.nodes(), need)
                if address is None:
                    check_room(need, room, max(replicas or 1, shards if isinstance(shards, int) else 1))
                packed = self._ray.put(payload.packed(None if address is None else self._ray.put))
            device = "cuda" if need.gpus else "cpu"

            def arguments() -> tuple[Any, ...]:
                return packed, device, self._constants

            def make_fleet(size: int) -> Fleet:
                if size == 1:
                    waiting = ahead.hosts if ahead else []
                    start = starter(host_for(self._ray, need), replica_class, arguments, waiting)
                else:
                    host = host_for(self._ray, Resources(0))
                    shared = [packed], size, need, mixed_devices
                    start = starter(host, ShardGroup, lambda: (*arguments(), *shared))
                return Fleet(
                    self._ray,
                    start,
                    need,
                    None if replicas is None else max(1, replicas // size),
                    size=size,
                    mixed=mixed_devices,
                    on_birth=self._brief,
                    check=self._watch.check,
                )

            self._meters = Meters()
            wait_s = HERE_S if address is None else START_S
            self._start(make_fleet, shards if isinstance(shards, int) else 1, wait_s, say)
            if not isinstance(shards, int) and (found := shards(self.survey(), replicas or max(1, room), device)) > 1:
                self.fleet.stop()
                self._start(make_fleet, found, wait_s, say)
        except BaseException:
            self.close()
            raise

    def _start(
        self, make_fleet: Callable[[int], Fleet], shards: int, wait_s: float, say: Callable[[str], None]
    ) -> None:
        """Start replicas, or groups of that many shards, and wait for the first."""
        self.shards, self._fleet = shards, make_fleet(shards)
        with self._answering():
            self._fleet.wait_for(1, wait_s, say)

    @property
    def fleet(self) -> Fleet:
        """The replicas.

        Raises:
            RuntimeError: the pool is closed.
        """
        if self._fleet is None:
            raise RuntimeError("the pool is closed")
        return self._fleet

    @property
    def device(self) -> str:
        """Kind of device and version, which decide the last bits of a score."""
        return self.fleet.device

    @property
    def num_replicas(self) -> int:
        """Number of replicas that there are or were asked for; groups of shards count as one."""
        return self.fleet.wanted

    @property
    def status(self) -> str:
        """A short text for the progress display."""
        return self.fleet.status

    def settle(self, wanted: Wanted) -> Constants:
        """Determine the constants of the study on this kind of device, and use them; before the first score.

        Raises:
            HeadmaskError: a replica found bad input, or too little memory.
            ReplicasLostError: they cannot be measured.
        """
        with self._answering():
            constants: Constants
            member, constants = self._asked("settle", wanted)
            self._constants = constants
            for each in self.fleet.members:
                if each is not member:
                    each.call("adopt", constants)
        return constants

    def survey(self) -> Survey:
        """Return what a replica finds out about the searched tower; masks are shared out by its costs from now on.

        Raises:
            HeadmaskError: the tower is refused.
            ReplicasLostError: see `settle`.
        """
        if self._survey is None:
            with self._answering():
                _, self._survey = self._asked("survey")
            self._queue.steps = self._survey.cost.steps
        return self._survey

    def probe(self, probe: Probe) -> MaskScore:
        """Return the score of the empty mask on a few inputs, as a replica computes it.

        Raises:
            ReplicasLostError: see `settle`.
        """
        with self._answering():
            score: MaskScore
            _, score = self._asked("probe", probe)
        return score

    def _asked(self, method: str, *arguments: Any) -> tuple[Member, Any]:
        """Return the first replica, or one that has replaced it, and the result of its method."""
        for tries_left in reversed(range(STRIKES)):
            member = self.fleet.members[0]
            try:
                return member, self._awaited(member.call(method, *arguments))
            except self._ray.exceptions.RayError as error:
                if isinstance(cause := getattr(error, "cause", None), HeadmaskError):
                    raise cause from None
                if self.shards == 1 and isinstance(error, self._ray.exceptions.RayTaskError):
                    raise ReplicasLostError(f"the first replica could not be measured: {reason_of(error)}") from None
                if not tries_left:
                    raise ReplicasLostError(f"replicas die while they are measured: {reason_of(error)}") from None
                if member in self.fleet.members:
                    self.fleet.lose(member, reason_of(error))
                self.fleet.wait_for(1, UNKNOWN_S)
        raise AssertionError("the last try returns or raises")

    def _awaited(self, reference: Any) -> Any:
        """Return a result, however long it takes, as long as Ray lives and the replica gives signs of life."""
        while not self._ray.wait([reference], timeout=1.0)[0]:
            self._watch.check()
            for member, reason in self.fleet.refresh():
                self._do_again(member, reason)
        self._watch.check()
        return self._ray.get(reference)

    def adopt_displacements(self, displacements: Sequence[Displacements]) -> None:
        """Make all replicas predict by the displacements of every data set on the search split."""
        with self._answering():
            held = self._ray.put(displacements)
            # In a list, a reference travels as one.
            self._displacements = held if self.shards == 1 else [held]
            for member in self.fleet.members:
                member.call("adopt_displacements", self._displacements)

    def submit(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Queue masks for scoring."""
        self._queue.put(stage, masks)

    def look_away(self, seconds: float) -> None:
        """Give replicas enough work for some seconds in which nothing is collected.

        Raises:
            ReplicasLostError: see `collect`.
        """
        with self._answering():
            self._dispatch(seconds)

    def submit_tasks(self, tasks: Sequence[Task]) -> None:
        """Queue tasks under scales; no others until all of these have been collected."""
        together = min(self.shards, -(-len(tasks) // self.fleet.wanted))
        self._urgent.extend(Tasks.cut(tasks, together))

    def submit_chunks(self, encoder: Encoder, take: Callable[[int], Chunk], places: Sequence[int]) -> None:
        """Queue chunks of the other side to embed; no others until all of these have been collected.

        Args:
            encoder: put into the object store until all have been collected; every replica fetches it once.
            take: returns the chunk at a place, when a replica is given it.
            places: places of the chunks.
        """
        with self._answering():
            held = [self._ray.put(encoder)]
        together = min(self.shards, -(-len(places) // self.fleet.wanted))
        self._urgent.extend(Chunks.cut(places, together, encoder.key, held, take))

    def collect_chunks(self, timeout_s: float) -> dict[int, NDArray[np.float32]]:
        """Return embeddings of chunks as soon as there are any, by place; empty after `timeout_s` seconds.

        Raises:
            HeadmaskError: see `collect`.
            PoolError: they cannot be computed.
        """
        if not self._encoded:
            self._step(timeout_s)
        found, self._encoded = self._encoded, {}
        return found

    def drop_encoder(self) -> None:
        """Make replicas release the stock tower of the other side."""
        with self._answering():
            for member in self.fleet.members:
                member.call("forget_encoder")

    def adopt_others(self, split: str, others: Mapping[str, NDArray[np.float32]]) -> None:
        """Make all replicas compare with a split's embeddings of the other side, given by the prefix of its metrics."""
        with self._answering():
            self._others[split] = [self._ray.put(dict(others))]
            for member in self.fleet.members:
                member.call("adopt_others", split, self._others[split])

    def put_back(self, results: Iterable[Result]) -> None:
        """Keep results that were collected too early, until the next call of `collect`."""
        self._held += results

    def collect(self, timeout_s: float) -> list[Result]:
        """Return results as soon as there are any; an empty list after `timeout_s` seconds or with nothing queued.

        Raises:
            HeadmaskError: a replica found bad input, or too little memory.
            ReplicasLostError: replicas keep dying, or the cluster does not answer.
        """
        if not self._held:
            self._step(timeout_s)
        results, self._held = self._held, []
        return results

    def collect_tasks(self, timeout_s: float) -> dict[int, ScaleGradient | MaskScore]:
        """Return results of tasks as soon as there are any, by the index of the task; empty after `timeout_s` seconds.

        Raises:
            HeadmaskError: see `collect`.
            PoolError: they cannot be computed.
        """
        if not self._done:
            self._step(timeout_s)
        found, self._done = self._done, {}
        return found

    def check_pixels(self) -> None:
        """Check on every replica that its pixels are unchanged.

        Raises:
            PixelsChangedError: a replica's have changed.
            ReplicasLostError: Ray has died.
        """
        with self._answering():
            for reference in [member.call("check_pixels") for member in self.fleet.members]:
                try:
                    self._awaited(reference)
                except self._ray.exceptions.RayError as error:
                    if isinstance(cause := getattr(error, "cause", None), HeadmaskError):
                        raise cause from None
                    # A replica that is lost meanwhile is replaced by one that checks what it maps.

    def close(self) -> None:
        """Stop the replicas, and Ray if this pool started it; queued masks are dropped."""
        self._running, self._queue = {}, BatchQueue()
        self._urgent.clear()
        try:
            with contextlib.suppress(ReplicasLostError), self._answering():
                if self._fleet is not None:
                    self._fleet.stop()
        finally:
            if self._closes:
                self._connection.close()

    def _brief(self, member: Member) -> None:
        """Tell a replica what was settled while it started; telling it twice does no harm."""
        if self._constants is not None:
            member.call("adopt", self._constants)
        for split, held in self._others.items():
            member.call("adopt_others", split, held)
        if self._displacements is not None:
            member.call("adopt_displacements", self._displacements)

    def _step(self, timeout_s: float) -> None:
        with self._answering():
            self._advance(timeout_s)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            with self._watch.call():
                yield
        # What a replica raises is dealt with where it is asked; the rest is the cluster's.
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            self._watch.check()
            raise ReplicasLostError(f"the Ray cluster does not answer: {reason_of(error)}") from None

    def _advance(self, timeout_s: float) -> None:
        """Keep the replicas busy, and wait until one of them is done."""
        for member, reason in self.fleet.refresh():
            self._do_again(member, reason)
        self._dispatch()
        if not (self._running or self._queue or self._urgent):
            return
        births = [member.birth for member in self.fleet.pending]
        ready, _ = self._ray.wait([*self._running, *births], timeout=timeout_s)
        self._watch.check()
        if self._running:
            more, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
            for reference in dict.fromkeys([*ready, *more]):
                if reference in self._running:
                    self._finish(reference)
        self._end_overdue()
        self._dispatch()
        self._meters.update(len(self._queue), self.fleet)

    def _dispatch(self, away_s: float = 0.0) -> None:
        """Give every replica some batches, and more as long as they would be done within some seconds."""
        works: defaultdict[int, list[Work]] = defaultdict(list)
        for running in self._running.values():
            works[id(running.member)].append(running.work)
        members = list(self.fleet.members)
        held = [works[id(member)] for member in members]

        def has_room(place: int) -> bool:
            ahead_s = members[place].pace * sum(map(self._expected_s, held[place]))
            if not held[place] or 0 < ahead_s < away_s:
                return True
            return len(held[place]) < IN_FLIGHT and may_wait(len(members), len(self._queue), ahead_s)

        def give(place: int) -> bool:
            if (work := self._give(members[place])) is not None:
                held[place].append(work)
            return work is not None

        hand_out(list(map(len, held)), has_room, give)

    def _give(self, member: Member) -> Work | None:
        """Give a replica the next batch, and return it; None if none waits."""
        batch = None if self._urgent else self._queue.take(self.fleet.wanted, member.pace)
        if batch is None and not self._urgent:
            return None
        work: Work = MaskBatch(*batch) if batch else self._urgent.popleft()
        self._running[member.call(*work.request)] = Running(member, work)
        return work

    def _expected_s(self, work: Work) -> float:
        """Return the seconds that the average replica should take; 0 if unknown."""
        return self._queue.expected_s(work.stage, work.masks) if isinstance(work, MaskBatch) else 0.0

    def _finish(self, reference: Any) -> None:
        running = self._running[reference]
        self._watch.check()
        try:
            found = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, HeadmaskError) and not isinstance(error.cause, DeviceMemoryError):
                raise error.cause from None
            # Whatever broke may have broken the replica, too.
            self._lose(running, reason_of(error), error.cause)
            return
        except self._ray.exceptions.RayError as error:
            self._lose(running, reason_of(error), error)
            return
        del self._running[reference]
        self._restart_clock(running.member)
        self.fleet.did_well(running.member)
        self._blame.done(running.work.pieces)
        match running.work:
            case Tasks(places):
                self._done |= dict(zip(places, found, strict=True))
            case Chunks(places):
                self._encoded |= dict(zip(places, found, strict=True))
            case MaskBatch() as batch if not isinstance(batch, Check):
                self._take(running.member, batch, found)

    def _take(self, member: Member, batch: MaskBatch, scores: list[MaskScore]) -> None:
        stage, masks = batch.stage, batch.masks
        member.pace = 0.7 * member.pace + 0.3 * self._queue.learn(stage, masks, scores)
        self._meters.count(len(masks))
        self._scored.setdefault(stage, masks[0])
        self._held += [Result(stage, mask, score, member.device) for mask, score in zip(masks, scores, strict=True)]

    def _restart_clock(self, member: Member) -> None:
        """Count the time of a replica's next batch from now."""
        following = next((running for running in self._running.values() if running.member is member), None)
        if following is not None:
            following.started = time.monotonic()

    def _end_overdue(self) -> None:
        now = time.monotonic()
        oldest = {id(running.member): running for running in reversed(self._running.values())}
        for running in oldest.values():
            passed_s = now - running.started
            if passed_s > MIN_S and passed_s > self._limit_s(running.member, running.work):
                self._lose(running, f"no result for {passed_s:.0f} s")

    def _limit_s(self, member: Member, work: Work) -> float:
        """Return the seconds after which a replica's work is overdue."""
        expected_s = self._expected_s(work)
        least_s = MIN_S + (REPLACED_S if self.shards > 1 else 0.0)
        return least_s + TIMES * expected_s * max(1.0, member.pace) if expected_s else UNKNOWN_S

    def _lose(self, running: Running, reason: str, cause: BaseException | None = None) -> None:
        self.fleet.lose(running.member, reason)
        self._do_again(running.member, reason, cause)

    def _do_again(self, member: Member, reason: str, cause: BaseException | None = None) -> None:
        """Queue a lost replica's work again, mask by mask. Its oldest batch is the one that it was lost over."""
        lost = [reference for reference, running in self._running.items() if running.member is member]
        works = [self._running.pop(reference).work for reference in lost]
        if works and not isinstance(cause, self._ray.exceptions.OutOfMemoryError):
            oldest = works[0]
            strikes = self._blame.lost_over(oldest.pieces)
            if strikes and self._is_failure(
                oldest, failure := f"failed on {counted(strikes, 'replica')}: {reason}", cause
            ):
                del works[0]
                self._held.append(Result(oldest.stage, oldest.masks[0], MaskScore({}, 0.0, failure), member.device))
        for work in works:
            if isinstance(work, Tasks | Check | Chunks):
                self._urgent.append(work)
            else:
                self._queue.put_alone(work.stage, work.masks)

    def _is_failure(self, work: Work, failure: str, cause: BaseException | None) -> TypeGuard[MaskBatch]:
        """Return whether a mask is to blame for a failure; if that is unknown, another mask is scored first.

        Raises:
            HeadmaskError: no mask is to blame, and trying again would not help.
        """
        if isinstance(cause, DeviceMemoryError):
            raise cause from None
        if isinstance(work, Tasks):
            raise PoolError(f"scales can neither be trained nor scored: a task {failure}")
        if isinstance(work, Chunks):
            raise PoolError(f"the side that no mask changes cannot be embedded: a chunk of it {failure}")
        if work.stage.predicted:
            # A study must not depend on what a machine had room for.
            raise PoolError(f"the surrogate cannot predict ({failure}); search with --no-surrogate")
        if isinstance(work, Check) or work.stage not in self._scored:
            # Nothing works, so it is not the mask's fault.
            raise ReplicasLostError(f"replicas cannot score: a mask {failure}")
        if self._blame.others_done(work.pieces):
            return True
        self._urgent.append(Check(work.stage, [self._scored[work.stage]]))
        return False
