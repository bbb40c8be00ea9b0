"""What may and may not be compared between two masks, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from headmask.border.libraries import same_transform
from orchestrator.compare.entrant import Entrant
from orchestrator.compare.panel import SPLITS

Scores = Literal["paired", "unpaired", "no"]
"""Whether scores on a split may be compared: query by query, as values, or not at all."""

_WARNINGS = {
    "model": "{has} other weights: scores are another model's, so neither differences nor shared heads are given",
    "grid": "{has} another grid: heads are not the same ones, so no shared heads are given",
    "tower": "{ablates} heads of the other tower: scores may be compared, heads and layers may not",
    "task": "{has} another task: scores may not be compared",
    "objective": "{improves} another objective: no differences are given, and no rank",
    "guide": "{was} searched by another guide: final scores may be compared, and curves by the objective only",
    "ablation": "{has} another ablation: scores may be compared, but the same head ablated is another change",
    "precision": "{was} searched at another precision: confirm and test scores, float32 for all, may be compared; "
    "search scores and curves to a few tenths of a point only",
    "engine": "{was} scored by another revision of the engine: scores may differ in their last digits",
    "image_chunk": "{was} searched with another image chunk: search scores may differ in their last digits",
    "threads": "{was} searched with another number of threads: search scores may differ in their last digits",
    "preprocess": "{has} other preprocessing: the model sees other pixels",
}
_DATA = {
    "search": "{has} another search split: search scores and curves may not be compared",
    "confirm": "{has} another confirm split: no differences on confirm are given, and no rank",
    "test": "{has} another test split: no differences on test are given",
}
_UNKNOWN = (
    "{keeps} no digest of the data; the empty mask scores the same to the last digit on {splits}, so differences there "
    "are given without intervals"
)
_OTHER_BASELINE = "{keeps} no digest of the data, and the empty mask scores otherwise: no differences are given"
_DRIFT = (
    "{was} scored on another device or by other versions: the empty mask scores otherwise on the same data, and "
    "differences include that"
)
_VERBS = {"has": "have", "ablates": "ablate", "improves": "improve", "was": "were", "keeps": "keep"}


@dataclass(frozen=True)
class Relation:
    """What may be compared between an entrant and the reference."""

    scores: Mapping[str, Scores]
    """How scores may be compared, by split (confirm and test)."""
    same_heads: bool
    """Whether the same name means the same head in both."""
    warnings: tuple[str, ...] = field(default=())
    """Differences, as text; verbs are left open."""


def relate(reference: Entrant, entrant: Entrant) -> Relation:
    """Return how an entrant may be compared with the reference."""
    keys = {key for key in _WARNINGS if _differs(reference, entrant, key)}
    # Another objective says another task already.
    words = [_WARNINGS[key] for key in _WARNINGS if key in keys and not (key == "task" and "objective" in keys)]
    known = bool(reference.digests and entrant.digests)
    same = [split for split in SPLITS if _same_baseline(reference, entrant, split)]
    if known:
        words += [text for split, text in _DATA.items() if reference.digests[split] != entrant.digests[split]]
    scores: dict[str, Scores] = dict.fromkeys(SPLITS, "no")
    if not {"model", "objective", "task"} & keys and reference.scores and entrant.scores:
        if known:
            kept = [split for split in SPLITS if reference.digests[split] == entrant.digests[split]]
            scores |= dict.fromkeys(kept, "paired" if reference.queries and entrant.queries else "unpaired")
            words += [] if set(kept) <= set(same) else [_DRIFT]
        else:
            scores |= dict.fromkeys(same, "unpaired")
            words.append(_UNKNOWN.replace("{splits}", " and ".join(same)) if same else _OTHER_BASELINE)
    return Relation(scores, not {"model", "grid", "tower"} & keys, tuple(words))


def share_test(one: Entrant, other: Entrant) -> bool:
    """Return whether two were tested on the same data, or on several data sets that have one in common.

    If the digests of one are not known, the score of the empty mask is used as far as possible.
    """
    if one is other:
        return True
    if one.digests and other.digests:
        return not set(one.digests["test"]).isdisjoint(other.digests["test"])
    return _same_baseline(one, other, "test")


def sentences(letters: Sequence[str], relations: Sequence[Relation], reference: int) -> list[str]:
    """Return every warning once, with the letters of the runs that it is about.

    Args:
        letters: letters of all entrants.
        relations: of each to the reference.
        reference: its place.
    """
    about: dict[str, list[str]] = {}
    for place, (letter, relation) in enumerate(zip(letters, relations, strict=True)):
        for text in relation.warnings if place != reference else ():
            about.setdefault(text, []).append(letter)
    return [
        f"Against {letters[reference]}: {_joined(names)} {_conjugated(text, len(names))}."
        for text, names in about.items()
    ]


def _conjugated(text: str, count: int) -> str:
    for one, several in _VERBS.items():
        text = text.replace(f"{{{one}}}", one if count == 1 else several)
    return text


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _differs(one: Entrant, other: Entrant, key: str) -> bool:
    if key not in one.about or key not in other.about:
        return False
    sides = one.about[key], other.about[key]
    return not same_transform(*map(str, sides)) if key == "preprocess" else sides[0] != sides[1]


def _same_baseline(one: Entrant, other: Entrant, split: str) -> bool:
    """Return whether the empty mask scores the same on a split, so that it is most likely the same data."""
    sides = one.scores.get(split), other.scores.get(split)
    return None not in sides and bool(sides[0].baseline) and sides[0].baseline == sides[1].baseline  # type: ignore[union-attr]
