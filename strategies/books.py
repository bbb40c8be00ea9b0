"""The books of a study: its masks by number, how many of their results are known, and how they form blocks.

Books know nothing of pools, storage, Optuna or clocks. A search keeps them; if `study.ask` drives the strategy,
Optuna's side of it does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headmask.mask import BoolArray, HeadGrid, HeadMask
from strategies.space import Limits

# T trials, F free heads

FIRST_BLOCK = 8
"""Masks in the first blocks after the scan, or a quarter of a full block if that is more."""
GROWTH = 8
"""A later block holds one mask for every eight since the scan, until blocks reach full size."""
MIN_WIDTH = 2 * FIRST_BLOCK
"""Smallest width: blocks are as small as they are useful, and a block knows all but the one before it."""
WIDE_GROWTH = 4
"""A block of a wider study holds at most one mask for every four before it: fewer results teach too little."""
LATE_GROWTH, LATEST = 16, 16
"""Blocks of a wider study grow on, to one mask for every 16 before them, up to 16 times what fills the width: planning
takes a while, however large a block is, and among thousands of results a few more teach little.
"""


def first_size(block_size: int) -> int:
    """Return the number of masks in the first blocks after block 0."""
    return max(FIRST_BLOCK, block_size // 4)


def opening_size(block_size: int, width: int) -> int:
    """Return the number of masks in block 0 of a strategy that opens with trained scales.

    In a wide study, replicas score twice its width while scales are trained, one step after the other.
    """
    return first_size(block_size) if width <= MIN_WIDTH else 2 * width


@dataclass(frozen=True)
class Blocks:
    """How trials form blocks: block 0 first, then blocks that grow to full size.

    Args:
        num_first: number of masks in block 0; the whole scan, unless the strategy opens with trained scales.
        block_size: number of masks in a full block, unless the study is wide.
        is_open: whether block 1 is proposed without results, from trained scales alone.
        width: number of masks that are in flight as soon as enough is known: so many replicas find work. Beyond
            `MIN_WIDTH`, a block holds at least half of it and knows all but the two before it: what it would know in
            a queue that is never empty, but for half a block.
    """

    num_first: int
    block_size: int
    is_open: bool = False
    width: int = MIN_WIDTH

    @property
    def lag(self) -> int:
        """How many blocks lie between the last one that a block knows and the block itself, and one more."""
        return 2 if self.width <= MIN_WIDTH else 3

    @cached_property
    def full_size(self) -> int:
        """The number of masks in a full block."""
        return max(self.block_size, LATEST * self._wanted)

    @property
    def _wanted(self) -> int:
        """The number of masks in a block that fills the width."""
        return 0 if self.width <= MIN_WIDTH else -(-self.width // 2)

    def _size(self, start: int) -> int:
        """Return the number of masks in the block that begins with a trial."""
        grown = max(first_size(self.block_size), min(self.block_size, (start - self.num_first) // GROWTH))
        wide = max(min(self._wanted, start // WIDE_GROWTH), start // LATE_GROWTH)
        return min(self.full_size, max(grown, wide) if self._wanted else grown)

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """The first trial of block 0, of every smaller block, and of the first full one."""
        starts = [0, self.num_first]
        while (size := self._size(starts[-1])) < self.full_size:
            starts.append(starts[-1] + size)
        return tuple(starts)

    def of(self, number: int) -> int:
        """Return the block that a trial belongs to."""
        if number < self._starts[-1]:
            return bisect_right(self._starts, number) - 1
        return len(self._starts) - 1 + (number - self._starts[-1]) // self.full_size

    def numbers(self, block: int) -> range:
        """Return the trial numbers of a block."""
        num_full_before = block - (len(self._starts) - 1)
        if num_full_before < 0:
            return range(self._starts[block], self._starts[block + 1])
        start = self._starts[-1] + num_full_before * self.full_size
        return range(start, start + self.full_size)

    def num_known(self, block: int) -> int:
        """Return how many trials, from number 0 on, must have results before a block is proposed.

        Block 1 is proposed from block 0, or from nothing if it is open, and every later block from all blocks except
        the one just before it, or the two of a wide study, so two or three blocks can be in flight at a time.
        """
        return 0 if block <= self.is_open else self.numbers(max(0, block - self.lag)).stop


class Books:
    """The masks of a study by number, with the results up to the first mask that has none.

    Args:
        grid: layers and heads of the masks.
        limits: which heads are free.
        blocks: how trials form blocks.
        num_masks: number of masks that can be proposed.
        stored: masks that an earlier run proposed, by number.
    """

    def __init__(
        self,
        grid: HeadGrid,
        limits: Limits,
        blocks: Blocks,
        num_masks: int,
        stored: Mapping[int, HeadMask] | None = None,
    ) -> None:
        self.grid, self.blocks, self._limits = grid, blocks, limits
        self._num_masks, self._stored = num_masks, stored or {}
        self.masks: list[HeadMask] = []
        """Every mask proposed so far, by number."""
        self.num_known = 0
        """How many masks, from number 0 on, have results."""
        self._numbers: dict[HeadMask, int] = {}
        self._has_result: list[bool] = []
        self._bits_TF = limits.bits_of(grid, ())
        self._values_T = np.zeros(0)
        """Allocated longer than the number of masks, like the bits."""

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def is_exhausted(self) -> bool:
        """Whether no mask is left to propose."""
        return len(self.masks) >= self._num_masks

    @property
    def next_block(self) -> int:
        """The block of the next mask."""
        return self.blocks.of(len(self.masks))

    def is_known_for(self, block: int) -> bool:
        """Return whether all results that a block is proposed from are known."""
        return self.num_known >= self.blocks.num_known(block)

    def results_for(self, block: int) -> tuple[BoolArray, NDArray[np.float64]]:
        """Return the results that a block is proposed from.

        They are masks (T, F), True where a free head is ablated, with their values (T), NaN for a failure.
        """
        count = self.blocks.num_known(block)
        return self._bits_TF[:count], self._values_T[:count]

    def stored_block(self, block: int) -> list[HeadMask] | None:
        """Return the masks of a block as an earlier run proposed them; None if they must be proposed again.

        The last complete block is proposed again, to check that this version proposes the same masks.
        """
        numbers, following = self.blocks.numbers(block), self.blocks.numbers(block + 1)
        if not all(number in self._stored for number in (*numbers, *following)):
            return None
        return [self._stored[number] for number in numbers]

    def blocks_without_gain(self, block: int) -> int:
        """Return how many blocks followed the one that first reached the best value, by the results a block knows."""
        values_T = self.results_for(block)[1]
        if not len(values_T):
            return 0
        best = int(np.where(np.isnan(values_T), -np.inf, values_T).argmax())
        return self.blocks.of(len(values_T) - 1) - self.blocks.of(best)

    def number_of(self, mask: HeadMask) -> int:
        """Return the number of a mask that was proposed."""
        return self._numbers[mask]

    def awaits(self, mask: HeadMask) -> bool:
        """Return whether a mask was proposed and has no result yet."""
        number = self._numbers.get(mask)
        return number is not None and not self._has_result[number]

    def add(self, masks: Sequence[HeadMask]) -> None:
        """Assign the next numbers to masks."""
        start, stop = len(self.masks), len(self.masks) + len(masks)
        self._numbers.update(zip(masks, range(start, stop), strict=True))
        self.masks += masks
        self._has_result += [False] * len(masks)
        if stop > len(self._values_T):
            room = max(stop, 2 * len(self._values_T))
            self._bits_TF = np.resize(self._bits_TF, (room, self._bits_TF.shape[1]))
            self._values_T = np.resize(self._values_T, room)
        self._bits_TF[start:stop] = self._limits.bits_of(self.grid, masks)

    def tell(self, number: int, value: float | None) -> None:
        """Record the value of a mask; None is a failure."""
        self._values_T[number] = np.nan if value is None else value
        self._has_result[number] = True
        while self.num_known < len(self._has_result) and self._has_result[self.num_known]:
            self.num_known += 1
