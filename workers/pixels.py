"""Every image of a data set, decoded once to uint8 and memory-mapped by whoever needs it.

The cache is one Arrow file with one record batch, so that the memory map is one array. Its name is the digest of the
encoded images and the preprocessing; a checksum finds damage, and a damaged or half-written cache is made again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray

from headmask.errors import DataError
from workers.ahead import ahead
from workers.dataset import Dataset
from workers.images import decode_image
from workers.preprocess import UInt8Preprocess

# N images, Y by X pixels

FORMAT = "headmask-pixels/1"
_DIGEST_BYTES = 32
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pixels:
    """Some images of a cache, in the order of `rows_N`; slices are gathered, the rest stays on disk."""

    cache_NCYX: NDArray[np.uint8]
    rows_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows_N)

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        """Return a slice of the images as uint8 (n, 3, Y, X)."""
        gathered: NDArray[np.uint8] = self.cache_NCYX[self.rows_N[part]]
        return gathered

    def first(self, count: int) -> Pixels:
        """Return the first images."""
        return Pixels(self.cache_NCYX, self.rows_N[:count])

    def gathered(self) -> Pixels:
        """Return the same images in an array of their own, fit to travel."""
        return Pixels(np.asarray(self[:]), np.arange(len(self)))


@dataclass(frozen=True)
class PixelCache:
    """All decoded images of a data set."""

    pixels_NCYX: NDArray[np.uint8]
    """Memory-mapped, read-only."""
    digests: tuple[str, ...]
    """SHA-256 of every image's decoded pixels at full size, so the same for any preprocessing and file format."""


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
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_key(dataset, preprocess)}.arrow"
    with FileLock(path.with_suffix(".lock")):
        cache = _open(path, len(dataset), preprocess.shape)
        if cache is None:
            _build(path, dataset, preprocess, on_progress)
            cache = _open(path, len(dataset), preprocess.shape)
    if cache is None:
        raise DataError(f"the pixel cache {path} was damaged while it was written; is the disk sound?")
    return cache


def _key(dataset: Dataset, preprocess: UInt8Preprocess) -> str:
    digest = hashlib.sha256(f"{FORMAT}|{preprocess.description}|Pillow {PIL.__version__}".encode())
    for content in dataset.images():
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


def _open(path: Path, num_images: int, shape: tuple[int, int, int]) -> PixelCache | None:
    """Return the cache at a path, or None where there is none that is whole."""
    if not path.exists():
        return None
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            batch = reader.get_batch(0)
            stored = (reader.schema.metadata or {}).get(b"checksum", b"").decode()
            pixels, digests = (batch.column(index).buffers()[1] for index in range(2))
        if len(batch) != num_images or _checksum(pixels, digests) != stored:
            raise ValueError("checksum mismatch")
        array = np.frombuffer(pixels, np.uint8).reshape(num_images, *shape)
        names = tuple(row.tobytes().hex() for row in np.frombuffer(digests, np.uint8).reshape(num_images, -1))
        return PixelCache(array, names)
    # Arrow raises many kinds on a file that is cut off or overwritten; whatever the damage, it is made again.
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        _log.warning("pixel cache %s is damaged (%s) and is made again", path, error)
        return None


def _build(path: Path, dataset: Dataset, preprocess: UInt8Preprocess, on_progress: Callable[[int, int], None]) -> None:
    """Decode into a temporary memory map, so that memory stays bounded, and write it as one record batch."""
    count, size = len(dataset), int(np.prod(preprocess.shape))
    with tempfile.TemporaryDirectory(prefix=".pixels-", dir=path.parent) as scratch:
        raw_NS = np.memmap(Path(scratch) / "raw", np.uint8, "w+", shape=(count, size))
        digests_N = np.zeros((count, _DIGEST_BYTES), np.uint8)
        for row, (pixels, digest) in enumerate(_decoded(dataset, preprocess)):
            raw_NS[row], digests_N[row] = pixels.reshape(-1), np.frombuffer(digest, np.uint8)
            on_progress(row + 1, count)
        buffers = pa.py_buffer(raw_NS), pa.py_buffer(digests_N)
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, [None, buffer])
            for width, buffer in zip((size, _DIGEST_BYTES), buffers, strict=True)
        ]
        schema = pa.schema(
            [("pixels", pa.binary(size)), ("digest", pa.binary(_DIGEST_BYTES))],
            metadata={"format": FORMAT, "checksum": _checksum(*buffers)},
        )
        whole = Path(scratch) / "whole"
        with pa.OSFile(str(whole), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))
        whole.replace(path)


def _checksum(*buffers: pa.Buffer) -> str:
    digest = hashlib.sha256()
    for buffer in buffers:
        digest.update(memoryview(buffer))
    return digest.hexdigest()


def _decoded(dataset: Dataset, preprocess: UInt8Preprocess) -> Iterator[tuple[NDArray[np.uint8], bytes]]:
    """Yield crop and digest of every image in order, decoded by a few threads that run a little ahead."""

    def decode(content: bytes, row: int) -> tuple[NDArray[np.uint8], bytes]:
        image = decode_image(content, f"{dataset.path} row {row}")
        digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()
        return preprocess(image), digest

    rows = enumerate(dataset.images())
    yield from ahead(lambda pair: decode(pair[1], pair[0]), rows)
