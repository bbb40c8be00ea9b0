"""On which images a head hurts: what the right answers gain when it is ablated."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from orchestrator.explanation import Change, Query
from workers.classification import ClassificationTargets
from workers.loading import Split
from workers.matching import MatchingTargets
from workers.ranking import MAX_RANK
from workers.retrieval import RetrievalTargets
from workers.tasks import Mix, Ranks, Targets

# N images, Q queries of a kind

_PROBABILITY = "_probability"


def image_credits(targets: Targets, ranks: Ranks, mix: Mix, num_images: int) -> NDArray[np.float64]:
    """Return what the queries of every image earn (N,): the mean over them, in the proportions of a mix.

    An image without queries of a kind earns nothing by it; a pair's queries are its first image's.
    """
    total_N = np.zeros(num_images)
    for name, weight in mix.weights:
        shares = targets.shares[name]
        for share in shares:
            image_of_query_Q = targets.image_of_queries[share.kind]
            earned_N = np.bincount(image_of_query_Q, weights=share.credits(ranks), minlength=num_images)
            queries_N = np.bincount(image_of_query_Q, minlength=num_images)
            total_N += weight / len(shares) * earned_N / np.maximum(queries_N, 1)
    credit_N: NDArray[np.float64] = total_N / sum(weight for _, weight in mix.weights)
    return credit_N


def queries_of(split: Split, image: int, ranks: Mapping[str, Ranks]) -> list[Query]:
    """Return the queries of an image, those first whose rank, then probability, gains most without the head.

    Args:
        split: the image's.
        image: its place there.
        ranks: by `baseline`, `head` and `mask`.
    """

    def change(kind: str, query: int) -> Change:
        return Change(**{state: found[kind][query].item() for state, found in ranks.items()})

    def rank(kind: str, query: int) -> Change:
        return Change(**{state: found[kind][query].item() + 1 for state, found in ranks.items()})

    kinds = split.targets.image_of_queries
    found = []
    for kind in (kind for kind in kinds if not kind.endswith(_PROBABILITY)):
        for query in np.flatnonzero(kinds[kind] == image).tolist():
            has_probability = kind + _PROBABILITY in kinds
            probability = change(kind + _PROBABILITY, query) if has_probability else None
            text = _text_of(split, kind, query)
            found.append(Query(kind=kind, text=text, rank=rank(kind, query), probability=probability))
    return sorted(found, key=_gain, reverse=True)


def rank_in_words(rank: float) -> str:
    """Return a rank as it is printed."""
    return str(int(rank)) if rank <= MAX_RANK else f"over {MAX_RANK}"


def texts_of(split: Split, image: int) -> list[str]:
    """Return the captions of an image, or the name of its class."""
    if isinstance(split.targets, RetrievalTargets):
        return [split.texts[query] for query in np.flatnonzero(split.targets.image_of_caption_Q == image)]
    if isinstance(split.targets, ClassificationTargets):
        return [split.class_names[split.targets.class_of_image_N[image]]]
    return [split.texts[image]]


def _text_of(split: Split, kind: str, query: int) -> str | None:
    if isinstance(split.targets, MatchingTargets) or kind == "i2t":
        return None
    return split.texts[query] if kind == "t2i" else texts_of(split, query)[0]


def _gain(query: Query) -> tuple[float, float]:
    """Return by how much an answer's standing improves: in reciprocal rank, then in probability."""
    probability = query.probability
    return (
        1 / query.rank.head - 1 / query.rank.baseline,
        probability.head - probability.baseline if probability else 0.0,
    )
