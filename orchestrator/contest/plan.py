"""Which cells a contest consists of: sizes that fit in ten minutes on two cores, or the full ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headmask.errors import ConfigError, did_you_mean
from orchestrator.contest.contest import LANDSCAPES, Cell
from orchestrator.contest.contestants import contestants


@dataclass(frozen=True)
class Size:
    """How much is done on a landscape."""

    budget: int
    """Distinct masks of a run."""
    num_seeds: int


QUICK = {
    "pairwise-144": Size(1_000, 10),
    "cliff-144": Size(1_000, 10),
    "pairwise-384": Size(1_000, 4),
    "cliff-384": Size(1_000, 4),
}
FULL = {
    "pairwise-144": Size(3_000, 30),
    "cliff-144": Size(3_000, 30),
    "pairwise-384": Size(3_000, 10),
    "cliff-384": Size(3_000, 10),
}


def plan(
    landscapes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    *,
    full: bool = False,
    num_seeds: int | None = None,
    first_seed: int = 0,
    budget: int | None = None,
) -> list[Cell]:
    """Return the cells of a contest.

    Args:
        landscapes: by name; all by default.
        names: of the contestants; all by default.
        full: take the full sizes.
        num_seeds: for every landscape, instead of its own number.
        first_seed: the seeds are this one and those after it.
        budget: distinct masks of every run, instead of the landscape's own number.

    Raises:
        ConfigError: there is no landscape or contestant of a name.
    """
    sizes = FULL if full else QUICK
    landscapes, names = landscapes or LANDSCAPES, names or tuple(contestants())
    for landscape in landscapes:
        _check_name("landscape", landscape, LANDSCAPES)
    for name in names:
        _check_name("contestant", name, tuple(contestants()))
    return [
        Cell(landscape, name, seed, budget or sizes[landscape].budget)
        for landscape in landscapes
        for seed in range(first_seed, first_seed + (num_seeds or sizes[landscape].num_seeds))
        for name in names
    ]


def _check_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigError(f"{what} must be one of {', '.join(known)}; got {name!r}{did_you_mean(name, known)}")
