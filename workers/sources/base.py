"""What a source of data is: images one after another, each with its captions or its label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from headmask.errors import DataError
from workers.dataset import Kind, read_inside

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))


@dataclass(frozen=True)
class BadRow:
    """An image, or a row of an annotation file, that cannot be used."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Item:
    """An image of a source, not read yet, with what belongs to it."""

    where: str
    """Names it in errors."""
    path: str
    """The name that it is stored under."""
    read: Callable[[], bytes]
    """Returns the encoded file; raises `DataError`."""
    captions: tuple[str, ...] = ()
    split: str | None = None
    """As the source calls it."""
    label: int | None = None
    group: str | None = None
    pair: int | None = None


class Source(ABC):
    """Images in an order that is always the same, so that a build that was stopped can go on."""

    kind: Kind
    split_names: frozenset[str] = frozenset()
    """The splits that the source knows, by its own names."""

    @abstractmethod
    def items(self) -> Iterator[Item | BadRow]:
        """Yield every image, or why it cannot be used."""

    @abstractmethod
    def identity(self) -> list[Any]:
        """Return what tells this source from another one, as JSON values."""

    @property
    def total(self) -> int | None:
        """Number of images, where it is known beforehand."""
        return None

    @property
    def num_unnamed(self) -> int:
        """Image files that lie there but that no annotation names."""
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
    """Where else than at its name the file may lie, in the folder of images."""


class FolderSource(Source):
    """Image files in a folder, as an annotation file names them.

    Args:
        images: the folder.
        annotations: the files that were read.
        entries: what they say, image by image.
        bad_rows: what in them cannot be used.
        kind: what the data is for.
        is_listed: the entries are all the images that lie there, so that none can be unnamed.
    """

    def __init__(
        self,
        images: Path,
        annotations: Sequence[Path],
        entries: Sequence[Entry],
        bad_rows: Sequence[BadRow] = (),
        kind: Kind | None = None,
        *,
        is_listed: bool = False,
    ) -> None:
        if not images.is_dir():
            raise DataError(f"there is no folder of images at {images}")
        self.images, self.annotations = images, annotations
        self._entries, self._bad_rows, self._is_listed = entries, bad_rows, is_listed
        self.kind = kind or Kind()
        self.split_names = frozenset(entry.split for entry in entries if entry.split is not None)

    @property
    def total(self) -> int:
        """Number of images that the annotations name."""
        return len(self._entries)

    @property
    def num_unnamed(self) -> int:
        """Image files in the folder that no annotation names."""
        if self._is_listed:
            return 0
        base = self.images.resolve()
        named = {(base / place).resolve() for entry in self._entries for place in (entry.name, *entry.places)}
        found = {path.resolve() for path in base.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES}
        return len(found - named)

    def items(self) -> Iterator[Item | BadRow]:
        """Yield the images in order of first appearance."""
        yield from self._bad_rows
        for entry in self._entries:
            yield Item(
                f"{entry.where} ({entry.name})",
                entry.name,
                partial(self._read, entry),
                tuple(entry.captions),
                entry.split,
                entry.label,
                entry.group,
                entry.pair,
            )

    def identity(self) -> list[Any]:
        """Return the files' places, sizes and times, and how many images they name."""
        return [str(self.images.resolve()), len(self._entries), *(stamp(path) for path in self.annotations)]

    def _read(self, entry: Entry) -> bytes:
        # The name alone is tried last, so that it is what an error names.
        for place in entry.places:
            if (self.images / place).is_file():
                return read_inside(self.images, place, f"{entry.where} ({entry.name})")
        return read_inside(self.images, entry.name, f"{entry.where} ({entry.name})")


def stamp(path: Path) -> list[Any]:
    """Return what changes when a file does."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def read_text(path: Path) -> str:
    """Return the text of a caption file.

    Raises:
        DataError: there is no such file, or it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"there is no caption file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None


def checked_captions(texts: Sequence[Any]) -> list[str]:
    """Return captions without the blanks around them.

    Raises:
        ValueError: there are none, or one is empty, no text, or has a null byte.
    """
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("the caption is missing or empty")
    if any("\0" in text for text in texts):
        raise ValueError("the caption has a null byte")
    return [text.strip() for text in texts]
