"""Replicas that share the images out: all of a group score the same masks, each on its shard of the images.

The trie of a batch is not cut, and no prefix is computed twice. Shards are whole chunks and whole blocks of the
similarity matrix, so every number has the bits that it has where one replica scores all images. Ranks take two
exchanges: what every query scores with its own image goes to all shards; how many of a shard's images score not less
comes back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headmask.errors import HeadmaskError, PoolError
from headmask.mask import HeadGrid, HeadMask, stack
from headmask.towers import grid_of
from workers.cluster import Resources, reason_of
from workers.constants import Constants
from workers.displacement import Displacements
from workers.fleet import LOOK_S, Fleet, Host, Member
from workers.messages import GateGradient, GateTask, MaskScore, Stage
from workers.replica import Payload, Replica, Wanted, merged, settled
from workers.scorer import NOT_FINITE, score_of
from workers.tasks import Partial

# M masks, D data sets, S shards, n images of a shard, Q queries

START_S = 600.0
"""Seconds that a shard may take to come up, or to be replaced."""
MOST_LOSSES = 1
"""Losses of one shard over one batch that are made good; whoever gave the batch decides about another one."""

Start = Callable[[dict[str, Any]], Any]
"""Makes a host by its options of placement."""
Own = NDArray[np.float32] | None
"""What a shard's queries score with what is right; None for a mask whose embeddings are not finite there."""


@dataclass(frozen=True)
class Found:
    """What a shard has to say of one mask on one data set, but for what the others need first."""

    partial: Partial | None
    embedding_nE: NDArray[np.float32] | None = None


@dataclass
class Shard(Replica):
    """One of a group: scores on its part of the images what concerns them, and else what any replica can."""

    index: int = 0
    count: int = 1
    _embedded: tuple[int, list[Tensor]] | None = field(init=False, default=None, repr=False)
    """The batch that was embedded last, and its embeddings (M, n, E) on every data set."""

    def embed(self, batch: int, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[list[Own]]:
        """Return what a shard's queries score with what is right, by data set and mask; keep the embeddings."""
        masks_MLH = stack(HeadMask(grid, word) for word in words)
        scorers = self._scorers_of(stage)
        embedded = [scorer.embed(masks_MLH) for scorer in scorers]
        self._embedded = batch, embedded
        return [
            [scorer.own_scores(each_nE) for each_nE in embedding_MnE]
            for scorer, embedding_MnE in zip(scorers, embedded, strict=True)
        ]

    def rank(self, batch: int, stage: Stage, own: list[list[Own]]) -> list[list[Found]]:
        """Return what a shard adds to the ranks of the batch that it embedded last, by data set and mask.

        Args:
            batch: which one.
            stage: at which it is scored.
            own: the own scores of all shards, one after another; None for masks that cannot be ranked.
        """
        if self._embedded is None or self._embedded[0] != batch:
            raise RuntimeError(f"batch {batch} is not the one that was embedded last")
        (_, embedded), self._embedded = self._embedded, None
        return [
            [
                Found(
                    None if own_Q is None else scorer.partial(embedding_nE, own_Q),
                    embedding_nE.cpu().numpy() if stage.embeddings else None,
                )
                for embedding_nE, own_Q in zip(embedding_MnE, own_M, strict=True)
            ]
            for scorer, embedding_MnE, own_M in zip(self._scorers_of(stage), embedded, own, strict=True)
        ]

    def _scorers_of(self, stage: Stage) -> list[Any]:
        return [self.scorer(stage, prefix, (self.index, self.count)) for prefix in self.payload.splits[stage.split]]


class ShardGroup:
    """Several replicas that score as one, with the methods of `Replica`. It is an actor that holds no device itself.

    Args:
        payload: for the targets, by which ranks become metrics.
        device: of the shards.
        constants: of the study, once they are settled.
        packed: the reference to the payload, in a list so that it travels as one.
        count: of shards.
        need: what a shard holds of a node.

    Raises:
        PoolError: a shard cannot be started.
        HeadmaskError: shards are on devices of different kinds.
    """

    def __init__(
        self,
        payload: Payload,
        device: str,
        constants: Constants | None,
        packed: list[Any],
        count: int,
        need: Resources,
    ) -> None:
        import ray

        self._ray, self.payload = ray, payload
        self._constants = constants
        self._displacements: Any = None
        """In the object store, once there are any."""
        self._batch = 0
        host = _host(ray, need)

        def start_shard(index: int) -> Start:
            arguments = packed[0], device
            return lambda placement: host.options(**placement).remote(Shard, *arguments, self._constants, index, count)

        self._fleets = [Fleet(ray, start_shard(index), need, 1, on_birth=self._brief) for index in range(count)]
        for fleet in self._fleets:
            fleet.refresh()
        for fleet in self._fleets:
            fleet.wait_for_first(START_S)
        self.device_kind()

    @property
    def grid(self) -> HeadGrid:
        """Layers and heads of the tower."""
        return grid_of(self.payload.tower.skeleton, self.payload.tower_name)

    def device_kind(self) -> str:
        """Return the kind of device and version that decide the last bits of a score.

        Raises:
            HeadmaskError: the shards are on devices of different kinds.
        """
        kinds = sorted({fleet.device for fleet in self._fleets})
        if len(kinds) > 1:
            raise HeadmaskError(f"shards of one group must be on devices of one kind; got {' and '.join(kinds)}")
        return kinds[0]

    def settle(self, wanted: Wanted) -> Constants:
        """Return the constants of a study on this kind of device, by the search split, and use them from now on."""
        return settled(self, wanted)

    def measure(self, wanted: Wanted) -> Constants:
        """Return the constants of a study but for the means, as the first shard measures them."""
        constants: Constants = self._by_first("measure", wanted)
        return constants

    def means(self) -> NDArray[np.float32]:
        """Return the heads' mean outputs (L, H, d), as the first shard computes them, in one pass over all images."""
        means_LHd: NDArray[np.float32] = self._by_first("means")
        return means_LHd

    def adopt(self, constants: Constants) -> None:
        """Use the constants of the study."""
        self._constants = constants
        self._each("adopt", constants)

    def adopt_displacements(self, displacements: Sequence[Displacements]) -> None:
        """Predict from now on by the displacements of every data set on the search split."""
        self._displacements = self._ray.put(displacements)
        self._each("adopt_displacements", self._displacements)

    def differentiate(self, tasks: Sequence[GateTask]) -> list[GateGradient]:
        """Return the gradients of micro-batches, which are not cut: each is one shard's."""
        return self._shared_out("differentiate", (), tasks)

    def score(self, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[MaskScore]:
        """Return the scores of masks given by their words, in the order given."""
        if stage.predicted:
            return self._shared_out("score", (stage, grid), words)
        started = time.perf_counter()
        found_SDM = self._exchanged(stage, grid, words)
        scores = [self._score(stage, [[found_DM[place] for found_DM in found] for found in found_SDM])
                  for place in range(len(words))]  # fmt: skip
        seconds = (time.perf_counter() - started) / len(words)
        return [replace(score, seconds=seconds) for score in scores]

    def _exchanged(self, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[list[list[Found]]]:
        """Return what every shard found, after each has learned of the others what it needs."""
        self._batch += 1
        batch, embedded_by = self._batch, {}

        def embed(index: int, member: Member) -> Any:
            embedded_by[index] = member
            return member.call("embed", batch, stage, grid, words)

        own_SDM = self._done(embed)
        own = self._ray.put([[_joined(own_S) for own_S in zip(*own_SM, strict=True)]
                             for own_SM in zip(*own_SDM, strict=True)])  # fmt: skip

        def rank(index: int, member: Member) -> Any:
            if embedded_by[index] is not member:
                # It replaces the one that had embedded them.
                embed(index, member)
            return member.call("rank", batch, stage, own)

        return self._done(rank)

    def _score(self, stage: Stage, found_SD: list[list[Found]]) -> MaskScore:
        """Return one mask's score from what every shard found on every data set."""
        parts = {}
        for place, (prefix, split) in enumerate(self.payload.splits[stage.split].items()):
            found_S = [found_D[place] for found_D in found_SD]
            partials = [found.partial for found in found_S if found.partial is not None]
            if len(partials) == len(found_S):
                score = score_of(split.targets, split.targets.combined(partials), ranks=stage.ranks)
            else:
                score = MaskScore({}, 0.0, NOT_FINITE)
            pieces = [found.embedding_nE for found in found_S if found.embedding_nE is not None]
            parts[prefix] = replace(score, embeddings=(np.concatenate(pieces),) if pieces else None)
        return merged(parts)

    def _brief(self, member: Member) -> None:
        """Tell a shard what was settled while it came up."""
        if self._constants is not None:
            member.call("adopt", self._constants)
        if self._displacements is not None:
            member.call("adopt_displacements", self._displacements)

    def _by_first(self, method: str, *arguments: Any) -> Any:
        return self._done(lambda index, member: member.call(method, *arguments), [0])[0]

    def _each(self, method: str, *arguments: Any) -> None:
        self._done(lambda index, member: member.call(method, *arguments))

    def _shared_out(self, method: str, arguments: tuple[Any, ...], work: Sequence[Any]) -> list[Any]:
        """Return what shards return, each for some of the work, in its order."""
        count = min(len(self._fleets), len(work))
        ends = [place * len(work) // count for place in range(count + 1)]
        parts = self._done(
            lambda index, member: member.call(method, *arguments, work[ends[index] : ends[index + 1]]), range(count)
        )
        return [each for part in parts for each in part]

    def _done(self, request: Callable[[int, Member], Any], shards: Iterable[int] | None = None) -> list[Any]:
        """Return what shards return; what one had that was lost is done by its replacement, and nothing else is.

        Args:
            request: makes a shard do it; returns the reference to its result.
            shards: which; all by default.

        Raises:
            HeadmaskError: a shard found bad input, or too little memory.
            RuntimeError: a shard was lost more than once over it.
        """
        wanted = list(range(len(self._fleets)) if shards is None else shards)
        waiting = {request(index, self._member(index)): index for index in wanted}
        found: dict[int, Any] = {}
        losses: Counter[int] = Counter()
        while waiting:
            ready, _ = self._ray.wait(list(waiting), timeout=LOOK_S)
            lost = {}
            for reference in ready:
                index, fleet = waiting[reference], self._fleets[waiting[reference]]
                try:
                    found[index] = self._ray.get(reference)
                    del waiting[reference]
                    fleet.did_well(fleet.members[0])
                except self._ray.exceptions.RayError as error:
                    if isinstance(cause := getattr(error, "cause", None), HeadmaskError):
                        raise cause from None
                    lost[index] = reason_of(error)
                    fleet.lose(fleet.members[0], lost[index])
            lost |= {index: reason for index, fleet in enumerate(self._fleets) for _, reason in fleet.refresh()}
            for index, reason in lost.items():
                if index not in waiting.values():
                    continue
                losses[index] += 1
                if losses[index] > MOST_LOSSES:
                    raise RuntimeError(f"shard {index} was lost {losses[index]} times over the same work: {reason}")
                waiting = {reference: each for reference, each in waiting.items() if each != index}
                waiting[request(index, self._member(index))] = index
        return [found[index] for index in wanted]

    def _member(self, index: int) -> Member:
        """Return a shard, once it is up.

        Raises:
            RuntimeError: it does not come up; whoever started the group may find another place for it.
        """
        try:
            self._fleets[index].wait_for_first(START_S)
        except PoolError as error:
            raise RuntimeError(f"shard {index}: {error}") from None
        return self._fleets[index].members[0]


def starter(
    ray: Any,
    need: Resources,
    packed: Any,
    device: str,
    constants: Callable[[], Constants | None],
    shards: int,
    replica_class: type,
) -> Start:
    """Return what starts a host of a replica, or of a group of shards, by its options of placement.

    Args:
        ray: the module, connected.
        need: what a replica, or a shard, holds of a node.
        packed: reference to the payload.
        device: of the replica or the shards.
        constants: of the study, once they are settled.
        shards: of a group; 1 for a replica that scores all images.
        replica_class: of the replica.
    """
    host = _host(ray, need if shards == 1 else Resources(0))

    def start(placement: dict[str, Any]) -> Any:
        made = host.options(**placement)
        if shards == 1:
            return made.remote(replica_class, packed, device, constants())
        return made.remote(ShardGroup, packed, device, constants(), [packed], shards, need)

    return start


def _host(ray: Any, need: Resources) -> Any:
    options = {"num_cpus": need.cpus, "num_gpus": need.gpus, "max_restarts": 0, "max_task_retries": 0}
    return ray.remote(**options, concurrency_groups={"signs": 1})(Host)


def _joined(own_S: Sequence[Own]) -> Own:
    parts = [own_q for own_q in own_S if own_q is not None]
    return np.concatenate(parts) if len(parts) == len(own_S) else None
