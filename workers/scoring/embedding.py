"""Embeddings of the side that no mask changes: of captions when image heads are searched.

They are kept on disk under a digest of everything that decides them and their kind of device, so that the next search
finds them. Chunks are kept as they come, so that a search that is stopped meanwhile goes on with what there is.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from headmask.border.home import cache_folder
from workers.data.pixels import Pixels
from workers.scoring.devices import device_kind
from workers.scoring.inputs import Normalisation
from workers.scoring.stock import Chunk, Encoder, EncodingHere

# N images or texts, Q captions, T tokens, E embedding, B inputs of a chunk

OnProgress = Callable[[int, int], None]
"""Called with the number done and the total."""
POLL_S = 0.5
"""Longest wait for chunks between two looks at whether to stop."""

_log = logging.getLogger(__name__)
_NOTHING = Normalisation(np.zeros(3, np.float32), np.ones(3, np.float32))


class KeptChunks:
    """Chunks of embeddings in a file, in the order in which they came.

    What cannot be read back, such as a chunk that was only half written, counts as missing.

    Args:
        path: the file; None keeps them in memory alone.
    """

    _HEAD = struct.Struct("<QQQL")
    """Place, rows, width and checksum of a chunk."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.found: dict[int, NDArray[np.float32]] = {}
        """Chunks by their place."""
        if path is not None and path.exists():
            end = self._read(path.read_bytes())
            with path.open("r+b") as file:
                file.truncate(end)

    def _read(self, content: bytes) -> int:
        """Take in all whole chunks, and return where they end."""
        at = 0
        while at + self._HEAD.size <= len(content):
            place, rows, width, checksum = self._HEAD.unpack_from(content, at)
            start = at + self._HEAD.size
            part = content[start : start + 4 * rows * width]
            if len(part) < 4 * rows * width or zlib.crc32(part) != checksum:
                break
            self.found[place] = np.frombuffer(part, np.float32).reshape(rows, width)
            at = start + len(part)
        return at

    def add(self, chunks: dict[int, NDArray[np.float32]]) -> None:
        """Add chunks by their place; after a failure to write, no more are written."""
        self.found |= chunks
        if self._path is None:
            return
        try:
            with self._path.open("ab") as file:
                for place, chunk_BE in chunks.items():
                    part = np.ascontiguousarray(chunk_BE, np.float32).tobytes()
                    file.write(self._HEAD.pack(place, *chunk_BE.shape, zlib.crc32(part)) + part)
        except OSError as error:
            _log.warning("embeddings cannot be kept in %s (%s)", self._path, error)
            self._path = None


def kept(
    decides: tuple[Any, ...],
    make: Callable[[KeptChunks], NDArray[np.float32]],
    *,
    kind: str | None = None,
    folder: Path | None = None,
) -> NDArray[np.float32]:
    """Return embeddings from the cache, or computed now and then cached.

    Args:
        decides: everything that decides them except the version of torch: texts, bytes, modules by their structure.
        make: computes them; given the chunks that an earlier run has computed, to which it adds.
        kind: kind of device that computes them; the CPU of this machine by default.
        folder: folder of the cache; see `headmask.border.home.cache_folder`.
    """
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"embeddings-{cache_key(decides, kind)}.npz"
    with FileLock(path.with_suffix(".lock")):
        if (found := _read(path)) is not None:
            return found
        chunks = KeptChunks(path.with_suffix(".chunks"))
        embeddings = make(chunks)
        _write(path, embeddings)
        path.with_suffix(".chunks").unlink(missing_ok=True)
    return embeddings


def _read(path: Path) -> NDArray[np.float32] | None:
    """Return the embeddings of a file; None if there are none, or they are damaged."""
    if not path.exists():
        return None
    try:
        # The archive's own checksums find damage.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            found: NDArray[np.float32] = content["embeddings"]
        return found
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("embeddings %s are damaged (%s) and are made again", path, error)
        return None


def _write(path: Path, embeddings: NDArray[np.float32]) -> None:
    temporary = path.with_suffix(".part")
    try:
        with temporary.open("wb") as sink:
            np.savez(sink, embeddings=embeddings)
        temporary.replace(path)
    except OSError as error:
        _log.warning("embeddings cannot be kept in %s (%s)", path, error)


def cache_key(decides: tuple[Any, ...], kind: str | None = None) -> str:
    """Return the digest of everything that decides something cached, and of the version of torch.

    Args:
        decides: see `kept`.
        kind: kind of device and version, as `device_kind` says it; the CPU of this machine by default.
    """
    here = f"torch {torch.__version__}|{torch.backends.cpu.get_cpu_capability()}"
    # Caches of earlier versions, which computed on the driver's CPU, stay valid.
    is_here = kind in (None, device_kind("cpu"))
    digest = hashlib.sha256((here if is_here else str(kind)).encode())
    for part in decides:
        content = part.tobytes() if isinstance(part, np.ndarray) else str(part).encode()
        digest.update(f"|{len(content)}|".encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


class EmbedsChunks(Protocol):
    """What embeds chunks: a pool, or this process."""

    @property
    def device(self) -> str: ...  # noqa: D102
    def submit_chunks(self, encoder: Encoder, take: Callable[[int], Chunk], places: Sequence[int]) -> None: ...  # noqa: D102
    def collect_chunks(self, timeout_s: float) -> dict[int, NDArray[np.float32]]: ...  # noqa: D102
    def drop_encoder(self) -> None: ...  # noqa: D102


def embedded(
    pool: EmbedsChunks,
    encoder: Encoder,
    inputs: Pixels | NDArray[np.int64],
    *,
    chunks: KeptChunks | None = None,
    on_progress: OnProgress = lambda done, total: None,
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Return L2-normalised embeddings (N, E) float32 of images, or of texts (N, T), as a pool's replicas compute them.

    Args:
        pool: whose replicas embed a share each.
        encoder: the stock tower.
        inputs: images or token ids.
        chunks: those that were computed earlier, to which those that come are added.
        on_progress: called with the number done and the total.
        check: called while chunks are awaited; may raise to stop.
    """
    size, found = encoder.size(pool.device), KeptChunks() if chunks is None else chunks
    # Of nothing, too, one empty chunk, which has a width.
    count = max(1, -(-len(inputs) // size))
    waiting = set(range(count)) - found.found.keys()
    if waiting:
        pool.submit_chunks(encoder, lambda place: inputs[place * size : (place + 1) * size], sorted(waiting))
        while waiting:
            check()
            come = pool.collect_chunks(POLL_S)
            found.add(come)
            waiting -= come.keys()
            if len(inputs) and come:
                on_progress(min(len(inputs), (count - len(waiting)) * size), len(inputs))
        pool.drop_encoder()
    return np.concatenate([found.found[place] for place in range(count)])


def embed_texts(clip: Any, tokens_QT: Tensor, *, threads: int, device: str = "cpu") -> NDArray[np.float32]:
    """Return L2-normalised embeddings (Q, E) float32 of texts by a model's stock text tower, computed here."""
    return embedded(EncodingHere(device), Encoder.of(clip, "text", _NOTHING, threads), tokens_QT.numpy())
