"""Replicas that divide the images: all of a group score the same masks, each on its shard of the images.

The trie of a batch is not cut, and no prefix is computed twice. Shards are whole chunks and whole blocks of the
similarity matrix, so every number has the bits that it has where one replica scores all images. Ranks take two
exchanges: every query's score with its own image goes to all shards, and the number of a shard's images that score not
less comes back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headmask.errors import HeadmaskError, PixelsGoneError, ReplicasLostError
from headmask.mask import HeadGrid
from headmask.tower.towers import grid_of
from workers.pool.cluster import Resources, reason_of
from workers.pool.fleet import LOOK_S, Fleet, Member
from workers.pool.host import host_for, starter
from workers.pool.queue import MAX_SHARED
from workers.pool.shard import Found, Shard, joined
from workers.scoring.constants import Constants
from workers.scoring.displacement import MEMORY_SHARE, displacement_bytes
from workers.scoring.messages import MaskScore, Probe, ScaleGradient, Stage, Survey, Task
from workers.scoring.replica import Payload, Wanted, merged, settled
from workers.scoring.scorer import NOT_FINITE, score_of
from workers.scoring.stock import Chunk

# M masks, D data sets, S shards, n images of a shard, Q queries

REPLACED_S = 600.0
"""Seconds that a shard may take to start, or to be replaced."""
MAX_LOSSES = 1
"""Losses of one shard over one batch that are made good; whoever gave the batch decides about another one."""


class ShardGroup:
    """Several replicas that score as one, with the methods of `Replica`. It is an actor that holds no device itself.

    Args:
        payload: its targets turn ranks into metrics.
        device: device of the shards.
        constants: constants of the study, once they are settled.
        packed: the reference to the payload, in a list so that it travels as one.
        count: number of shards.
        need: resources of a node that a shard needs.
        mixed: whether devices of different kinds may work together.

    Raises:
        ReplicasLostError: the shards cannot be started.
    """

    def __init__(
        self,
        payload: Payload,
        device: str,
        constants: Constants | None,
        packed: list[Any],
        count: int,
        need: Resources,
        mixed: bool,
    ) -> None:
        import ray

        self._ray, self.payload = ray, payload
        self._constants = constants
        self._displacements: Any = None
        """Reference to them in the object store, once they exist."""
        self._survey: Survey | None = None
        self._by_parts = False
        """Whether shards predict for their own images alone."""
        self._others: dict[str, Sequence[Any]] = {}
        """References to the embeddings of the other side, by split."""
        self._batch = 0
        self._shards: list[Member | None] = [None] * count
        """The replica that has each part of the images."""
        start = starter(host_for(ray, need), Shard, lambda: (packed[0], device, self._constants))
        self._fleet = Fleet(ray, start, need, count, mixed=mixed, on_birth=self._brief)
        self._fleet.wait_for(count, REPLACED_S)

    @property
    def grid(self) -> HeadGrid:
        """Layers and heads of the tower."""
        return grid_of(self.payload.tower.skeleton, self.payload.tower_name)

    def device_kind(self) -> str:
        """Return the kind of device and version that decide the last bits of a score."""
        return self._fleet.device

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

    def adopt_displacements(self, held: list[Any]) -> None:
        """Predict from now on by the displacements of every data set on the search split.

        Args:
            held: the reference to them, in a list so that it travels as one.
        """
        (self._displacements,) = held
        self._by_parts = self._displacements_are_parted()
        self._each("adopt_displacements", self._displacements, self._by_parts)

    def _displacements_are_parted(self) -> bool:
        """Return whether every shard predicts for its own images alone, because those of all do not fit on a GPU."""
        shapes = [split.embedding_shape for split in self.payload.splits["search"].values()]
        survey = self.survey()
        whole = displacement_bytes(self.grid.layers * self.grid.heads, [(rows, survey.width) for rows, _ in shapes])
        return survey.device_bytes is not None and whole > MEMORY_SHARE * survey.device_bytes

    def check_pixels(self) -> None:
        """Check on every shard that its pixels are unchanged."""
        self._each("check_pixels")

    def do(self, tasks: Sequence[Task]) -> list[ScaleGradient | MaskScore]:
        """Return the gradients or scores of tasks; each one is computed as a whole by one shard."""
        return self._shared_out("do", (), tasks)

    def encode(self, key: str, held: Sequence[Any], chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        """Return the embeddings of chunks of the other side; each one is computed by one shard."""
        return self._shared_out("encode", (key, held), chunks)

    def forget_encoder(self) -> None:
        """Make every shard release the stock tower of the other side."""
        self._each("forget_encoder")

    def adopt_others(self, split: str, held: Sequence[Any]) -> None:
        """Compare a split's inputs from now on with the embeddings of the other side; see `Replica.adopt_others`."""
        self._others[split] = held
        self._each("adopt_others", split, held)

    def survey(self) -> Survey:
        """Return what the first shard finds out about the searched tower."""
        if self._survey is None:
            self._survey = self._by_first("survey")
        return self._survey

    def probe(self, probe: Probe) -> MaskScore:
        """Return the score of the empty mask on a few inputs, as the first shard computes it."""
        score: MaskScore = self._by_first("probe", probe)
        return score

    def score(self, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[MaskScore]:
        """Return the scores of masks given by their words, in the order given."""
        if stage.predicted and not self._by_parts:
            return self._shared_out("score", (stage, grid), words)
        if stage.predicted and len(words) > MAX_SHARED:
            parts = [words[at : at + MAX_SHARED] for at in range(0, len(words), MAX_SHARED)]
            return [score for part in parts for score in self.score(stage, grid, part)]
        started = time.perf_counter()
        found_SDM = self._exchanged(stage, grid, words)
        scores = [self._score(stage, [[found_DM[place] for found_DM in found] for found in found_SDM])
                  for place in range(len(words))]  # fmt: skip
        seconds = (time.perf_counter() - started) / len(words)
        return [replace(score, seconds=seconds) for score in scores]

    def _exchanged(self, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[list[list[Found]]]:
        """Return what every shard found, after each has received what it needs from the others."""
        self._batch += 1
        about = self._batch, stage, grid, words
        own_SDM = self._done(lambda _, member: member.call("embed", *about))
        own = self._ray.put(joined(own_SDM))
        return self._done(lambda _, member: member.call("rank", *about, own))

    def _score(self, stage: Stage, found_SD: list[list[Found]]) -> MaskScore:
        """Return one mask's score from the findings of every shard on every data set."""
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
        """Give a new replica the first free part, and tell it what has been settled meanwhile."""
        index = next(index for index, each in enumerate(self._shards) if each not in self._fleet.members)
        self._shards[index] = member
        member.call("take_part", (index, len(self._shards)))
        if self._constants is not None:
            member.call("adopt", self._constants)
        for split, held in self._others.items():
            member.call("adopt_others", split, held)
        if self._displacements is not None:
            member.call("adopt_displacements", self._displacements, self._by_parts)

    def _by_first(self, method: str, *arguments: Any) -> Any:
        return self._done(lambda index, member: member.call(method, *arguments), [0])[0]

    def _each(self, method: str, *arguments: Any) -> None:
        self._done(lambda index, member: member.call(method, *arguments))

    def _shared_out(self, method: str, arguments: tuple[Any, ...], work: Sequence[Any]) -> list[Any]:
        """Return the results of shards, each for some of the work, in the order of the work."""
        count = min(len(self._shards), len(work))
        ends = [place * len(work) // count for place in range(count + 1)]
        parts = self._done(
            lambda index, member: member.call(method, *arguments, work[ends[index] : ends[index + 1]]), range(count)
        )
        return [each for part in parts for each in part]

    def _done(self, request: Callable[[int, Member], Any], shards: Iterable[int] | None = None) -> list[Any]:
        """Return the results of shards; only a lost shard's work is done again, by its replacement.

        Args:
            request: makes a shard do it; returns the reference to its result.
            shards: which; all by default.

        Raises:
            HeadmaskError: a shard found bad input, or too little memory.
            RuntimeError: a shard was lost more than once over it, or cannot be replaced; elsewhere the group may do it.
        """
        try:
            return self._tried(request, list(range(len(self._shards)) if shards is None else shards))
        except PixelsGoneError:
            raise
        except ReplicasLostError as error:
            raise RuntimeError(str(error)) from None

    def _tried(self, request: Callable[[int, Member], Any], wanted: list[int]) -> list[Any]:
        asked: dict[Any, tuple[int, Member]] = {}
        found: dict[int, Any] = {}
        losses: Counter[int] = Counter()

        def ask(index: int) -> None:
            member = self._member(index)
            asked[request(index, member)] = index, member

        for index in wanted:
            ask(index)
        while asked:
            ready, _ = self._ray.wait(list(asked), timeout=LOOK_S)
            causes: dict[int, Exception] = {}
            for reference in ready:
                index, member = asked[reference]
                try:
                    found[index] = self._ray.get(reference)
                except self._ray.exceptions.RayError as error:
                    if isinstance(mistake := getattr(error, "cause", None), HeadmaskError):
                        raise mistake from None
                    causes[index] = error
                    if member in self._fleet.members:
                        self._fleet.lose(member, reason_of(error))
                else:
                    del asked[reference]
                    self._fleet.did_well(member)
            self._fleet.refresh()
            for reference, (index, member) in list(asked.items()):
                if member in self._fleet.members:
                    continue
                del asked[reference]
                losses[index] += 1
                if losses[index] > MAX_LOSSES:
                    cause = causes.get(index)
                    if isinstance(cause, self._ray.exceptions.OutOfMemoryError):
                        # Nobody is to blame for what a host had no room for.
                        raise cause
                    why = self._fleet.reason if cause is None else cause
                    raise RuntimeError(f"shard {index} was lost {losses[index]} times over the same work: {why}")
                ask(index)
        return [found[index] for index in wanted]

    def _member(self, index: int) -> Member:
        """Return the replica that has a shard, once there is one."""
        while (member := self._shards[index]) is None or member not in self._fleet.members:
            self._fleet.wait_for(len(self._shards), REPLACED_S)
        return member
