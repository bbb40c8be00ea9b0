"""Which cells a contest consists of: sizes that fit in ten minutes on two cores, or the full ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.strategies.contest import Cell
from benchmarks.strategies.contestants import TRAINED, contestants, default_names
from benchmarks.strategies.landscapes import DEFAULT_LANDSCAPES, LANDSCAPES, MEASURED
from benchmarks.strategies.meter import Budget, Unit
from headmask.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Size:
    """How much is done on a landscape."""

    budget: int
    """Distinct masks of a run, or masks' worth of image forwards."""
    num_seeds: int


QUICK = {
    "pairwise-144": Size(1_000, 3),
    "cliff-144": Size(1_000, 3),
    "pairwise-384": Size(1_000, 1),
    "cliff-384": Size(1_000, 1),
    "table-12": Size(1_000, 3),
    "demo-48": Size(300, 1),
    "random-144": Size(1_000, 1),
    "random-384": Size(300, 1),
}
FULL = {
    "pairwise-144": Size(3_000, 5),
    "cliff-144": Size(3_000, 5),
    "pairwise-384": Size(3_000, 2),
    "cliff-384": Size(3_000, 2),
    "table-12": Size(3_000, 5),
    "demo-48": Size(1_000, 2),
    "random-144": Size(1_000, 5),
    "random-384": Size(1_000, 2),
}
QUICK_CAPS = {"optuna-tpe": 300, "tpe": 300}
FULL_CAPS = {**QUICK_CAPS, "optuna-nsga2": 1_000, "nsga2": 1_000}
"""Masks that slow contestants end at: TPE takes 0.04 to 0.5 s for a mask, NSGA-II a tenth of a second."""


def plan(
    landscapes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    *,
    full: bool = False,
    num_seeds: int | None = None,
    first_seed: int = 0,
    budget: int | None = None,
    unit: Unit = "masks",
    widths: Sequence[int] | None = None,
) -> list[Cell]:
    """Return the cells of a contest.

    Args:
        landscapes: by name; all but those of random weights by default.
        names: of the contestants; by default all but those that need gradients and those that the mixture has.
        full: take the full sizes.
        num_seeds: for every landscape, instead of its own number.
        first_seed: the seeds are this one and those after it.
        budget: of every run, instead of the landscape's own number; slow contestants stay capped.
        unit: what the budget counts.
        widths: numbers of masks in a round; no rounds by default.

    Raises:
        ConfigError: there is no landscape or contestant of a name, or no tower that has gradients.
    """
    sizes, caps = (FULL, FULL_CAPS) if full else (QUICK, QUICK_CAPS)
    landscapes, names = landscapes or DEFAULT_LANDSCAPES, names or default_names()
    for landscape in landscapes:
        _check_name("landscape", landscape, LANDSCAPES)
    for name in names:
        _check_name("contestant", name, tuple(contestants()))
    trained, synthetic = set(names) & set(TRAINED), set(landscapes) - set(MEASURED)
    if trained and synthetic:
        raise ConfigError(
            f"{min(trained)} needs gradients, which takes a tower; got landscape {min(synthetic)}: "
            f"name {', '.join(MEASURED)}"
        )
    return [
        Cell(landscape, name, seed, Budget(_capped(budget or sizes[landscape].budget, caps.get(name)), unit, width))
        for landscape in landscapes
        for width in widths or (None,)
        for seed in range(first_seed, first_seed + (num_seeds or sizes[landscape].num_seeds))
        for name in names
    ]


def _capped(budget: int, cap: int | None) -> int:
    return budget if cap is None else min(budget, cap)


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigError(f"{what} must be one of {', '.join(known)}; got {name!r}{did_you_mean(name, known)}")
