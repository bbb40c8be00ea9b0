"""How often an improvement is claimed where there is none by construction.

The differences of real masks are kept as they are correlated, but every scene gets one random sign that all masks
share: what a mask gains on the scenes of one split says nothing about those of another, and its true change is zero.
Finalists, selection, interval and verdict are the product's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.validity.differences import Searched
from headmask.mask import HeadMask
from orchestrator.settings.sections import SearchSection
from orchestrator.statistics.paired import evidence
from orchestrator.statistics.selection import finalists, select

# C clusters

BOOTSTRAP_DRAWS = 2000
"""A fifth of the product's, for time: the ends of an interval then waver by .06 of its standard error."""


class Parts(NamedTuple):
    """Clusters that masks are searched, selected and reported on."""

    search: NDArray[np.int64]
    confirm: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Sizes:
    """Clusters of each split."""

    search: int
    confirm: int
    test: int


Draw = Callable[[Sizes, int, np.random.Generator], Parts]


def three_splits(sizes: Sizes, num_clusters: int, rng: np.random.Generator) -> Parts:
    """Return three splits that share no cluster: the right way."""
    order = rng.permutation(num_clusters)
    ends = sizes.search, sizes.search + sizes.confirm, sizes.search + sizes.confirm + sizes.test
    return Parts(*np.split(order[: ends[2]], ends[:2]))


def reported_on_confirm(sizes: Sizes, num_clusters: int, rng: np.random.Generator) -> Parts:
    """Return splits of which the last is the second: masks are reported where they were selected, the wrong way."""
    parts = three_splits(sizes, num_clusters, rng)
    return parts._replace(test=parts.confirm)


def reported_on_search(sizes: Sizes, num_clusters: int, rng: np.random.Generator) -> Parts:
    """Return one split three times: masks are searched, selected and reported on it, the usual wrong way."""
    search = three_splits(sizes, num_clusters, rng).search
    return Parts(search, search, search)


def claims(stored: Searched, sizes: Sizes, seed: int, draw: Draw = three_splits) -> bool:
    """Return whether a reliable improvement is claimed on one null draw."""
    rng = np.random.default_rng((seed, sizes.test))
    num_clusters = stored.objective.num_clusters
    signs_C = rng.choice((-1.0, 1.0), size=num_clusters)
    parts = draw(sizes, num_clusters, rng)
    place = {mask: index for index, mask in enumerate(stored.masks)}
    chosen = finalists(stored.masks, stored.guide.values(signs_C, parts.search), SearchSection().finalists)
    places = [place[mask] for mask in chosen]
    sides = (each.judged(places, signs_C, parts.confirm) for each in (stored.objective, stored.guide))
    selected = chosen[select(chosen, *sides)]
    before, after = (
        stored.objective.outcomes(place[mask], signs_C, parts.test)
        for mask in (HeadMask.empty(selected.grid), selected)
    )
    return evidence(before, after, draws=BOOTSTRAP_DRAWS).improves


def count_claims(stored: Searched, sizes: Sizes, seeds: Iterable[int], draw: Draw = three_splits) -> int:
    """Return on how many null draws a reliable improvement is claimed."""
    return sum(claims(stored, sizes, seed, draw) for seed in seeds)
