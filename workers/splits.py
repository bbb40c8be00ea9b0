"""Which image belongs to which split: by a column, or drawn by seed and image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headmask.errors import DataError

SPLITS = ("search", "confirm", "test")
FRACTIONS = (0.4, 0.2, 0.4)


def given_splits(splits: Sequence[str | None], digests: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return the rows of every split as a column gives them.

    Raises:
        DataError: other values than search, confirm and test, an empty split, or identical pixels in two splits.
    """
    others = sorted({str(split) for split in splits if split not in SPLITS})
    if others:
        raise DataError(
            f"the split column must hold {', '.join(SPLITS)}; it holds {', '.join(others[:5])}. "
            "Rename them, or draw the splits with --draw-splits"
        )
    first_row: dict[str, int] = {}
    for row, digest in enumerate(digests):
        other = first_row.setdefault(digest, row)
        if splits[other] != splits[row]:
            raise DataError(
                f"identical pixels may not be in two splits: row {other} is in {splits[other]}, row {row} in "
                f"{splits[row]}. Remove one, or draw the splits with --draw-splits"
            )
    rows = {name: np.flatnonzero([split == name for split in splits]) for name in SPLITS}
    return _none_empty(rows)


def drawn_splits(
    digests: Sequence[str], seed: int, fractions: Sequence[float] = FRACTIONS
) -> dict[str, NDArray[np.int64]]:
    """Return the rows of every split, drawn by seed over distinct images: identical pixels stay together.

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
