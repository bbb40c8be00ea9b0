"""The number of clusters that a split is worth, and sentences about too few. Users read *independent groups*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from headmask.border.shown import counted
from orchestrator.statistics.paired import MAX_P_VALUE, MIN_CLUSTERS, MIN_DIFFERING, Evidence, effective_number

LARGE_SHARE = 0.1
"""Share of a split's images in one cluster that is worth a warning."""


class Clusters(BaseModel):
    """Units of resampling on one split: images with identical pixels or the same captions, and pairs."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(description="the data set")
    number: int = Field(description="of the clusters")
    largest: int = Field(description="images in the largest one")
    num_images: int
    effective: float = Field(description="how many clusters of one size they count for: their number, if of one size")

    @classmethod
    def of(cls, data: str, clusters_N: NDArray[np.int64]) -> Self:
        """Return the counts of every image's cluster."""
        sizes = np.bincount(clusters_N[clusters_N >= 0])
        sizes = sizes[sizes > 0]
        return cls(
            data=data,
            number=len(sizes),
            largest=int(sizes.max(initial=0)),
            num_images=int(sizes.sum()),
            effective=effective_number(sizes),
        )

    @property
    def is_few(self) -> bool:
        """Whether there are too few for intervals."""
        return self.effective < MIN_CLUSTERS

    def said(self, split: str) -> str:
        """Return a sentence that a split has too few of them."""
        if self.number < MIN_CLUSTERS:
            return f"only {self._counted} on {split}"
        return f"the {self._counted} on {split} count for {self._worth}"

    def said_plainly(self) -> str:
        """Return their number as text, and what they are worth if that alone makes them too few."""
        return self._counted if self.number < MIN_CLUSTERS else f"{self._counted}, which count for {self._worth}"

    @property
    def _counted(self) -> str:
        return f"{counted(self.number, 'independent group')} of images"

    @property
    def _worth(self) -> str:
        return f"{_floor(self.effective)}, because the largest holds {self.largest:,} of {self.num_images:,} images"


def _floor(value: float) -> str:
    """Return a number with one digit, rounded down."""
    return f"{np.floor(10 * value) / 10:g}"


def too_few(parts: Sequence[Clusters], split: str) -> str | None:
    """Return a sentence that a split has too few clusters; None if it has enough.

    Args:
        parts: clusters of every data set that counts; the one with fewest decides.
        split: name of the split.
    """
    fewest = min(parts, key=lambda each: each.effective, default=None)
    if fewest is None or not fewest.is_few:
        return None
    return fewest.said(split if len(parts) == 1 else f"{split} of {fewest.data}")


def in_words(interval: tuple[float, float] | None, p_value: float | None, why_not: str | None) -> str:
    """Return interval and p-value of a change as text, or why there are none.

    Args:
        interval: two-sided, 95 %.
        p_value: p-value of the permutation test, if there is one.
        why_not: text saying that there are too few clusters.
    """
    if interval is None:
        few = why_not or "too few independent groups of images"
        return f"without a 95 % interval: {few}; an interval needs at least {MIN_CLUSTERS}"
    low, high = (100 * end for end in interval)
    return f"95 % interval {low:+.2f} to {high:+.2f}" + ("" if p_value is None else f", p = {p_value:.4f}")


def doubt(found: Evidence) -> str | None:
    """Return why an improvement is not claimed although the interval lies above zero; None if that is not the case."""
    if found.improves or found.interval is None or found.interval[0] <= 0 or found.p_value is None:
        return None
    if found.num_differing < MIN_DIFFERING:
        groups = "group" if found.num_differing == 1 else "groups"
        return (
            f"only {found.num_differing} independent {groups} of images change at all; an improvement needs at least "
            f"{MIN_DIFFERING}"
        )
    if found.p_value > MAX_P_VALUE:
        return (
            f"the interval lies above zero, but the permutation test does not agree: an improvement needs p <= "
            f"{MAX_P_VALUE:g}"
        )
    return "all independent groups of images change alike, so that the interval has no width and says nothing"
