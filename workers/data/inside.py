"""Files in a folder, found by names from other files: a name is stored as given, and resolved only for reading.

Names come from macOS in Unicode's decomposed form, from Windows with backslashes, from old archives in Latin-1. Links
are followed wherever they lead, because someone put them into the folder on purpose. Names that lead out of the folder
are refused, because they come from files that others made.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from headmask.border.reading import read_bytes
from headmask.border.shown import shown
from headmask.errors import DataError


def readable(name: str) -> str:
    """Return the name of a file as text that can be stored: a name that is not UTF-8 is read as Latin-1."""
    for errors in ("strict", "surrogateescape"):
        try:
            content = name.encode("utf-8", errors)
        except UnicodeEncodeError:
            continue
        return name if errors == "strict" else content.decode("latin-1")
    # No file has such a name.
    return name.encode("utf-8", "replace").decode()


def name_key(name: str) -> str:
    """Return a key that is the same for all spellings of a file's name."""
    return unicodedata.normalize("NFC", os.path.normpath(readable(name).replace("\\", "/")))


def read_inside(folder: Path, name: str, where: str) -> bytes:
    """Return a file's content by its path relative to a folder.

    Raises:
        DataError: the path leads out of the folder, or the file cannot be read.
    """
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        inner = _inner(folder, spelling)
        if inner is None:
            raise DataError(f"{where}: path '{shown(name)}' leads out of {shown(folder)}")
        found = _found(folder, inner)
        if found is not None:
            try:
                return read_bytes(found, "image", DataError)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
    hint = "; name images relative to the folder" if re.match(r"[A-Za-z]:[\\/]|/", name) else ""
    raise DataError(f"{where}: there is no image '{shown(name)}' in {shown(folder)}{hint}")


def _inner(folder: Path, name: str) -> str | None:
    """Return a name relative to a folder, in its simplest form and ignoring links; None if it leads out."""
    if not os.path.isabs(name):
        inner = os.path.normpath(name)
        return None if inner.split("/")[0] == ".." else inner
    for base in (folder.absolute(), folder.resolve()):
        inner = os.path.relpath(name, base)
        if inner.split("/")[0] != "..":
            return inner
    return None


def _found(folder: Path, inner: str) -> Path | None:
    """Return the path of a file, spelled as it is on disk; None if there is no such file."""
    place = folder
    for part in inner.split("/"):
        spelled = next((each for each in _spellings(part) if os.path.lexists(place / each)), None)
        if spelled is None:
            return None
        place = place / spelled
    return place


def _spellings(part: str) -> Iterator[str]:
    yield part
    for form in ("NFC", "NFD"):
        yield unicodedata.normalize(form, part)
    try:
        yield os.fsdecode(part.encode("latin-1"))
        yield os.fsdecode(unicodedata.normalize("NFC", part).encode("latin-1"))
    except UnicodeEncodeError:
        return
