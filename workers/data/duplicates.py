"""Images whose pixels occur in several splits: a search refuses them, so a build reports, drops or moves them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from headmask.border.shown import shown
from headmask.errors import DataError
from workers.data.splits import SPLITS

Duplicates = Literal["fail", "drop", "move", "keep"]


@dataclass(frozen=True)
class Placed:
    """An image of a data set that is being built."""

    name: str
    digest: str
    """Digest of its pixels."""
    split: str
    pair: int | None = None

    def __str__(self) -> str:
        return f"{shown(self.name)} ({self.split})"


@dataclass(frozen=True)
class Settled:
    """What to do with images in several splits, by row."""

    dropped: frozenset[int] = frozenset()
    moved: tuple[tuple[int, str], ...] = ()
    """Rows with their new splits."""
    notes: tuple[str, ...] = ()
    """Descriptions of it for the user, with the names of files."""


def settle(images: Sequence[Placed], choice: Duplicates) -> Settled:
    """Return what to do with images that are in several splits.

    Args:
        images: row by row.
        choice: `drop` leaves each in the last of its splits, so that a published test split stays whole; `move` puts
            all into the first of their splits, so that no image is lost. Pairs stay whole. `keep` does nothing.

    Raises:
        DataError: with `fail`, there are some; all are named.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        rows_of[image.digest].append(row)
    across = [rows for rows in rows_of.values() if len({images[row].split for row in rows}) > 1]
    if not across or choice == "keep":
        return Settled()
    if choice == "fail":
        raise DataError(_refusal(images, across))
    pairs: dict[int, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        if image.pair is not None:
            pairs[image.pair].append(row)
    return _dropped(images, across, pairs) if choice == "drop" else _moved(images, across, pairs)


def _refusal(images: Sequence[Placed], across: list[list[int]]) -> str:
    listed = "".join("\n  " + " and ".join(str(images[row]) for row in rows) for rows in across)
    count = "1 image is" if len(across) == 1 else f"{len(across)} images are"
    return (
        f"{count} in several splits by their pixels, which a search refuses. Remove them, or pass --duplicates drop "
        f"(each stays in the last of its splits), move (all go to the first), or keep (for --draw-splits):{listed}"
    )


def _order(split: str) -> int:
    return SPLITS.index(split)


def _dropped(images: Sequence[Placed], across: list[list[int]], pairs: dict[int, list[int]]) -> Settled:
    reasons: dict[int, str] = {}
    for rows in across:
        kept = max(rows, key=lambda row: (_order(images[row].split), -row))
        for row in rows:
            if images[row].split != images[kept].split:
                reasons[row] = f"the same picture as {images[kept]}"
    for rows in pairs.values():
        gone = next((row for row in rows if row in reasons), None)
        if gone is not None:
            for row in rows:
                reasons.setdefault(row, f"of one pair with {images[gone]}")
    notes = tuple(f"dropped {images[row]}: {reasons[row]}" for row in sorted(reasons))
    return Settled(frozenset(reasons), (), notes)


def _moved(images: Sequence[Placed], across: list[list[int]], pairs: dict[int, list[int]]) -> Settled:
    moved: dict[int, str] = {}
    for rows in _joined([*across, *pairs.values()], len(images)):
        target = min((images[row].split for row in rows), key=_order)
        moved |= {row: target for row in rows if images[row].split != target}
    notes = tuple(f"moved {images[row]} to {moved[row]}, where the same picture is" for row in sorted(moved))
    return Settled(frozenset(), tuple(moved.items()), notes)


def _joined(groups: Iterable[Sequence[int]], count: int) -> list[list[int]]:
    """Return groups of rows, with groups that share a row merged."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for rows in groups:
        for row in rows[1:]:
            parent[root(row)] = root(rows[0])
    members: dict[int, list[int]] = defaultdict(list)
    for row in range(count):
        members[root(row)].append(row)
    return [rows for rows in members.values() if len(rows) > 1]
