"""Embeddings of the side that no mask changes, from the stock tower: of captions when image heads are searched.

They are kept on disk under a digest of everything that decides them, so that the next search finds them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from headmask.border.home import cache_folder
from workers.data.pixels import Pixels
from workers.scoring.inputs import Normalisation

# N images, Q captions, T tokens, E embedding, B batch

_log = logging.getLogger(__name__)


def kept(
    decides: tuple[Any, ...], make: Callable[[], NDArray[np.float32]], *, folder: Path | None = None
) -> NDArray[np.float32]:
    """Return embeddings from the cache, or computed now and then cached.

    Args:
        decides: everything that decides them except the version of torch: texts, bytes, modules by their structure.
        make: computes them.
        folder: folder of the cache; see `headmask.border.home.cache_folder`.
    """
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"embeddings-{cache_key(decides)}.npz"
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            try:
                # The archive's own checksums find damage.
                with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                    found: NDArray[np.float32] = content["embeddings"]
                return found
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                _log.warning("embeddings %s are damaged (%s) and are made again", path, error)
        embeddings = make()
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as sink:
            np.savez(sink, embeddings=embeddings)
        temporary.replace(path)
    return embeddings


def cache_key(decides: tuple[Any, ...]) -> str:
    """Return the digest of everything that decides something cached, and of the version of torch."""
    digest = hashlib.sha256(f"torch {torch.__version__}|{torch.backends.cpu.get_cpu_capability()}".encode())
    for part in decides:
        content = part.tobytes() if isinstance(part, np.ndarray) else str(part).encode()
        digest.update(f"|{len(content)}|".encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


OnProgress = Callable[[int, int], None]
"""Called with the number done and the total."""


def embed_texts(
    clip: Any, tokens_QT: Tensor, *, threads: int, batch: int = 32, on_progress: OnProgress = lambda done, total: None
) -> NDArray[np.float32]:
    """Return L2-normalised caption embeddings (Q, E) float32 of a model's stock text tower."""
    return _embed(clip.encode_text, lambda part: tokens_QT[part], len(tokens_QT), threads, batch, on_progress)


def embed_images(
    visual: nn.Module,
    pixels: Pixels,
    normalisation: Normalisation,
    *,
    threads: int,
    batch: int = 16,
    on_progress: OnProgress = lambda done, total: None,
) -> NDArray[np.float32]:
    """Return L2-normalised image embeddings (N, E) float32 of a model's stock image tower."""

    def encode(images_BCYX: Tensor) -> Tensor:
        output = visual(images_BCYX)
        embedding_BE: Tensor = output[0] if isinstance(output, tuple) else output
        return embedding_BE

    return _embed(encode, lambda part: normalisation(pixels[part]), len(pixels), threads, batch, on_progress)


def _embed(
    encode: Callable[[Tensor], Tensor],
    take: Callable[[slice], Tensor],
    count: int,
    threads: int,
    batch: int,
    on_progress: OnProgress,
) -> NDArray[np.float32]:
    """Return the embeddings of batches padded to one shape, each computed by a fixed number of threads.

    A resumed search gets the same bits on any number of cores.
    """

    @torch.inference_mode()
    def embed(start: int) -> Tensor:
        part = take(slice(start, start + batch))
        padded = F.pad(part, (0, 0) * (part.ndim - 1) + (0, batch - len(part)))
        return F.normalize(encode(padded).float(), dim=-1)[: len(part)]

    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // threads)) as executor:
            parts = []
            # Of nothing, too, one empty part, which has a width.
            for part in executor.map(embed, range(0, max(count, 1), batch)):
                parts.append(part)
                if count:
                    on_progress(min(count, len(parts) * batch), count)
    finally:
        torch.set_num_threads(previous)
    embedding_E: NDArray[np.float32] = torch.cat(parts).numpy()
    return embedding_E
