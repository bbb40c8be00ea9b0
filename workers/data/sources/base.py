"""The interface of a data source: images one after another, each with its captions or its label."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from headmask.border.reading import check_text
from headmask.border.shown import shown
from headmask.errors import DataError
from workers.data.dataset import Kind
from workers.data.inside import name_key, read_inside, readable
from workers.data.sources.walk import Aside, files_below, is_image


@dataclass(frozen=True)
class BadRow:
    """An image, or a row of an annotation file, that cannot be used."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Item:
    """An image of a source, not read yet, with everything that belongs to it."""

    where: str
    """Name of the image in errors."""
    path: str
    """Name that the image is stored under."""
    read: Callable[[], bytes]
    """Returns the encoded file; raises `DataError`."""
    captions: tuple[str, ...] = ()
    split: str | None = None
    """Split, by the source's own name."""
    label: int | None = None
    group: str | None = None
    pair: int | None = None


class Source(ABC):
    """Images in an order that is always the same, so that an interrupted build can continue."""

    kind: Kind
    split_names: frozenset[str] = frozenset()
    """The splits that the source knows, by its own names."""

    def __init__(self) -> None:
        self.aside = Aside()
        """What has been skipped so far."""

    @abstractmethod
    def items(self) -> Iterator[Item | BadRow]:
        """Yield every image, or the reason why it cannot be used."""

    @abstractmethod
    def identity(self) -> list[Any]:
        """Return values that identify this source, in JSON types."""

    @property
    def total(self) -> int | None:
        """Number of images, if it is known beforehand."""
        return None

    @property
    def files(self) -> list[Path]:
        """Files on this machine that the source reads besides images, such as tables."""
        return []

    @property
    def is_remote(self) -> bool:
        """Whether the images are remote, so that a failed read may succeed later."""
        return False

    @property
    def num_unnamed(self) -> int:
        """Number of image files that no annotation names."""
        return 0


@dataclass
class Entry:
    """An image that an annotation file names."""

    where: str
    name: str
    captions: list[str] = field(default_factory=list)
    split: str | None = None
    label: int | None = None
    group: str | None = None
    pair: int | None = None
    places: tuple[str, ...] = ()
    """Other places for the file in the folder of images."""

    @property
    def named(self) -> str:
        """The location of the item with its name, for errors."""
        return f"{self.where} ({shown(readable(self.name))})"


class FolderSource(Source):
    """Image files in a folder, with the contents of annotation files.

    Args:
        images: the folder.
        annotations: the annotation files that were read.
        entries: their contents, image by image.
        bad_rows: their rows that cannot be used.
        kind: the task of the data.
        aside: what was skipped in the folder, if the entries are all its images.
    """

    def __init__(
        self,
        images: Path,
        annotations: Sequence[Path],
        entries: Sequence[Entry],
        bad_rows: Sequence[BadRow] = (),
        kind: Kind | None = None,
        *,
        aside: Aside | None = None,
    ) -> None:
        super().__init__()
        check_folder(images)
        self.images, self.annotations = images, annotations
        self._entries, self._bad_rows, self._is_listed = entries, bad_rows, aside is not None
        self.aside = aside or self.aside
        self.kind = kind or Kind()
        self.split_names = frozenset(entry.split for entry in entries if entry.split is not None)

    @property
    def total(self) -> int:
        """Number of images that the annotations name."""
        return len(self._entries)

    @property
    def files(self) -> list[Path]:
        """The annotation files."""
        return [path for path in self.annotations if path.is_file()]

    @property
    def num_unnamed(self) -> int:
        """Number of image files in the folder that no annotation names."""
        if self._is_listed:
            return 0
        names = {name_key(place) for entry in self._entries for place in (entry.name, *entry.places)}
        roots = [f"{name_key(str(base))}/" for base in (self.images.absolute(), self.images.resolve())]
        named = {name.removeprefix(roots[0]).removeprefix(roots[1]) for name in names}
        found = (
            str(path.relative_to(self.images)) for path in files_below(self.images, self.aside) if is_image(path.name)
        )
        return sum(name_key(name) not in named for name in found)

    def items(self) -> Iterator[Item | BadRow]:
        """Yield the images in order of first appearance."""
        yield from self._bad_rows
        for entry in self._entries:
            yield Item(
                entry.named,
                readable(entry.name),
                partial(self._read, entry),
                tuple(entry.captions),
                entry.split,
                entry.label,
                entry.group,
                entry.pair,
            )

    def identity(self) -> list[Any]:
        """Return the files' paths, sizes and times, and a digest of their contents."""
        digest = hashlib.sha256()
        for entry in self._entries:
            digest.update(ascii(entry).encode())
        return [str(self.images.absolute()), digest.hexdigest(), *(stamp(path) for path in self.annotations)]

    def _read(self, entry: Entry) -> bytes:
        # The name alone is tried last, so that it is what an error names.
        for place in entry.places:
            if os.path.lexists(self.images / place):
                return read_inside(self.images, place, entry.named)
        return read_inside(self.images, entry.name, entry.named)


def check_folder(images: Path) -> None:
    """Check that a folder exists.

    Raises:
        DataError: there is no such folder.
    """
    if not os.path.isdir(images):
        what = "; it is a file" if os.path.lexists(images) and not os.path.islink(images) else ""
        raise DataError(f"there is no folder of images at '{shown(images)}'{what}")


def stamp(path: Path) -> list[Any]:
    """Return a value that changes when a file does."""
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def checked_captions(texts: Sequence[Any]) -> list[str]:
    """Return captions without surrounding blanks.

    Raises:
        ValueError: there are none, or one is empty, not text, or cannot be stored.
    """
    if not texts or any(text is None or (isinstance(text, str) and not text.strip()) for text in texts):
        raise ValueError("the caption is missing or empty")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"a caption is a text; got {shown(repr(text)[:60])}")
        if why := check_text(text):
            raise ValueError(f"the caption cannot be used: {why}")
    return [text.strip() for text in texts]


def checked_name(value: Any, what: str = "image") -> str:
    """Return the name of an image or a split, without surrounding blanks.

    Raises:
        ValueError: there is none, or it is not a text that names anything.
    """
    if value is None or value == "":
        raise ValueError(f"no {what} is named")
    if not isinstance(value, str):
        raise ValueError(f"the name of the {what} is a text; got {shown(repr(value)[:60])}")
    if why := check_text(value):
        raise ValueError(f"the name of the {what} cannot be used: {why}")
    if not value.strip():
        raise ValueError(f"no {what} is named")
    return value.strip()
