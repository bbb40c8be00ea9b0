"""Pools: the replicas as the driver sees them. Masks are submitted, results collected, in any order.

`workers.pool.inline.InlinePool` scores in the driver's own process, `workers.pool.ray.RayPool` on a machine or a
cluster. Both give the same results, because a score is a function of its mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headmask.mask import HeadMask
from workers.scoring.constants import Constants
from workers.scoring.displacement import Displacements
from workers.scoring.messages import MaskScore, Probe, ScaleGradient, Stage, Survey, Task
from workers.scoring.replica import Wanted
from workers.scoring.stock import Chunk, Encoder


@dataclass(frozen=True)
class Result:
    """The score of one mask at one stage."""

    stage: Stage
    mask: HeadMask
    score: MaskScore
    device: str = ""
    """Kind of device and version that computed it."""


class Pool(Protocol):
    """The part of a pool that the driver needs."""

    def submit(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Queue masks for scoring."""
        ...

    def look_away(self, seconds: float) -> None:
        """Give replicas enough work for some seconds in which nothing is collected."""
        ...

    def collect(self, timeout_s: float) -> list[Result]:
        """Return results as soon as there are any; an empty list after `timeout_s` seconds or with nothing queued."""
        ...

    @property
    def device(self) -> str:
        """Kind of device and version, which decide the last bits of a score."""
        ...

    @property
    def status(self) -> str:
        """A short text for the progress display."""
        ...

    def settle(self, wanted: Wanted) -> Constants:
        """Determine the constants of the study on this kind of device, and use them; before the first score."""
        ...

    @property
    def num_replicas(self) -> int:
        """Number of replicas that there are or were asked for; those that score as one count as one."""
        ...

    @property
    def shards(self) -> int:
        """Number of replicas that share the images and score as one."""
        ...

    def survey(self) -> Survey:
        """Return what a replica finds out about the searched tower; masks are shared out by its costs from now on."""
        ...

    def probe(self, probe: Probe) -> MaskScore:
        """Return the score of the empty mask on a few inputs, as a replica computes it."""
        ...

    def submit_chunks(self, encoder: Encoder, take: Callable[[int], Chunk], places: Sequence[int]) -> None:
        """Queue chunks of the other side to embed; no others until all of these have been collected.

        Args:
            encoder: the stock tower.
            take: returns the chunk at a place, when a replica is given it.
            places: places of the chunks.
        """
        ...

    def collect_chunks(self, timeout_s: float) -> dict[int, NDArray[np.float32]]:
        """Return embeddings of chunks as soon as there are any, by place; empty after `timeout_s` seconds."""
        ...

    def drop_encoder(self) -> None:
        """Make replicas release the stock tower of the other side."""
        ...

    def adopt_others(self, split: str, others: Mapping[str, NDArray[np.float32]]) -> None:
        """Make all replicas compare with a split's embeddings of the other side, given by the prefix of its metrics."""
        ...

    def submit_tasks(self, tasks: Sequence[Task]) -> None:
        """Queue tasks under scales; no others until all of these have been collected."""
        ...

    def collect_tasks(self, timeout_s: float) -> dict[int, ScaleGradient | MaskScore]:
        """Return their results as soon as there are any, by the index of the task; empty after `timeout_s` seconds."""
        ...

    def adopt_displacements(self, displacements: Sequence[Displacements]) -> None:
        """Make all replicas predict by the displacements of every data set on the search split."""
        ...

    def put_back(self, results: Iterable[Result]) -> None:
        """Keep results that were collected too early, until the next call of `collect`."""
        ...

    def check_pixels(self) -> None:
        """Check on every replica that its pixels are unchanged."""
        ...

    def close(self) -> None:
        """Release all resources; queued masks are dropped."""
        ...
