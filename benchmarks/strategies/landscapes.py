"""The landscapes of a contest, by name: what contestants see of one, and the value that nobody can beat on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from benchmarks.strategies.synthetic import Synthetic, make_synthetic
from headmask.mask import HeadGrid, HeadMask
from strategies import Gradients, Limits, Screen

if TYPE_CHECKING:
    from benchmarks.strategies.measured import Measured

LandscapeName = Literal[
    "pairwise-144", "cliff-144", "pairwise-384", "cliff-384", "table-12", "demo-48", "random-144", "random-384"
]
LANDSCAPES: tuple[LandscapeName, ...] = get_args(LandscapeName)
TABLE, DEMO, RANDOM = "table-12", "demo-48", ("random-144", "random-384")
MEASURED = (TABLE, DEMO, *RANDOM)
"""Of a tower. There the displacement surrogate and gradients are at hand, and a seed decides the contestants only."""
DEFAULT_LANDSCAPES = tuple(name for name in LANDSCAPES if name not in RANDOM)
"""Those of a contest for which none is named."""
_GRIDS = {"144": HeadGrid(12, 12), "384": HeadGrid(24, 16)}
_PART = 128
"""Masks of a table that one process scores at a time."""


class Landscape(Protocol):
    """What contestants see."""

    @property
    def grid(self) -> HeadGrid:
        """Grid of the masks."""
        ...

    @property
    def limits(self) -> Limits:
        """Which masks may be evaluated."""
        ...

    @property
    def screen(self) -> Screen | None:
        """The displacement surrogate; None where there are no embeddings."""
        ...

    @property
    def gradients(self) -> Gradients | None:
        """Gradients of the loss that scales are trained by; None where there is no tower."""
        ...

    def values(self, masks: Sequence[HeadMask]) -> list[float]:
        """Return the values of masks in [0, 1], in their order."""
        ...

    def cost(self, masks: Sequence[HeadMask]) -> float:
        """Return the predicted cost of masks scored together, in plain forward passes of every image."""
        ...


def landscape_of(name: str, seed: int) -> Landscape:
    """Return the landscape of a name and a seed."""
    return _measured(name) if name in MEASURED else _synthetic(name, seed)


def optimum_of(name: str, seed: int) -> float:
    """Return the best value: proved on synthetic landscapes, that of the whole table, the best known on the demo."""
    if name in MEASURED:
        return _measured(name).best_known
    landscape = _synthetic(name, seed)
    return landscape(landscape.best)


def table_parts() -> list[tuple[HeadMask, ...]]:
    """Return all masks of the table in parts, each a neighbourhood."""
    landscape = _measured(TABLE)
    heads = landscape.limits.free_heads(landscape.grid)
    sets = chain.from_iterable(combinations(heads, size) for size in range(len(heads) + 1))
    masks = sorted(HeadMask.from_heads(landscape.grid, each) for each in sets)
    return [tuple(masks[start : start + _PART]) for start in range(0, len(masks), _PART)]


def fill_table(masks: Sequence[HeadMask]) -> None:
    """Score masks of the table, so that their values are kept."""
    _measured(TABLE).values(masks)


def _synthetic(name: str, seed: int) -> Synthetic:
    kind, bits = name.split("-")
    return make_synthetic("cliff" if kind == "cliff" else "pairwise", _GRIDS[bits], seed)


def _measured(name: str) -> Measured:
    # Imports torch and open_clip, which synthetic landscapes need not wait for.
    from benchmarks.strategies.measured import demo_landscape, table_landscape
    from benchmarks.strategies.planted import random_landscape

    if name in RANDOM:
        return random_landscape(name)
    return {TABLE: table_landscape, DEMO: demo_landscape}[name]()
