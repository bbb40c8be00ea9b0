"""Data ready for scoring: decoded images with their texts and targets, by split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headmask.errors import DataError
from workers.classification import ClassificationTargets
from workers.columns import Columns
from workers.dataset import Dataset
from workers.matching import MatchingTargets
from workers.pixels import PixelCache, Pixels, load_pixels
from workers.preprocess import UInt8Preprocess
from workers.prompts import prompts, read_class_names, templates_of
from workers.retrieval import RetrievalTargets
from workers.splits import SPLITS, drawn_splits, given_splits
from workers.tasks import Targets, TaskName

# N images, Q texts

ALL = "all"
"""Name of the split that holds a whole file."""


@dataclass(frozen=True)
class Split:
    """One split of a data set."""

    name: str
    pixels: Pixels
    texts: tuple[str, ...]
    """All captions, image by image; for classification all prompts, class by class (Q)."""
    targets: Targets
    clusters_N: NDArray[np.int64]
    """Resampling cluster of every image: images with identical pixels, an identical caption or one pair share one."""
    digest: str
    """Covers pixels, texts, targets, order and name; the same however the file is laid out."""


@dataclass(frozen=True)
class Reading:
    """How a data file is read."""

    task: TaskName | None = None
    """Found by the columns when None."""
    columns: Columns = field(default_factory=Columns)
    draw_splits: bool = False
    """Draw the splits even where the file gives them."""
    split_seed: int = 0
    templates: str | None = None
    """`imagenet` (80 templates), `simple` (7), or a file; those that came with the data, or `imagenet`, when None."""
    class_names: str | None = None
    """A file of class names in order of their labels; those of the data when None."""


def load_data(
    path: Path,
    preprocess: UInt8Preprocess,
    reading: Reading | None = None,
    *,
    whole: bool = False,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Split]:
    """Return the splits of a Parquet file, decoded with a model's preprocessing.

    Args:
        path: the file.
        preprocess: of the model.
        reading: how the file is read.
        whole: one split `all` with every row instead of search, confirm and test.
        cache: folder of the pixel cache; see `workers.pixels.cache_folder`.
        on_progress: called with images decoded and in all.

    Raises:
        DataError: the file, an image, a text, a label or a split is not as it must be.
    """
    reading = reading or Reading()
    dataset = Dataset(path, reading.columns, task=reading.task)
    contents = _CONTENTS[dataset.task](dataset, reading)
    given = None if whole or reading.draw_splits else dataset.splits()
    if given is not None:
        # A column that cannot be used is said before minutes of decoding.
        given_splits(given, [str(row) for row in range(len(given))])
    decoded = load_pixels(dataset, preprocess, folder=cache, on_progress=on_progress)
    if whole:
        rows = {ALL: np.arange(len(dataset))}
    elif given is None:
        rows = drawn_splits(contents.together(decoded.digests), reading.split_seed)
    else:
        rows = given_splits(given, decoded.digests)
    return {name: contents.split(name, chosen, decoded) for name, chosen in rows.items()}


def take_split(splits: dict[str, Split], name: str) -> Split:
    """Return one split by name.

    Raises:
        DataError: there is no such split.
    """
    if name not in splits:
        raise DataError(f"split must be one of {', '.join((*SPLITS, ALL))}; got {name!r}")
    return splits[name]


class _Captions:
    """What a retrieval data set holds besides images."""

    def __init__(self, dataset: Dataset, reading: Reading) -> None:
        self._captions = dataset.captions()

    def together(self, digests: Sequence[str]) -> Sequence[str]:
        """Return a key for every row; rows with the same key belong into one split."""
        return digests

    def split(self, name: str, rows_N: NDArray[np.int64], decoded: PixelCache) -> Split:
        """Return some rows as a split."""
        texts = [self._captions[row] for row in rows_N]
        digests = [decoded.digests[row] for row in rows_N]
        image_of_caption_Q = np.repeat(np.arange(len(texts)), [len(image_texts) for image_texts in texts])
        shared = [*_by("pixels", digests), *_by("caption", texts)]
        return Split(
            name=name,
            pixels=decoded.rows(rows_N),
            texts=tuple(text for image_texts in texts for text in image_texts),
            targets=RetrievalTargets(image_of_caption_Q),
            clusters_N=clusters(len(digests), shared),
            digest=_digest(name, digests, texts),
        )


class _Labels:
    """What a classification data set holds besides images."""

    def __init__(self, dataset: Dataset, reading: Reading) -> None:
        self._labels, names = dataset.labels()
        self._groups = dataset.groups()
        if reading.class_names is not None:
            names = read_class_names(Path(reading.class_names), names)
        templates = templates_of(reading.templates, dataset.templates())
        self._names, self._prompts = names, prompts(names, templates)

    def together(self, digests: Sequence[str]) -> Sequence[str]:
        return digests

    def split(self, name: str, rows_N: NDArray[np.int64], decoded: PixelCache) -> Split:
        labels_N = np.array([self._labels[row] for row in rows_N], dtype=np.int64)
        digests = [decoded.digests[row] for row in rows_N]
        groups = None if self._groups is None else [self._groups[row] for row in rows_N]
        targets = [(self._names[label], *([groups[row]] if groups else [])) for row, label in enumerate(labels_N)]
        group_of_image_N = None if groups is None else np.unique(groups, return_inverse=True)[1]
        return Split(
            name=name,
            pixels=decoded.rows(rows_N),
            texts=self._prompts,
            targets=ClassificationTargets(labels_N, len(self._names), group_of_image_N),
            clusters_N=clusters(len(digests), _by("pixels", digests)),
            digest=_digest(f"{name}|classification|{_digest('', self._prompts, ())}", digests, targets),
        )


class _Pairs:
    """What a matching data set holds besides images."""

    def __init__(self, dataset: Dataset, reading: Reading) -> None:
        self._captions = dataset.captions()
        self._pairs = dataset.pairs()
        for row, (captions, pair) in enumerate(zip(self._captions, self._pairs, strict=True)):
            if len(captions) != 1:
                raise DataError(f"{dataset.path} row {row}: an image of a pair has one caption; got {len(captions)}")
            if row % 2 and pair != self._pairs[row - 1]:
                raise DataError(f"{dataset.path} row {row}: the two images of a pair must follow each other")
        if len(self._pairs) % 2 or len(set(self._pairs)) * 2 != len(self._pairs):
            raise DataError(f"{dataset.path}: every pair must have two images")

    def together(self, digests: Sequence[str]) -> Sequence[str]:
        """Pairs and identical images stay together, and so do pairs that share an image."""
        shared = [*_by("pixels", digests), *_by("pair", self._pairs)]
        groups = clusters(len(digests), shared)
        first: dict[int, str] = {}
        for group, digest in zip(groups.tolist(), digests, strict=True):
            first[group] = min(first.get(group, digest), digest)
        return [first[group] for group in groups.tolist()]

    def split(self, name: str, rows_N: NDArray[np.int64], decoded: PixelCache) -> Split:
        pairs = [self._pairs[row] for row in rows_N]
        if pairs[::2] != pairs[1::2]:
            raise DataError(f"split {name} holds one image of a pair without the other")
        digests = [decoded.digests[row] for row in rows_N]
        texts = [self._captions[row] for row in rows_N]
        shared = [*_by("pixels", digests), *_by("caption", texts), *_by("pair", pairs)]
        return Split(
            name=name,
            pixels=decoded.rows(rows_N),
            texts=tuple(captions[0] for captions in texts),
            targets=MatchingTargets(len(rows_N) // 2),
            clusters_N=clusters(len(digests), shared),
            digest=_digest(f"{name}|matching", digests, texts),
        )


_CONTENTS: dict[str, Callable[[Dataset, Reading], Any]] = {
    "retrieval": _Captions,
    "classification": _Labels,
    "matching": _Pairs,
}


def _digest(name: str, digests: Sequence[str], texts: Sequence[Sequence[str]]) -> str:
    digest = hashlib.sha256(name.encode())
    for image, image_texts in zip(digests, texts or [()] * len(digests), strict=True):
        digest.update(f"|{image}".encode())
        for text in image_texts:
            digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def _by(what: str, values: Sequence[Any]) -> list[tuple[int, ...]]:
    """Return the images that share a value; where an image has several values, any of them."""
    sharing: dict[tuple[str, Any], list[int]] = defaultdict(list)
    for image, value in enumerate(values):
        for each in set(value) if isinstance(value, tuple) else (value,):
            sharing[what, each].append(image)
    return [tuple(images) for images in sharing.values()]


def clusters(count: int, shared: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    """Return the connected components of images of which some share something, numbered by first image."""
    parent = list(range(count))

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for images in shared:
        for image in images[1:]:
            first, second = sorted((root(images[0]), root(image)))
            parent[second] = first
    roots = [root(image) for image in range(count)]
    numbers = {found: number for number, found in enumerate(dict.fromkeys(roots))}
    return np.array([numbers[found] for found in roots], dtype=np.int64)
