"""Arrays that a search keeps for resuming: a folder of the cache, with a file for each row.

A file is written under another name and then renamed, so a row exists as a whole or not at all. The archive's own
checksums find damage; a damaged row counts as missing.
"""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = tuple[NDArray[Any], ...]

_log = logging.getLogger(__name__)


class RowFiles:
    """Rows of arrays, by name.

    Args:
        folder: folder of the cache. what: what the arrays are, for warnings.
        loss: what a search without them has to repeat.
    """

    def __init__(self, folder: Path, *, what: str, loss: str) -> None:
        self._folder: Path | None = folder
        self._what, self._loss = what, loss

    def read(self, name: str, shapes: tuple[tuple[int, ...], ...]) -> Row | None:
        """Return a row of arrays of given shapes; None if there is none."""
        if self._folder is None or not (path := self._folder / f"{name}.npz").exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                row: Row = tuple(content[each] for each in content.files)
            if tuple(array.shape for array in row) != shapes:
                raise ValueError("another shape")
            return row
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("%s %s are damaged (%s) and are made again", self._what, path, error)
            return None

    def keep(self, name: str, row: Row) -> None:
        """Write a row if possible; after a failure, no more are written."""
        if self._folder is None:
            return
        path = self._folder / f"{name}.npz"
        temporary = path.with_suffix(f".{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as sink:
                np.savez(sink, *row)
            temporary.replace(path)
        except OSError as error:
            _log.warning("%s cannot be kept in %s (%s): %s", self._what, self._folder, error, self._loss)
            self._folder = None
