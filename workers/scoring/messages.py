"""Messages between driver and replicas, without torch: a process that only passes them on starts fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workers.tasks.metrics import Ranks

if TYPE_CHECKING:
    from workers.scoring.constants import Precision
    from workers.scoring.trie import TowerCost
    from workers.tasks.base import Targets

# N inputs of the searched tower, E embedding, L layers, H heads, u units of a micro-batch


@dataclass(frozen=True)
class Stage:
    """What masks are scored on: a split, at a precision, with what is kept besides metrics."""

    split: str
    precision: Precision = "float32"
    ranks: bool = False
    """Whether every query's rank is kept."""
    embeddings: bool = False
    """Whether embeddings are kept."""
    predicted: bool = False
    """Whether embeddings are predicted by the displacement surrogate instead of computed."""


@dataclass(frozen=True)
class MaskScore:
    """The result of scoring one mask: metrics, or the reason why there are none."""

    metrics: dict[str, float]
    """Metric name to value in [0, 1]; empty for a failure."""
    seconds: float
    """This mask's share of the batch's time."""
    failure: str | None = None
    ranks: tuple[Ranks, ...] | None = None
    """Ranks on every data set, if they were requested."""
    embeddings: tuple[NDArray[np.float32], ...] | None = None
    """Embeddings (N, E) on every data set, not normalised, if they were requested; also for failures."""


@dataclass(frozen=True, eq=False)
class ScaledStage:
    """Scales that are scored at a stage."""

    stage: Stage
    scales_LH: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScaleTask:
    """A micro-batch, and the scales by which its loss is differentiated."""

    data: int
    """Index of the data set."""
    units_u: NDArray[np.int64]
    """Units of the data set's search split."""
    scales_LH: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScaleGradient:
    """A micro-batch's mean loss, in nats, and its gradient by the scales."""

    loss: float
    gradient_LH: NDArray[np.float64]


Task = ScaleTask | ScaledStage
"""What a replica does under scales: a gradient, or a score."""


@dataclass(frozen=True)
class Survey:
    """What a replica finds out about the searched tower before a search: it is proven, and costs are counted."""

    cost: TowerCost
    """Cost of masks on the tower."""
    width: int
    """Length of an embedding."""
    device_bytes: int | None
    """Free memory of its device; None if that is its host's."""
    host_bytes: int
    """Free memory of its host."""


@dataclass(frozen=True, eq=False)
class Probe:
    """The first inputs of a data set's search split, on which the baseline is looked at."""

    prefix: str
    """Prefix of the data set's metrics."""
    part: slice
    other_E: NDArray[np.float32]
    """Embeddings of the other side that belong to them."""
    targets: Targets
    swaps_gelu: bool = False
    """Whether the tower is run with the GELU that it was not loaded with."""
