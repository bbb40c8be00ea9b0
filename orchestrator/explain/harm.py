"""The images on which a head hurts: how much the right answers gain when it is ablated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headmask.border.shown import counted
from headmask.mask import Head, HeadMask
from orchestrator.explain.explanation import Change, DescribingText, ExplainedHead, HarmedImage, Query
from orchestrator.explain.sheets import Cell, draw_attention
from orchestrator.explain.subject import Subject
from workers.data.loading import Split
from workers.scoring.messages import MaskScore
from workers.tasks.base import Targets
from workers.tasks.metrics import Mix, Ranks
from workers.tasks.ranking import MAX_RANK
from workers.tasks.registry import KINDS

# N images, Q queries of a kind, Y by X patches


@dataclass(frozen=True)
class Case:
    """The heads to measure on a split."""

    subject: Subject
    split: Split
    objective: Mix
    guide: Mix


@dataclass(frozen=True)
class Harm:
    """The changes caused by the ablation of one head, image by image."""

    head: Head
    metrics: Mapping[str, Mapping[str, float]]
    """Metrics by state: `baseline`, this `head` alone ablated, the whole `mask`."""
    ranks: Mapping[str, Ranks]
    gain_N: Mapping[str, NDArray[np.float64]]
    """Gain of the guide over the baseline."""
    worst: list[int]
    """Images on which the head hurts, largest gain first."""


def measure_harm(case: Case, scores: Mapping[HeadMask, MaskScore], head: Head, num_images: int) -> Harm:
    """Return the images on which a head hurts.

    Args:
        case: the head's.
        scores: of the empty mask, the whole one, and the head alone, with ranks.
        head: the head.
        num_images: maximum number of images to name.
    """
    alone = HeadMask.from_heads(case.subject.mask.grid, [head])
    states = {"baseline": HeadMask.empty(alone.grid), "head": alone, "mask": case.subject.mask}
    ranks = {state: found[0] for state, mask in states.items() if (found := scores[mask].ranks)}
    credit_N = {
        state: image_credits(case.split.targets, found, case.guide, len(case.split.pixels))
        for state, found in ranks.items()
    }
    gain_N = {state: found - credit_N["baseline"] for state, found in credit_N.items()}
    order_N = np.argsort(-gain_N["head"], kind="stable")[:num_images]
    worst = [int(image) for image in order_N if gain_N["head"][image] > 0]
    return Harm(head, {state: scores[mask].metrics for state, mask in states.items()}, ranks, gain_N, worst)


def explained_head(
    case: Case,
    harm: Harm,
    maps: Sequence[NDArray[np.float32]],
    size: float | None,
    texts: list[DescribingText],
    out: Path,
) -> ExplainedHead:
    """Return the explanation of one head, with its picture written.

    Args:
        case: the head's.
        harm: where it hurts.
        maps: its attention on the patches of the worst images, (Y, X) each.
        size: of its contribution.
        texts: that describe it.
        out: folder of the picture.
    """
    split, head = case.split, harm.head
    images = [_harmed(split, harm, image, map_YX) for image, map_YX in zip(harm.worst, maps, strict=True)]
    if images:
        cells = [
            Cell(pixels_3YX, map_YX, _shown(image), _note(image))
            for pixels_3YX, map_YX, image in zip(split.pixels[np.array(harm.worst)], maps, images, strict=True)
        ]
        draw_attention(_title(head), cells, out / f"{head}.png")
    return ExplainedHead(
        head=str(head),
        in_mask=head in case.subject.mask,
        size=size,
        texts=texts,
        guide=Change(**{state: case.guide.value(metrics) for state, metrics in harm.metrics.items()}),
        objective=Change(**{state: case.objective.value(metrics) for state, metrics in harm.metrics.items()}),
        num_hurt=int((harm.gain_N["head"] > 0).sum()),
        num_helped=int((harm.gain_N["head"] < 0).sum()),
        images=images,
        picture=f"{head}.png" if images else None,
        alt=_alt(head, images) if images else None,
    )


def _harmed(split: Split, harm: Harm, image: int, map_YX: NDArray[np.float32]) -> HarmedImage:
    return HarmedImage(
        row=int(split.pixels.rows_N[image]),
        texts=split.targets.words_of(image, split),
        gain=Change(**{state: float(gain_N[image]) for state, gain_N in harm.gain_N.items()}),
        queries=queries_of(split, image, harm.ranks),
        looks_at=place_in_words(map_YX),
        on_patches=float(map_YX.sum()),
    )


def image_credits(targets: Targets, ranks: Ranks, mix: Mix, num_images: int) -> NDArray[np.float64]:
    """Return the mean credit of every image's queries (N,), in the proportions of a mix.

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
    """Return the queries of an image, first those whose rank, then probability, gains most without the head.

    Args:
        split: the image's.
        image: its place there.
        ranks: by `baseline`, `head` and `mask`.
    """

    def change(kind: str, query: int) -> Change:
        return Change(**{state: found[kind][query].item() for state, found in ranks.items()})

    def rank(kind: str, query: int) -> Change:
        return Change(**{state: found[kind][query].item() + 1 for state, found in ranks.items()})

    targets, found = split.targets, []
    for name, kind in targets.kinds.items():
        for query in np.flatnonzero(targets.image_of_queries[name] == image).tolist():
            probability = None if kind.graded is None else change(kind.graded, query)
            text = targets.word_of(name, query, split)
            found.append(Query(kind=name, text=text, rank=rank(name, query), probability=probability))
    return sorted(found, key=_gain, reverse=True)


def rank_in_words(rank: float) -> str:
    """Return a rank as printed."""
    return str(int(rank)) if rank <= MAX_RANK else f"over {MAX_RANK}"


def _gain(query: Query) -> tuple[float, float]:
    """Return how much an answer's standing improves: in reciprocal rank, then in probability."""
    probability = query.probability
    return (
        1 / query.rank.head - 1 / query.rank.baseline,
        probability.head - probability.baseline if probability else 0.0,
    )


def place_in_words(map_YX: NDArray[np.float32]) -> str:
    """Return where in an image the patch with most attention is, in thirds, such as `upper left`."""
    row, column = np.unravel_index(int(map_YX.argmax()), map_YX.shape)
    vertical = ("upper", "middle", "lower")[int(3 * (row + 0.5) / map_YX.shape[0])]
    horizontal = ("left", "middle", "right")[int(3 * (column + 0.5) / map_YX.shape[1])]
    return vertical if vertical == horizontal else f"{vertical} {horizontal}"


def _shown(image: HarmedImage) -> str:
    """Return the text that represents an image: that of the answer that gains most, if it has one."""
    return image.queries[0].text or image.texts[0]


def _note(image: HarmedImage) -> str:
    """Return a line on the rank of an image's right answer without the head."""
    query = image.queries[0]
    before, alone, masked = map(rank_in_words, (query.rank.baseline, query.rank.head, query.rank.mask))
    text = f"{query.kind} rank {before} → {alone}, mask {masked}"
    if query.probability is None:
        return text
    return f"{text}; {KINDS[query.kind].symbol} {query.probability.baseline:.2f} → {query.probability.head:.2f}"


def _title(head: Head) -> str:
    return (
        f"{head}, on the images where it hurts most. Beside each, where its attention goes: dark blue none, yellow "
        "most. Rank and probability p of the right answer: as it is → with this head ablated; with the whole mask."
    )


def _alt(head: Head, images: Sequence[HarmedImage]) -> str:
    parts = [
        f"{number}: {_shown(each)}; most attention {each.looks_at}, {100 * each.on_patches:.0f} % on patches"
        for number, each in enumerate(images, 1)
    ]
    return (
        f"Attention of head {head} over the {counted(len(images), 'image')} on which it hurts most. "
        + ". ".join(parts)
        + "."
    )
