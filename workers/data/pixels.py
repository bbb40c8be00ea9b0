"""The images of a data set, decoded once to uint8 and memory-mapped by every process that needs them.

The cache is a NumPy file of pixels and a JSON file about it. Its name is the digest of the encoded images and the
preprocessing with its pixel rule; a checksum finds damage, and a damaged or half-written cache is made again. All
processes of a host map the same file, so they share one copy; other hosts get it in pieces and keep their own cache.
Every process that maps a file verifies the checksum, once when it maps it and again when a search ends.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
from filelock import FileLock
from numpy.typing import NDArray

from headmask.border.home import cache_folder
from headmask.errors import DataError, PixelsChangedError, PixelsGoneError
from headmask.pixels.images import quiet_pillow
from workers.data.ahead import ahead
from workers.data.dataset import Dataset
from workers.data.preprocess import Look, UInt8Preprocess, look

# N images, Y by X pixels

FORMAT = "headmask-pixels/3"
PIECE_BYTES = 1 << 28
_READ_BYTES = 1 << 24
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheFile:
    """A file of pixels as processes find it: at its path, in their host's cache, or in pieces in Ray's object store."""

    path: Path
    checksum: str
    """SHA-256 of the pixels."""
    pieces: tuple[Any, ...] = ()
    """Object references; empty if every process is on the host of the file."""

    def array(self, fetch: Callable[[Any], NDArray[np.uint8]] | None = None) -> NDArray[np.uint8]:
        """Return the pixels (N, 3, Y, X), memory-mapped, after one pass that verifies their checksum.

        Args:
            fetch: returns the bytes of a piece.

        Raises:
            PixelsGoneError: the file is not on this host, and there are no pieces.
            PixelsChangedError: the file has other pixels, and there are no pieces.
        """
        own = cache_folder() / self.path.name
        there = [path for path in dict.fromkeys((self.path, own)) if path.exists()]
        for path in there:
            if (found := self._as_it_was(path)) is not None:
                return found
        if self.pieces and fetch is not None:
            own.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(own.with_suffix(".lock")):
                found = self._as_it_was(own) if own.exists() else None
                if found is None:
                    self._write(own, fetch)
                    found = self._as_it_was(own)
            if found is not None:
                return found
            there.append(own)
        raise self._changed(there[-1]) if there else self._gone()

    def check(self, mapped_NCYX: NDArray[np.uint8]) -> None:
        """Verify the checksum of what was mapped once more.

        Raises:
            PixelsChangedError: it has changed since.
        """
        path = Path(getattr(mapped_NCYX, "filename", None) or self.path)
        # Pages that a shorter file no longer has cannot be read at all.
        is_shorter = path.exists() and path.stat().st_size < mapped_NCYX.nbytes
        if is_shorter or pixel_checksum(mapped_NCYX) != self.checksum:
            raise self._changed(path)

    def _as_it_was(self, path: Path) -> NDArray[np.uint8] | None:
        """Return the pixels of a file; None if they do not have the recorded checksum."""
        try:
            mapped_NCYX = _mapped(path)
            return mapped_NCYX if pixel_checksum(mapped_NCYX) == self.checksum else None
        # NumPy raises many kinds on a file that is cut off or overwritten.
        except (OSError, ValueError, TypeError, EOFError):
            return None

    def _changed(self, path: Path) -> PixelsChangedError:
        return PixelsChangedError(
            f"the pixel cache {path} changed after it was made: its checksum is another. Masks that were scored since "
            "may have wrong scores; search again with another --out, which makes the cache anew. If nobody writes "
            "there, check the disk"
        )

    def _gone(self) -> PixelsGoneError:
        return PixelsGoneError(
            f"the pixel cache {self.path} is not on this host: it was removed, or the search began without --address. "
            "Starting again makes it anew"
        )

    def in_pieces(self, put: Callable[[NDArray[np.uint8]], Any]) -> CacheFile:
        """Return the same file with its content stored where other hosts find it.

        Args:
            put: stores a piece, and returns the reference for fetching it.
        """
        with self.path.open("rb") as file:
            pieces = tuple(put(np.frombuffer(part, np.uint8)) for part in _parts(file, PIECE_BYTES))
        return replace(self, pieces=pieces)

    def _write(self, path: Path, fetch: Callable[[Any], NDArray[np.uint8]]) -> None:
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            for piece in self.pieces:
                fetch(piece).tofile(file)
        temporary.replace(path)


@dataclass(frozen=True)
class Pixels:
    """Some images of a cache, in the order of `rows_N`; only images that are asked for are read."""

    cache_NCYX: NDArray[np.uint8]
    rows_N: NDArray[np.int64]
    file: CacheFile | None = None
    """Location of the cache, if it is a file."""

    def __len__(self) -> int:
        return len(self.rows_N)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images, given a slice or their indices, as uint8 (n, 3, Y, X)."""
        gathered: NDArray[np.uint8] = self.cache_NCYX[self.rows_N[part]]
        return gathered

    def check(self) -> None:
        """Verify the file's checksum of what was mapped once more.

        Raises:
            PixelsChangedError: it has changed since.
        """
        if self.file is not None:
            self.file.check(self.cache_NCYX)

    @property
    def nbytes(self) -> int:
        """Size of the images in bytes."""
        return len(self) * int(np.prod(self.cache_NCYX.shape[1:]))

    def part(self, part: slice) -> Pixels:
        """Return a consecutive part of the images."""
        return replace(self, rows_N=self.rows_N[part])

    def packed(self) -> PackedPixels:
        """Return the images in a form that travels: as the location of their file, or as a separate array."""
        if self.file is None:
            return PackedPixels(np.arange(len(self)), pixels_NCYX=self[:])
        return PackedPixels(self.rows_N, self.file)


def check_all(inputs: Iterable[Any]) -> None:
    """Check the files of pixels among inputs, each once.

    Raises:
        PixelsChangedError: one has changed since it was mapped.
    """
    for pixels in {id(each.cache_NCYX): each for each in inputs if isinstance(each, Pixels)}.values():
        pixels.check()


@dataclass(frozen=True)
class PackedPixels:
    """Images on their way to another process: the location of their cache, or the images themselves without one."""

    rows_N: NDArray[np.int64]
    file: CacheFile | None = None
    pixels_NCYX: NDArray[np.uint8] | None = None

    def unpack(self, fetch: Callable[[Any], NDArray[np.uint8]] | None = None) -> Pixels:
        """Return the images, memory-mapped if they are in a file.

        Raises:
            DataError: they are not available on this host.
        """
        if self.pixels_NCYX is not None:
            return Pixels(self.pixels_NCYX, self.rows_N)
        if self.file is None:
            raise ValueError("packed pixels are in a file or in an array")
        return Pixels(self.file.array(fetch), self.rows_N, self.file)


@dataclass(frozen=True)
class Remarks:
    """Images that a user should know about, by row."""

    differing: frozenset[int] = frozenset()
    """Images for which the two pixel rules give different pixels."""
    constant: frozenset[int] = frozenset()
    """Images of almost one colour."""
    clipped: frozenset[int] = frozenset()
    """Images whose values are cut off."""

    def of(self, rows: Iterable[int]) -> Remarks:
        """Return the remarks on some rows."""
        chosen = frozenset(rows)
        return Remarks(self.differing & chosen, self.constant & chosen, self.clipped & chosen)


@dataclass(frozen=True)
class PixelCache:
    """All decoded images of a data set."""

    pixels_NCYX: NDArray[np.uint8]
    """Memory-mapped, read-only."""
    digests: tuple[str, ...]
    """SHA-256 of every image's decoded pixels at full size, so the same for any preprocessing and file format."""
    file: CacheFile
    sources: tuple[str, ...] = ()
    """Digests of everything that decides the pixels, see `workers.data.preprocess.Look`."""
    remarks: Remarks = field(default_factory=lambda: Remarks())

    def rows(self, rows_N: Sequence[int] | NDArray[np.int64]) -> Pixels:
        """Return some of the images."""
        return Pixels(self.pixels_NCYX, np.asarray(rows_N, dtype=np.int64), self.file)


def load_pixels(
    dataset: Dataset,
    preprocess: UInt8Preprocess,
    *,
    folder: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PixelCache:
    """Return the decoded images of a data set, from the cache or decoded now.

    Raises:
        DataError: an image cannot be decoded; the message names its row.
    """
    folder, key, shape = folder or cache_folder(), _key(dataset, preprocess), (len(dataset), *preprocess.shape)
    path = folder / f"{key}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            cache = _open(path, shape)
            if cache is None:
                _build(path, dataset, preprocess, on_progress)
                cache = _open(path, shape)
    except OSError as error:
        needed_gib = np.prod(shape, dtype=float) / 2**30
        raise DataError(
            f"cannot write the pixel cache in {folder} ({error.strerror or error}): it takes {needed_gib:.1f} GiB; "
            "free them, or name another folder in HEADMASK_CACHE"
        ) from None
    if cache is None:
        raise DataError(f"the pixel cache {path} was damaged while it was written; is the disk sound?")
    return cache


def _key(dataset: Dataset, preprocess: UInt8Preprocess) -> str:
    digest = hashlib.sha256(f"{FORMAT}|{preprocess.rule}|{preprocess.description}|Pillow {PIL.__version__}".encode())
    for content in dataset.images():
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


def _open(path: Path, shape: tuple[int, ...]) -> PixelCache | None:
    """Return the cache at a path, or None if there is no intact one."""
    about = path.with_suffix(".json")
    if not path.exists() and not about.exists():
        return None
    try:
        content = json.loads(about.read_text())
        pixels_NCYX = _mapped(path)
        if pixels_NCYX.shape != shape or not _is_whole(content, shape[0], pixel_checksum(pixels_NCYX)):
            raise ValueError("checksum mismatch")
        remarks = Remarks(*(frozenset(content[name]) for name in _REMARKS))
        file = CacheFile(path.resolve(), content["pixels"])
        return PixelCache(pixels_NCYX, tuple(content["digests"]), file, tuple(content["sources"]), remarks)
    # NumPy raises many kinds on a file that is cut off or overwritten; whatever the damage, it is made again.
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        _log.warning("pixel cache %s is damaged (%s) and is made again", path, error)
        return None


def _mapped(path: Path) -> NDArray[np.uint8]:
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _build(path: Path, dataset: Dataset, preprocess: UInt8Preprocess, on_progress: Callable[[int, int], None]) -> None:
    """Write the images one after another, so that memory stays bounded; the file that marks it complete comes last."""
    count, looks = len(dataset), []
    scratch = path.with_suffix(".part")
    # What a process left that was killed here; the lock is ours.
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        checksum = hashlib.sha256()
        with (scratch / "pixels").open("wb") as file, quiet_pillow():
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *preprocess.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for pixels, seen in _decoded(dataset, preprocess):
                pixels.tofile(file)
                checksum.update(pixels.data)
                looks.append(seen)
                on_progress(len(looks), count)
        about = _about(looks, checksum.hexdigest())
        (scratch / "about").write_text(json.dumps(about))
        (scratch / "pixels").replace(path)
        (scratch / "about").replace(path.with_suffix(".json"))
    finally:
        shutil.rmtree(scratch)


@dataclass(frozen=True)
class _Seen:
    """What is kept of an image besides its pixels."""

    digest: str
    source: str
    differs: bool
    constant: bool
    clipped: bool


_REMARKS = ("differing", "constant", "clipped")


def _about(looks: Sequence[_Seen], pixels: str) -> dict[str, Any]:
    """Return the description of a cache, with a checksum over all of it."""
    flags = {
        "differing": [row for row, seen in enumerate(looks) if seen.differs],
        "constant": [row for row, seen in enumerate(looks) if seen.constant],
        "clipped": [row for row, seen in enumerate(looks) if seen.clipped],
    }
    digests, sources = [seen.digest for seen in looks], [seen.source for seen in looks]
    about = {"format": FORMAT, "pixels": pixels, "digests": digests, "sources": sources, **flags}
    return {**about, "checksum": _checksum(about)}


def _is_whole(about: dict[str, Any], count: int, pixels: str) -> bool:
    """Return whether a cache is intact, by its description and its pixels' checksum."""
    content = {name: value for name, value in about.items() if name != "checksum"}
    return len(about["digests"]) == count and about["pixels"] == pixels and about["checksum"] == _checksum(content)


def _checksum(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def pixel_checksum(pixels_NCYX: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of pixels, read piece by piece: about 1 GiB/s."""
    digest, flat = hashlib.sha256(), pixels_NCYX.reshape(-1)
    for start in range(0, len(flat), _READ_BYTES):
        digest.update(flat[start : start + _READ_BYTES].data)
    return digest.hexdigest()


def _parts(file: IO[bytes], size: int) -> Iterator[bytes]:
    while part := file.read(size):
        yield part


def _decoded(dataset: Dataset, preprocess: UInt8Preprocess) -> Iterator[tuple[NDArray[np.uint8], _Seen]]:
    """Yield the crop of every image in order, with what is kept of it, from a few threads that run a little ahead."""

    def decode(numbered: tuple[int, bytes]) -> tuple[NDArray[np.uint8], _Seen]:
        row, content = numbered
        found: Look = look(content, f"{dataset.path} row {row}", preprocess)
        return found.crop, _Seen(found.digest, found.source, found.differs, found.constant, found.clipped)

    return ahead(decode, enumerate(dataset.images()))
