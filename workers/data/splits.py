"""Which image belongs to which split: by a column, by a source's own splits, or drawn from seed and image."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from headmask.border.shown import shown
from headmask.errors import DataError

SPLITS = ("search", "confirm", "test")
FRACTIONS = (0.4, 0.2, 0.4)
USUAL = MappingProxyType(
    {
        **dict.fromkeys(("search", "train", "training", "restval"), "search"),
        **dict.fromkeys(("confirm", "val", "valid", "validation", "dev"), "confirm"),
        **dict.fromkeys(("test", "testing"), "test"),
    }
)
"""Usual names of splits in sources."""
SEARCH_SHARE = 2 / 3
"""Share of a source's split that becomes search, if the split becomes both search and confirm."""


@dataclass(frozen=True)
class SplitMap:
    """Which splits of a source become search, confirm and test; by default by their usual names."""

    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """headmask's splits by the source's; splits that are not listed are left out."""
    is_open: bool = False
    """Whether the splits are drawn when the data is searched."""
    only: str | None = None
    """The source's only split, if the splits are to be drawn."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the map written as `search=train+restval,confirm=val,test=test`.

        Raises:
            DataError: the text has another form, or names a split other than these three.
        """
        sources: dict[str, tuple[str, ...]] = {}
        for part in text.split(","):
            target, equals, names = part.strip().partition("=")
            if target not in SPLITS or not equals or not names.strip("+ "):
                raise DataError(
                    f"--splits must be like search=train+restval,confirm=val,test=test with {', '.join(SPLITS)} on the "
                    f"left; got '{shown(text)}'"
                )
            for name in (name.strip() for name in names.split("+")):
                if not name or target in sources.get(name, ()):
                    what = f"has split '{shown(name)}' twice" if name else "names a split without a name"
                    raise DataError(f"--splits {what} for {target}; got '{shown(text)}'")
                sources[name] = (*sources.get(name, ()), target)
        return cls(sources)

    def __str__(self) -> str:
        return "drawn" if self.is_open else ",".join(f"{'+'.join(to)}={name}" for name, to in self.sources.items())

    def fitted(self, names: Collection[str]) -> SplitMap:
        """Return the map for a source with the given splits.

        If a source has only one split, the three are drawn when the data is searched.

        Raises:
            DataError: a named split is missing in the source, or a split has no usual name.
        """
        listed = shown(", ".join(sorted(names)))[:300] or "none"
        if self.sources:
            missing = [name for name in self.sources if name not in names]
            if missing:
                raise DataError(f"--splits names {shown(', '.join(missing))}; the source's splits are {listed}")
            return self
        if len(names) < 2:
            return SplitMap(is_open=True, only=next(iter(names), None))
        strange = [name for name in sorted(names) if name.lower() not in USUAL]
        if strange:
            raise DataError(
                f"the source's splits are {listed}; say which become which with --splits, such as "
                f"search={shown(strange[0])},confirm=...,test=..."
            )
        return SplitMap({name: (USUAL[name.lower()],) for name in sorted(names)})

    def leaves_out(self, name: str | None) -> bool:
        """Return whether images of a source's split are left out."""
        return not self.is_open and name is not None and name not in self.sources

    def target(self, name: str | None, key: bytes) -> str | None:
        """Return the split of an image from the source's split; None if it will be drawn.

        If a split becomes several, the image's content decides, so that identical images stay together.

        Raises:
            DataError: the image has no split, though others have.
        """
        if name is None and (self.only is not None or not self.is_open):
            others = "others have" if self.only is None else f"others are of split {shown(self.only)}"
            raise DataError(f"it has no split, though {others}; name the split of all images, or of none")
        if self.is_open or name is None:
            return None
        targets = self.sources[name]
        if len(targets) == 1:
            return targets[0]
        place = int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64
        if set(targets) == {"search", "confirm"}:
            return "search" if place < SEARCH_SHARE else "confirm"
        return targets[int(place * len(targets))]


def given_splits(
    splits: Sequence[str | None],
    digests: Sequence[str],
    *,
    advice: str = "",
    name_of: Callable[[int], str] = lambda row: f"row {row}",
    rule: str = "stock",
) -> dict[str, NDArray[np.int64]]:
    """Return the rows of every split as given by a column.

    Args:
        splits: split of every row.
        digests: digest of every row's pixels.
        advice: another way out for the user, such as `, or draw the splits with --draw-splits`.
        name_of: returns the name of a row in errors.
        rule: the pixel rule of the digests.

    Raises:
        DataError: other values than search, confirm and test, an empty split, or identical pixels in two splits.
    """
    others = sorted({str(split) for split in splits if split not in SPLITS})
    if others:
        raise DataError(
            f"the split column must hold {', '.join(SPLITS)}; it holds {shown(', '.join(others[:5]))}. "
            f"Rename them with `headmask data build --from parquet --splits`{advice}"
        )
    first_row: dict[str, int] = {}
    for row, digest in enumerate(digests):
        other = first_row.setdefault(digest, row)
        if splits[other] != splits[row]:
            raise DataError(
                f"identical pixels may not be in two splits: {name_of(other)} is in {splits[other]}, {name_of(row)} in "
                f"{splits[row]}. Remove one, with `headmask data build --from parquet --duplicates drop"
                f"{'' if rule == 'stock' else f' --pixels {rule}'}`{advice}"
            )
    rows = {name: np.flatnonzero([split == name for split in splits]) for name in SPLITS}
    return _none_empty(rows)


def drawn_splits(
    digests: Sequence[str], seed: int, fractions: Sequence[float] = FRACTIONS
) -> dict[str, NDArray[np.int64]]:
    """Return the rows of every split, drawn from a seed over distinct digests: rows with the same digest stay together.

    An image's place depends on the seed and the set of images, not on their order.

    Raises:
        DataError: a split would be empty.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        rows_of[digest].append(row)
    distinct = sorted(rows_of)
    order = np.random.default_rng(seed).permutation(len(distinct))
    ends = np.round(np.cumsum(fractions) * len(distinct)).astype(int)
    rows = {}
    for name, start, end in zip(SPLITS, [0, *ends[:-1]], ends, strict=True):
        chosen = [row for index in order[start:end] for row in rows_of[distinct[index]]]
        rows[name] = np.array(sorted(chosen), dtype=np.int64)
    return _none_empty(rows)


def _none_empty(rows: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    for name, chosen in rows.items():
        if not len(chosen):
            raise DataError(f"split {name} has no images; every split needs some")
    return rows
