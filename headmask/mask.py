"""Head masks: which attention heads of a tower are ablated.

A mask is a set of (layer, head) cells on a grid. It has three equal spellings:

- *words*: one integer per layer, bit h set when head h is ablated. Optuna trials carry these.
- *text*: `L3H7,L5H0`. People read and type this.
- *bools*: a (layers, heads) bool array, True where ablated. Scorers take stacks of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headmask.errors import GridError, HeadmaskError

# L layers, H heads, M masks
BoolArray = NDArray[np.bool_]

MAX_HEADS = 53
"""Maximum number of heads in a layer: Optuna stores integers as floats, which are exact up to 2**53."""

_HEAD = re.compile(r"[Ll]([0-9]{1,9})[Hh]([0-9]{1,9})")


class Head(NamedTuple):
    """One cell of a grid, zero-based; its text is `L3H7`."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Return the head written as `L3H7`.

        Raises:
            HeadmaskError: the text is not of that form.
        """
        match = _HEAD.fullmatch(text.strip())
        if match is None:
            raise HeadmaskError(f"a head is written L<layer>H<head>, such as L3H7; got {text.strip()[:60]!r}")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True, order=True)
class HeadGrid:
    """The (layers, heads) of a tower.

    Raises:
        GridError: a count is below 1, or there are more heads than a word can hold (53).
    """

    layers: int
    heads: int

    def __post_init__(self) -> None:
        if self.layers < 1 or self.heads < 1:
            raise GridError(f"a grid needs at least 1 layer and 1 head; got {self}")
        if self.heads > MAX_HEADS:
            raise GridError(f"a grid can have at most {MAX_HEADS} heads in a layer; got {self}")

    def __str__(self) -> str:
        return f"{self.layers}x{self.heads}"

    def __len__(self) -> int:
        return self.layers * self.heads

    def __iter__(self) -> Iterator[Head]:
        """Yield every head, layer by layer."""
        return (Head(layer, head) for layer in range(self.layers) for head in range(self.heads))

    def __contains__(self, head: object) -> bool:
        if not isinstance(head, tuple) or len(head) != 2:
            return False
        return bool(0 <= head[0] < self.layers and 0 <= head[1] < self.heads)


@dataclass(frozen=True, slots=True, order=True)
class HeadMask:
    """A set of ablated heads on a grid: immutable, hashable, ordered by words.

    Raises:
        GridError: the number of words is not the number of layers, or a word has a bit beyond the last head.
    """

    grid: HeadGrid
    words: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.words) != self.grid.layers:
            raise GridError(f"a mask on grid {self.grid} has {self.grid.layers} words; got {len(self.words)}")
        for layer, word in enumerate(self.words):
            if not 0 <= word < 1 << self.grid.heads:
                raise GridError(
                    f"the word of layer {layer} on grid {self.grid} must lie in 0..{(1 << self.grid.heads) - 1}; "
                    f"got {word}"
                )

    @classmethod
    def empty(cls, grid: HeadGrid) -> HeadMask:
        """Return the mask that ablates nothing: the baseline."""
        return cls(grid, (0,) * grid.layers)

    @classmethod
    def from_heads(cls, grid: HeadGrid, heads: Iterable[tuple[int, int]]) -> HeadMask:
        """Return the mask that ablates the given (layer, head) cells.

        Raises:
            GridError: a head lies outside the grid.
        """
        words = [0] * grid.layers
        for head in heads:
            if head not in grid:
                raise GridError(
                    f"{Head(*head)} is not on grid {grid}: layers are 0..{grid.layers - 1}, heads 0..{grid.heads - 1}"
                )
            words[head[0]] |= 1 << head[1]
        return cls(grid, tuple(words))

    @classmethod
    def singles(cls, grid: HeadGrid, heads: Iterable[tuple[int, int]] | None = None) -> list[HeadMask]:
        """Return the masks of a scan: the empty one, then one for each of the given heads, by default all."""
        return [cls.empty(grid), *(cls.from_heads(grid, [head]) for head in (grid if heads is None else heads))]

    @classmethod
    def from_text(cls, grid: HeadGrid, text: str) -> HeadMask:
        """Return the mask written as `L3H7,L5H0`; the empty string is the empty mask.

        Raises:
            HeadmaskError: a part is not a head.
            GridError: a head lies outside the grid.
        """
        return cls.from_heads(grid, (Head.parse(part) for part in re.split(r"[,\s]+", text.strip()) if part))

    @classmethod
    def from_bools(cls, mask_LH: BoolArray | Sequence[Sequence[bool]]) -> HeadMask:
        """Return the mask of a (layers, heads) bool array, True where ablated.

        Raises:
            GridError: the array is not two-dimensional and bool.
        """
        array_LH = np.asarray(mask_LH)
        if array_LH.ndim != 2 or array_LH.dtype != np.bool_:
            raise GridError(f"a mask array is (layers, heads) of bool; got shape {array_LH.shape} of {array_LH.dtype}")
        grid = HeadGrid(*array_LH.shape)
        return cls.from_heads(grid, ((int(layer), int(head)) for layer, head in np.argwhere(array_LH)))

    def to_bools(self) -> BoolArray:
        """Return the mask as a (layers, heads) bool array, True where ablated."""
        bits_H = np.arange(self.grid.heads, dtype=np.int64)
        words_L = np.array(self.words, dtype=np.int64)
        return ((words_L[:, None] >> bits_H) & 1).astype(np.bool_)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The ablated heads, layer by layer."""
        return tuple(
            Head(layer, head)
            for layer, word in enumerate(self.words)
            for head in range(self.grid.heads)
            if word >> head & 1
        )

    @property
    def is_empty(self) -> bool:
        """True when nothing is ablated."""
        return not any(self.words)

    @property
    def layer_counts(self) -> tuple[int, ...]:
        """The number of ablated heads in each layer."""
        return tuple(word.bit_count() for word in self.words)

    def __len__(self) -> int:
        return sum(self.layer_counts)

    def __bool__(self) -> bool:
        """Return True: a mask is a value, and the empty one is no exception. Use `is_empty` instead."""
        return True

    def __contains__(self, head: object) -> bool:
        return isinstance(head, tuple) and head in self.grid and bool(self.words[head[0]] >> head[1] & 1)

    def __str__(self) -> str:
        return ",".join(map(str, self.heads))

    def flipped(self, head: tuple[int, int]) -> HeadMask:
        """Return the mask with one head switched between ablated and kept."""
        word = self.words[head[0]] ^ (1 << head[1])
        return HeadMask(self.grid, (*self.words[: head[0]], word, *self.words[head[0] + 1 :]))

    def __or__(self, other: HeadMask) -> HeadMask:
        if self.grid != other.grid:
            raise GridError(f"two masks can be joined on one grid only; got {self.grid} and {other.grid}")
        return HeadMask(self.grid, tuple(a | b for a, b in zip(self.words, other.words, strict=True)))


def bools_of(masks: Iterable[HeadMask]) -> BoolArray:
    """Return the masks as one (masks, layers, heads) bool array."""
    return np.stack([mask.to_bools() for mask in masks])
