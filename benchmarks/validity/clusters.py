"""How few clusters claim what is not there, and which images a shared caption should link into one.

Both are simulated: two sides that differ by chance alone, so that 2.5 % of the intervals may lie above zero. Intervals,
p-values, metrics, links and the rule of claiming are the product's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.statistics.paired import MIN_CLUSTERS, Outcomes, evidence, num_clusters, paired_interval
from orchestrator.verdict.outcomes import outcomes_of
from workers.data.loading import clusters, linked
from workers.tasks.metrics import Mix, Ranks
from workers.tasks.retrieval import RetrievalTargets

# N images, C clusters, E embedding, Q captions, F families

DRAWS, LINKED_DRAWS = 600, 400
"""Less than a tenth of the product's, for time."""
WIDTH = 32
Differences = Callable[[np.random.Generator, int], NDArray[np.float64]]
Links = Callable[[Sequence[tuple[str, ...]]], NDArray[np.int64]]


def either_way(share: float) -> Differences:
    """Return clusters of which a share differs, by as much either way."""
    return lambda rng, count: np.where(rng.random(count) < share, rng.choice((-1.0, 1.0), count), 0.0)


def rare_losses(share: float, times: float) -> Differences:
    """Return clusters of which a share gains a little, and one for several of these loses that many times as much."""

    def drawn(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        place_C = rng.random(count)
        return np.where(place_C < share, 1 / 6, np.where(place_C < share * (1 + 1 / times), -times / 6, 0.0))

    return drawn


DIFFERENCES: Mapping[str, Differences] = MappingProxyType(
    {
        "normally distributed": lambda rng, count: rng.normal(size=count),
        "one in three, either way": either_way(1 / 3),
        "one in twenty, either way": either_way(1 / 20),
        "losses twice the gains, half as often": rare_losses(0.3, 2),
        "losses three times the gains, a third as often": rare_losses(0.3, 3),
    }
)
COUNTS = (2, 5, 10, 20, 40, 100)
SIZES: Mapping[str, Callable[[int], NDArray[np.int64]]] = MappingProxyType(
    {
        "of one size": lambda count: np.ones(count, dtype=np.int64),
        "one holds half": lambda count: np.array([count - 1, *[1] * (count - 1)]),
        "each four fifths of the one before": lambda count: np.ceil(count / 4 * 0.8 ** np.arange(count)).astype(int),
    }
)


def _only(ratios_RK: NDArray[np.float64]) -> NDArray[np.float64]:
    return ratios_RK[:, 0]


def count_few(differences: str, sizes: str, count: int, seeds: Iterable[int]) -> tuple[int, int, int]:
    """Return how often an interval lies above zero, an improvement would be claimed of any number, and is claimed."""
    above = would = claimed = 0
    for seed in seeds:
        rng = np.random.default_rng((seed, count))
        images_C = SIZES[sizes](count)
        queries_CK = images_C[:, None].astype(float)
        gained_CK = (DIFFERENCES[differences](rng, count) * images_C)[:, None]
        sides = [Outcomes(hits_CK, queries_CK, _only, images_C) for hits_CK in (0 * gained_CK, gained_CK)]
        low, _ = paired_interval(*sides, draws=DRAWS, seed=seed, min_clusters=0) or (0.0, 0.0)
        if low <= 0:
            continue
        # Only where the interval lies above zero can anything be claimed.
        found = evidence(*sides, draws=DRAWS, seed=seed, min_clusters=0)
        above += 1
        would += found.improves
        claimed += found.improves and found.num_clusters >= MIN_CLUSTERS
    return above, would, claimed


@dataclass(frozen=True)
class World:
    """Images with captions, some of which are shared."""

    what: str
    captions: tuple[tuple[str, ...], ...]
    """The captions of every image."""
    family_N: tuple[int, ...]
    """Images of one family show one thing, and masks do the same to them."""


def _worlds(num_images: int) -> dict[str, World]:
    own = [f"own {i}" for i in range(num_images)]
    alone = tuple(range(num_images))

    def families(size: int) -> tuple[int, ...]:
        return tuple(i // size for i in alone)

    def with_shared(size: int, part: float = 1.0) -> tuple[tuple[str, ...], ...]:
        return tuple((own[i], f"shared {i // size}") if i < part * num_images else (own[i],) for i in alone)

    worlds = [
        World("own captions", tuple((text,) for text in own), alone),
        World("2 views of each thing, with its caption", tuple((f"thing {f}",) for f in families(2)), families(2)),
        World("5 views of each thing, with its caption", tuple((f"thing {f}",) for f in families(5)), families(5)),
        World("5 views of each thing, its caption beside their own", with_shared(5), families(5)),
        World("own captions, and one that 5 others share", with_shared(5), alone),
        World("own captions, and one that half of all share", with_shared(num_images, 0.5), alone),
        World("own captions, and one that all share", with_shared(num_images), alone),
        World(
            "own captions for half, one label for the others",
            tuple(("a drawing",) if 2 * i < num_images else (own[i],) for i in alone),
            alone,
        ),
        World("10 labels and nothing else", tuple((f"label {i % 10}",) for i in alone), alone),
    ]
    return {world.what: world for world in worlds}


NUM_IMAGES = 200
WORLDS: Mapping[str, World] = MappingProxyType(_worlds(NUM_IMAGES))


def _by_caption(captions: Sequence[tuple[str, ...]], most: int) -> NDArray[np.int64]:
    sharing: dict[str, list[int]] = defaultdict(list)
    for image, texts in enumerate(captions):
        for text in texts:
            sharing[text].append(image)
    return clusters(len(captions), [images for images in sharing.values() if len(images) <= most])


def _by_set(captions: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
    sharing: dict[frozenset[str], list[int]] = defaultdict(list)
    for image, texts in enumerate(captions):
        sharing[frozenset(texts)].append(image)
    return clusters(len(captions), sharing.values())


RULES: Mapping[str, Links] = MappingProxyType(
    {
        "none": lambda captions: np.arange(len(captions)),
        "any caption": lambda captions: _by_caption(captions, len(captions)),
        "a caption that 5 at most share": lambda captions: _by_caption(captions, 5),
        "all captions": _by_set,
        "product": lambda captions: linked([str(image) for image in range(len(captions))], captions),
    }
)


@dataclass(frozen=True)
class _Split:
    targets: RetrievalTargets
    clusters_N: NDArray[np.int64]


@dataclass(frozen=True)
class Linked:
    """What a rule of linking makes of one world."""

    above: int
    """Intervals that lie above zero."""
    claimed: int
    clusters: float
    """That they count for."""
    width: float
    """Width of the intervals, on average."""


def count_linked(world: str, seeds: Iterable[int]) -> dict[str, Linked]:
    """Return what every rule makes of draws of a world in which masks help nobody."""
    captions, seeds = WORLDS[world].captions, list(seeds)
    mix = Mix.parse("mean_recall")
    targets = RetrievalTargets(np.repeat(np.arange(len(captions)), list(map(len, captions))))
    # Rules that link the same images are tried once.
    links = {rule: tuple(links(captions).tolist()) for rule, links in RULES.items()}
    found = {each: Linked(0, 0, 0.0, 0.0) for each in links.values()}
    for seed in seeds:
        sides = _two_sides(WORLDS[world], targets, np.random.default_rng(seed))
        for each, so_far in found.items():
            tables = [outcomes_of(_Split(targets, np.array(each)), ranks, mix) for ranks in sides]
            low, high = paired_interval(*tables, draws=LINKED_DRAWS, seed=seed, min_clusters=0) or (0.0, 0.0)
            # Only where the interval lies above zero can anything be claimed.
            claimed = low > 0 and evidence(*tables, draws=LINKED_DRAWS, seed=seed).improves
            found[each] = Linked(
                so_far.above + (low > 0),
                so_far.claimed + claimed,
                num_clusters(tables[0]),
                so_far.width + (high - low) / len(seeds),
            )
    return {rule: found[each] for rule, each in links.items()}


def _two_sides(world: World, targets: RetrievalTargets, rng: np.random.Generator) -> list[Ranks]:
    """Return the ranks of two sides that are alike but for chance: what masks do to a family, and to its images."""
    family_N = np.array(world.family_N)
    num_families, num_images = int(family_N.max()) + 1, len(family_N)

    def drawn(count: int) -> NDArray[np.float64]:
        return rng.normal(size=(count, WIDTH))

    image_NE = drawn(num_families)[family_N] + 0.5 * drawn(num_images)
    about: dict[str, list[int]] = defaultdict(list)
    for image, texts in enumerate(world.captions):
        for text in texts:
            about[text].append(image)
    # A caption is about what its images have in common.
    text_of = {text: image_NE[images].mean(0) + 0.9 * drawn(1)[0] for text, images in about.items()}
    text_QE = _unit(np.stack([text_of[text] for texts in world.captions for text in texts]))
    found = []
    for _ in range(2):
        moved_NE = 0.8 * drawn(num_families)[family_N] + 0.3 * drawn(num_images)
        found.append(targets.measure(_unit(image_NE + moved_NE), text_QE))
    return found


def _unit(rows: NDArray[np.float64]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rows).float(), dim=1)
