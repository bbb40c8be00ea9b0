"""The contents of a folder: files by name, links followed, and a count of what is skipped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from headmask.border.shown import shown
from headmask.errors import DataError
from workers.data.inside import readable

_UNREADABLE = frozenset(("BUFR", "GRIB", "HDF5", "MPEG", "WMF"))
"""Formats that Pillow recognises but cannot decode."""


@cache
def image_endings() -> frozenset[str]:
    """Return the endings of all image formats that this Pillow reads, in lower case, with the dot."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions().items()
    # MPO, of cameras with two lenses, is opened as JPEG.
    return frozenset(
        ending for ending, name in known if (name in Image.OPEN or name == "MPO") and name not in _UNREADABLE
    )


def is_image(name: str) -> bool:
    """Return whether a file's name has the ending of an image."""
    return ending_of(name) in image_endings()


def ending_of(name: str) -> str:
    """Return the ending of a file's name in lower case; a description if it has none."""
    return os.path.splitext(name)[1].lower() or "without ending"


def is_hidden(name: str) -> bool:
    """Return whether a name is one that systems leave behind: `.DS_Store`, `._photo.jpg`, `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


@dataclass
class Aside:
    """What was skipped, and how often."""

    ignored: Counter[str] = field(default_factory=Counter)
    """Files of other kinds, by ending."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Everything else, with a description in the singular."""


Identity = tuple[int, int]
"""Device and inode."""


def identity_of(folder: Path) -> Identity:
    """Return a value that is the same for all names of a folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def folders_in(folder: Path, aside: Aside, above: frozenset[Identity] = frozenset()) -> list[Path]:
    """Return the folders in a folder by name, including links to folders; files are not counted.

    Args:
        folder: where to look.
        aside: counts what is skipped.
        above: folders that a link must not lead back to.

    Raises:
        DataError: the folder cannot be read, or it contains a broken link, which may have led to a folder.
    """
    found = []
    for entry in _listed(folder):
        if not os.path.isdir(entry):
            if is_broken(entry) and not is_image(entry.name):
                raise DataError(f"{shown(readable(entry.path))} is a link that leads nowhere; fix or remove it")
            continue
        if is_hidden(entry.name):
            aside.skipped["hidden folder"] += 1
        elif identity_of(Path(entry)) in above:
            aside.skipped["circular link"] += 1
        else:
            found.append(Path(entry))
    return found


def is_broken(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is a broken link."""
    return entry.is_symlink() and not os.path.exists(entry)


def files_below(folder: Path, aside: Aside, above: frozenset[Identity] = frozenset()) -> Iterator[Path]:
    """Yield all files in a folder and below it, in order of their names; links are followed, but not in circles."""
    inside = above | {identity_of(folder)}
    for entry in _listed(folder):
        path = Path(entry)
        if is_hidden(entry.name):
            aside.skipped["hidden file"] += 1
        elif is_broken(entry) and not is_image(entry.name):
            aside.skipped["broken link"] += 1
        elif not os.path.isdir(path):
            yield path
        elif identity_of(path) in inside:
            aside.skipped["circular link"] += 1
        else:
            yield from files_below(path, aside, inside)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read folder {shown(folder)}: {error.strerror or error}") from None
