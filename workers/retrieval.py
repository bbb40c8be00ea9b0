"""Retrieval data ready for scoring: decoded images with their captions, by split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headmask.errors import DataError
from workers.dataset import Dataset
from workers.pixels import PixelCache, Pixels, load_pixels
from workers.preprocess import UInt8Preprocess
from workers.splits import SPLITS, drawn_splits, given_splits

# N images, Q captions

ALL = "all"
"""Name of the split that holds a whole file."""


@dataclass(frozen=True)
class RetrievalSplit:
    """One split of an image-caption data set."""

    name: str
    pixels: Pixels
    captions: tuple[str, ...]
    """All captions, image by image (Q)."""
    image_of_caption_Q: NDArray[np.int64]
    clusters_N: NDArray[np.int64]
    """Resampling cluster of every image: images with identical pixels or an identical caption share one."""
    digest: str
    """Covers pixels, captions, order and name; the same however the file is laid out."""


def load_retrieval(
    path: Path,
    preprocess: UInt8Preprocess,
    *,
    whole: bool = False,
    draw_splits: bool = False,
    seed: int = 0,
    image_column: str | None = None,
    caption_column: str | None = None,
    split_column: str | None = None,
    cache: Path | None = None,
) -> dict[str, RetrievalSplit]:
    """Return the splits of a Parquet file, decoded with a model's preprocessing.

    Args:
        path: the file.
        preprocess: of the model.
        whole: one split `all` with every row instead of search, confirm and test.
        draw_splits: draw the splits even where the file gives them.
        seed: of drawn splits.
        image_column: see `Dataset`.
        caption_column: see `Dataset`.
        split_column: see `Dataset`.
        cache: folder of the pixel cache; see `workers.pixels.cache_folder`.

    Raises:
        DataError: the file, an image, a caption or a split is not as it must be.
    """
    dataset = Dataset(path, image_column=image_column, caption_column=caption_column, split_column=split_column)
    captions = dataset.captions()
    given = dataset.splits()
    if not whole and not draw_splits and given is not None:
        # A column that cannot be used is said before minutes of decoding.
        given_splits(given, [str(row) for row in range(len(given))])
    decoded = load_pixels(dataset, preprocess, folder=cache)
    if whole:
        rows = {ALL: np.arange(len(captions))}
    elif draw_splits or given is None:
        rows = drawn_splits(decoded.digests, seed)
    else:
        rows = given_splits(given, decoded.digests)
    return {name: _split(name, chosen, captions, decoded) for name, chosen in rows.items()}


def take_split(splits: dict[str, RetrievalSplit], name: str) -> RetrievalSplit:
    """Return one split by name.

    Raises:
        DataError: there is no such split.
    """
    if name not in splits:
        raise DataError(f"split must be one of {', '.join((*SPLITS, ALL))}; got {name!r}")
    return splits[name]


def _split(
    name: str, rows_N: NDArray[np.int64], captions: list[tuple[str, ...]], decoded: PixelCache
) -> RetrievalSplit:
    texts = [captions[row] for row in rows_N]
    digests = [decoded.digests[row] for row in rows_N]
    digest = hashlib.sha256(name.encode())
    for image, image_texts in zip(digests, texts, strict=True):
        digest.update(f"|{image}".encode())
        for text in image_texts:
            digest.update(hashlib.sha256(text.encode()).digest())
    return RetrievalSplit(
        name=name,
        pixels=Pixels(decoded.pixels_NCYX, np.asarray(rows_N, dtype=np.int64)),
        captions=tuple(text for image_texts in texts for text in image_texts),
        image_of_caption_Q=np.repeat(np.arange(len(texts)), [len(image_texts) for image_texts in texts]),
        clusters_N=_clusters(digests, texts),
        digest=digest.hexdigest(),
    )


def _clusters(digests: list[str], texts: list[tuple[str, ...]]) -> NDArray[np.int64]:
    """Return the connected components of images that share pixels or a caption, numbered by first image."""
    parent = list(range(len(digests)))

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    sharing: dict[tuple[str, str], list[int]] = defaultdict(list)
    for image, (digest, image_texts) in enumerate(zip(digests, texts, strict=True)):
        sharing["pixels", digest].append(image)
        for text in set(image_texts):
            sharing["caption", text].append(image)
    for images in sharing.values():
        for image in images[1:]:
            first, second = sorted((root(images[0]), root(image)))
            parent[second] = first
    roots = [root(image) for image in range(len(digests))]
    numbers = {found: number for number, found in enumerate(dict.fromkeys(roots))}
    return np.array([numbers[found] for found in roots], dtype=np.int64)
