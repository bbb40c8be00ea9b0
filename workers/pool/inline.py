"""The pool without Ray: one replica in the driver's own process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from headmask.mask import HeadMask
from workers.pool.protocol import Result
from workers.pool.queue import BatchQueue, Steps
from workers.scoring.constants import Constants
from workers.scoring.devices import default_device, naming_operators
from workers.scoring.displacement import Displacements
from workers.scoring.messages import MaskScore, Probe, ScaleGradient, Stage, Survey, Task
from workers.scoring.replica import Payload, Replica, Wanted
from workers.scoring.stock import Chunk, Encoder, EncodingHere


class InlinePool:
    """One replica in the driver's own process: no Ray, real tracebacks."""

    status = "inline"
    num_replicas = shards = 1

    def __init__(self, payload: Payload, device: str | None = None, *, steps: Steps | None = None) -> None:
        self._device = device or default_device()
        self._replica = Replica(payload, self._device)
        self._queue = BatchQueue(steps)
        self._held: list[Result] = []
        self._tasks: dict[int, Task] = {}
        self._encoding = EncodingHere(self._replica.device)

    @property
    def device(self) -> str:
        """Kind of device and version, which decide the last bits of a score."""
        return self._replica.device_kind()

    def settle(self, wanted: Wanted) -> Constants:
        """Determine the constants of the study on this kind of device, and use them; before the first score."""
        with naming_operators(self._device):
            return self._replica.settle(wanted)

    def survey(self) -> Survey:
        """Return what the replica finds out about the searched tower."""
        with naming_operators(self._device):
            survey = self._replica.survey()
        self._queue.steps = survey.cost.steps
        return survey

    def probe(self, probe: Probe) -> MaskScore:
        """Return the score of the empty mask on a few inputs."""
        with naming_operators(self._device):
            return self._replica.probe(probe)

    def submit_chunks(self, encoder: Encoder, take: Callable[[int], Chunk], places: Sequence[int]) -> None:
        """Queue chunks of the other side to embed."""
        self._encoding.submit_chunks(encoder, take, places)

    def collect_chunks(self, timeout_s: float) -> dict[int, NDArray[np.float32]]:
        """Return the embeddings of the next chunks, by place."""
        with naming_operators(self._device):
            return self._encoding.collect_chunks(timeout_s)

    def drop_encoder(self) -> None:
        """Release the stock tower of the other side."""
        self._encoding.drop_encoder()

    def adopt_others(self, split: str, others: Mapping[str, NDArray[np.float32]]) -> None:
        """Make the replica compare with a split's embeddings of the other side."""
        self._replica.adopt_others(split, [others])

    def adopt_displacements(self, displacements: Sequence[Displacements]) -> None:
        """Make the replica predict by the displacements of every data set on the search split."""
        self._replica.adopt_displacements(displacements)

    def check_pixels(self) -> None:
        """Check on the replica that its pixels are unchanged."""
        self._replica.check_pixels()

    def submit_tasks(self, tasks: Sequence[Task]) -> None:
        """Queue tasks under scales."""
        self._tasks = dict(enumerate(tasks))

    def collect_tasks(self, timeout_s: float) -> dict[int, ScaleGradient | MaskScore]:
        """Return the result of the next task, by its index."""
        place = min(self._tasks)
        with naming_operators(self._device):
            (found,) = self._replica.do([self._tasks.pop(place)])
        return {place: found}

    def submit(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Queue masks for scoring."""
        self._queue.put(stage, masks)

    def look_away(self, seconds: float) -> None:
        """Do nothing: this replica only works during `collect`."""

    def put_back(self, results: Iterable[Result]) -> None:
        """Keep results that were collected too early, until the next call of `collect`."""
        self._held += results

    def collect(self, timeout_s: float) -> list[Result]:
        """Score the next batch and return its results; an empty list with nothing queued."""
        held, self._held = self._held, []
        if held:
            return held
        batch = self._queue.take(num_replicas=1)
        if batch is None:
            return []
        stage, masks = batch
        with naming_operators(self._device):
            scores = self._replica.score(stage, masks[0].grid, [mask.words for mask in masks])
        self._queue.learn(stage, masks, scores)
        return [Result(stage, mask, score, self.device) for mask, score in zip(masks, scores, strict=True)]

    def close(self) -> None:
        """Drop queued masks."""
        self._queue = BatchQueue()
