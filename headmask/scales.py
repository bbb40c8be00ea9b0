"""Head scales: a factor on every head of a tower.

A scale g acts on a head's output z, which becomes g z + (1 - g) r, r being what the ablation puts in place of z. So 1
leaves the head as it is, 0 ablates it, and a mask is scales of 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headmask.errors import GridError, HeadmaskError
from headmask.mask import Head, HeadGrid, HeadMask

# L layers, H heads

FloatArray = NDArray[np.float64]

HIGHEST = 3.0
"""Largest scale; the smallest one is 0."""
LOW = 0.5
"""Scales below this count as heads that are suppressed."""


@dataclass(frozen=True, order=True)
class HeadScales:
    """One scale per head of a grid: immutable, hashable, ordered by values.

    Raises:
        GridError: there is not one value for each head.
        HeadmaskError: a value is not finite, or does not lie in [0, 3].
    """

    grid: HeadGrid
    values: tuple[tuple[float, ...], ...]
    """Scales by layer and head."""

    def __post_init__(self) -> None:
        if len(self.values) != self.grid.layers or any(len(row) != self.grid.heads for row in self.values):
            shape = sorted({len(row) for row in self.values})
            raise GridError(f"scales on grid {self.grid} need a value for each head; got {len(self.values)} x {shape}")
        for head in self.grid:
            value = self.values[head.layer][head.head]
            if not (math.isfinite(value) and 0 <= value <= HIGHEST):
                raise HeadmaskError(f"a scale must be a number from 0 to {HIGHEST:g}; got {value} for {head}")

    @classmethod
    def ones(cls, grid: HeadGrid) -> HeadScales:
        """Return the scales that change nothing: the baseline."""
        return cls(grid, ((1.0,) * grid.heads,) * grid.layers)

    @classmethod
    def of(cls, mask: HeadMask) -> HeadScales:
        """Return a mask as scales: 0 for its heads, 1 for the others."""
        return cls.from_array(~mask.to_bools())

    @classmethod
    def from_heads(cls, grid: HeadGrid, scales: Mapping[tuple[int, int], float]) -> HeadScales:
        """Return the scales given for some heads; all others are 1.

        Raises:
            GridError: a head lies outside the grid.
            HeadmaskError: a value does not lie in [0, 3].
        """
        HeadMask.from_heads(grid, scales)
        array_LH = np.ones((grid.layers, grid.heads))
        for head, scale in scales.items():
            array_LH[head] = scale
        return cls.from_array(array_LH)

    @classmethod
    def from_texts(cls, grid: HeadGrid, scales: Mapping[str, float]) -> HeadScales:
        """Return the scales given for some heads by `L3H7`; all others are 1.

        Raises:
            HeadmaskError: a text is not a head, or a value does not lie in [0, 3].
            GridError: a head lies outside the grid.
        """
        return cls.from_heads(grid, {Head.parse(text): scale for text, scale in scales.items()})

    @classmethod
    def from_array(cls, scales_LH: NDArray[np.generic] | Sequence[Sequence[float]]) -> HeadScales:
        """Return the scales of a (layers, heads) array.

        Raises:
            GridError: the array is not two-dimensional.
            HeadmaskError: a value does not lie in [0, 3].
        """
        array_LH = np.asarray(scales_LH, dtype=np.float64)
        if array_LH.ndim != 2:
            raise GridError(f"an array of scales is (layers, heads); got shape {array_LH.shape}")
        return cls(HeadGrid(*array_LH.shape), tuple(map(tuple, array_LH.tolist())))

    def to_array(self) -> FloatArray:
        """Return the scales as a (layers, heads) float64 array."""
        return np.array(self.values, dtype=np.float64)

    @cached_property
    def heads(self) -> dict[Head, float]:
        """The scales that are not 1, layer by layer."""
        return {head: scale for head in self.grid if (scale := self.values[head.layer][head.head]) != 1}

    @property
    def texts(self) -> dict[str, float]:
        """The scales that are not 1, by `L3H7`."""
        return {str(head): scale for head, scale in self.heads.items()}

    @property
    def ablated(self) -> HeadMask:
        """The mask of the heads whose scale is 0."""
        return HeadMask.from_bools(self.to_array() == 0)

    @property
    def suppressed(self) -> HeadMask:
        """The mask of the heads whose scale is below one half: what scales and masks are compared by."""
        return HeadMask.from_bools(self.to_array() < LOW)

    @property
    def is_mask(self) -> bool:
        """Whether every scale is 0 or 1."""
        return set(self.heads.values()) <= {0.0}

    @property
    def departure(self) -> float:
        """How far they are from the model: the sum of |scale - 1|; of a mask, its number of heads."""
        return math.fsum(abs(scale - 1) for scale in self.heads.values())

    def toward(self, other: HeadScales, share: float) -> HeadScales:
        """Return the scales some share of the way toward others, to four decimals."""
        mixed_LH = (1 - share) * self.to_array() + share * other.to_array()
        return HeadScales.from_array(mixed_LH.round(DECIMALS).clip(0, HIGHEST))

    def __len__(self) -> int:
        """Return how many heads are changed."""
        return len(self.heads)

    def __bool__(self) -> bool:
        """Return True: scales are a value, and those that change nothing are no exception."""
        return True

    def __str__(self) -> str:
        return ",".join(f"{head}={scale:g}" for head, scale in self.heads.items())


DECIMALS = 4
"""Decimals of trained scales: what is scored, written and folded is one number."""


def scales_of(change: HeadMask | HeadScales) -> HeadScales:
    """Return a mask or scales as scales."""
    return HeadScales.of(change) if isinstance(change, HeadMask) else change
