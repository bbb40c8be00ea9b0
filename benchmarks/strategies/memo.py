"""Values of masks, kept on disk between runs and shared by processes."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Container, Sequence
from contextlib import closing
from pathlib import Path

from headmask.mask import Head, HeadMask

WAIT_S = 120.0
"""How long a process waits for others that write."""


class Memo:
    """A file of values by mask.

    Args:
        path: of the file, made where there is none; its name must tell all that decides a value.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with closing(self._connect()) as file, file:
            file.execute("CREATE TABLE IF NOT EXISTS kept (mask TEXT PRIMARY KEY, value REAL) WITHOUT ROWID")

    def values(
        self, masks: Sequence[HeadMask], compute: Callable[[Sequence[HeadMask]], Sequence[float]]
    ) -> list[float]:
        """Return the values of masks, in their order; those that are not kept are computed together, and kept."""
        with closing(self._connect()) as file:
            known = {mask: found for mask in set(masks) if (found := self._find(file, mask)) is not None}
            missing = [mask for mask in dict.fromkeys(masks) if mask not in known]
            if missing:
                known |= zip(missing, compute(missing), strict=True)
                with file:
                    rows = [(str(mask), known[mask]) for mask in missing]
                    file.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?)", rows)
        return [known[mask] for mask in masks]

    def best(self, heads: Container[Head]) -> float:
        """Return the largest value that is kept of a mask of these heads; NaN where there is none."""
        with closing(self._connect()) as file:
            for text, value in file.execute("SELECT mask, value FROM kept WHERE value IS NOT NULL ORDER BY value DESC"):
                if all(Head.parse(part) in heads for part in text.split(",") if part):
                    return float(value)
        return math.nan

    def _find(self, file: sqlite3.Connection, mask: HeadMask) -> float | None:
        row = file.execute("SELECT value FROM kept WHERE mask = ?", (str(mask),)).fetchone()
        # SQLite keeps NaN, a mask without a value, as NULL.
        return None if row is None else math.nan if row[0] is None else float(row[0])

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=WAIT_S)
