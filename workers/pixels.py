"""Every image of a data set, decoded once to uint8 and memory-mapped by whoever needs it.

The cache is a NumPy file of pixels and a JSON file about it. Its name is the digest of the encoded images and the
preprocessing; a checksum finds damage, and a damaged or half-written cache is made again. All processes of a host map
the same file, so they share one copy; other hosts get it in pieces and keep a cache of their own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
import PIL.Image
from filelock import FileLock
from numpy.typing import NDArray

from headmask.errors import DataError
from workers.ahead import ahead
from workers.dataset import Dataset
from workers.images import decode_image, quiet_pillow
from workers.preprocess import UInt8Preprocess

# N images, Y by X pixels

FORMAT = "headmask-pixels/2"
PIECE_BYTES = 1 << 28
_DIGEST_BYTES = 32
_READ_BYTES = 1 << 24
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheFile:
    """A file of pixels as processes find it: at its place, in their host's cache, or in pieces that others hold."""

    path: Path
    pieces: tuple[Any, ...] = ()
    """Object references; none where every process is on the host of the file."""

    def array(self, fetch: Callable[[Any], NDArray[np.uint8]] | None = None) -> NDArray[np.uint8]:
        """Return the pixels (N, 3, Y, X), memory-mapped.

        Args:
            fetch: returns the bytes of a piece.

        Raises:
            DataError: the file is not on this host, and there are no pieces.
        """
        own = cache_folder() / self.path.name
        for path in (self.path, own):
            if path.exists():
                return _mapped(path)
        if not self.pieces or fetch is None:
            raise DataError(f"the pixel cache {self.path} is not on this host; start the search with --address")
        own.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(own.with_suffix(".lock")):
            if not own.exists():
                self._write(own, fetch)
        return _mapped(own)

    def in_pieces(self, put: Callable[[NDArray[np.uint8]], Any]) -> CacheFile:
        """Return the same file with its content put where other hosts find it.

        Args:
            put: stores a piece, and returns what it is fetched by.
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
    """Some images of a cache, in the order of `rows_N`; what is asked for is gathered, the rest stays on disk."""

    cache_NCYX: NDArray[np.uint8]
    rows_N: NDArray[np.int64]
    file: CacheFile | None = None
    """Where the cache lies, if it is a file."""

    def __len__(self) -> int:
        return len(self.rows_N)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a slice of the images, or those of some places, as uint8 (n, 3, Y, X)."""
        gathered: NDArray[np.uint8] = self.cache_NCYX[self.rows_N[part]]
        return gathered

    @property
    def nbytes(self) -> int:
        """Size of the images in bytes."""
        return len(self) * int(np.prod(self.cache_NCYX.shape[1:]))

    def part(self, part: slice) -> Pixels:
        """Return some of the images, one after another."""
        return replace(self, rows_N=self.rows_N[part])

    def packed(self) -> PackedPixels:
        """Return the images as they travel: by the place of their file, or in an array of their own."""
        if self.file is None:
            return PackedPixels(np.arange(len(self)), pixels_NCYX=self[:])
        return PackedPixels(self.rows_N, self.file)


@dataclass(frozen=True)
class PackedPixels:
    """Images on their way to another process: where their cache is, or all of them where there is none."""

    rows_N: NDArray[np.int64]
    file: CacheFile | None = None
    pixels_NCYX: NDArray[np.uint8] | None = None

    def unpack(self, fetch: Callable[[Any], NDArray[np.uint8]] | None = None) -> Pixels:
        """Return the images, memory-mapped where they are in a file.

        Raises:
            DataError: they cannot be had on this host.
        """
        if self.pixels_NCYX is not None:
            return Pixels(self.pixels_NCYX, self.rows_N)
        if self.file is None:
            raise ValueError("packed pixels are in a file or in an array")
        return Pixels(self.file.array(fetch), self.rows_N, self.file)


@dataclass(frozen=True)
class PixelCache:
    """All decoded images of a data set."""

    pixels_NCYX: NDArray[np.uint8]
    """Memory-mapped, read-only."""
    digests: tuple[str, ...]
    """SHA-256 of every image's decoded pixels at full size, so the same for any preprocessing and file format."""
    file: CacheFile

    def rows(self, rows_N: Sequence[int] | NDArray[np.int64]) -> Pixels:
        """Return some of the images."""
        return Pixels(self.pixels_NCYX, np.asarray(rows_N, dtype=np.int64), self.file)


def cache_folder() -> Path:
    """Return where caches lie: `$HEADMASK_CACHE`, or `~/.cache/headmask`."""
    return Path(os.environ.get("HEADMASK_CACHE") or Path.home() / ".cache" / "headmask")


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
    digest = hashlib.sha256(f"{FORMAT}|{preprocess.description}|Pillow {PIL.__version__}".encode())
    for content in dataset.images():
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


def _open(path: Path, shape: tuple[int, ...]) -> PixelCache | None:
    """Return the cache at a path, or None where there is none that is whole."""
    about = path.with_suffix(".json")
    if not path.exists() and not about.exists():
        return None
    try:
        content = json.loads(about.read_text())
        digests: Sequence[str] = content["digests"]
        pixels_NCYX = _mapped(path)
        if pixels_NCYX.shape != shape or len(digests) != shape[0] or _checksum(path, digests) != content["checksum"]:
            raise ValueError("checksum mismatch")
        return PixelCache(pixels_NCYX, tuple(digests), CacheFile(path.resolve()))
    # NumPy raises many kinds on a file that is cut off or overwritten; whatever the damage, it is made again.
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        _log.warning("pixel cache %s is damaged (%s) and is made again", path, error)
        return None


def _mapped(path: Path) -> NDArray[np.uint8]:
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _build(path: Path, dataset: Dataset, preprocess: UInt8Preprocess, on_progress: Callable[[int, int], None]) -> None:
    """Write the images one after another, so that memory stays bounded; the file that says it is whole comes last."""
    count, digests = len(dataset), []
    scratch = path.with_suffix(".part")
    # What a process left that was killed here; the lock is ours.
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        with (scratch / "pixels").open("wb") as file, quiet_pillow():
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *preprocess.shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for pixels, digest in _decoded(dataset, preprocess):
                pixels.tofile(file)
                digests.append(digest)
                on_progress(len(digests), count)
        about = {"format": FORMAT, "checksum": _checksum(scratch / "pixels", digests), "digests": digests}
        (scratch / "about").write_text(json.dumps(about))
        (scratch / "pixels").replace(path)
        (scratch / "about").replace(path.with_suffix(".json"))
    finally:
        shutil.rmtree(scratch)


def _checksum(path: Path, digests: Sequence[str]) -> str:
    digest = hashlib.sha256("".join(digests).encode())
    with path.open("rb") as file:
        for part in _parts(file, _READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _parts(file: IO[bytes], size: int) -> Iterator[bytes]:
    while part := file.read(size):
        yield part


def _decoded(dataset: Dataset, preprocess: UInt8Preprocess) -> Iterator[tuple[NDArray[np.uint8], str]]:
    """Yield crop and digest of every image in order, decoded by a few threads that run a little ahead."""

    def decode(numbered: tuple[int, bytes]) -> tuple[NDArray[np.uint8], str]:
        row, content = numbered
        image = decode_image(content, f"{dataset.path} row {row}")
        return preprocess(image), image_digest(image)

    return ahead(decode, enumerate(dataset.images()))


def image_digest(image: PIL.Image.Image) -> str:
    """Return the SHA-256 of an image's size and pixels."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
