"""Data ready for scoring: decoded images with texts and targets, by split."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headmask.border.shown import shown
from headmask.errors import DataError
from workers.data.columns import Columns
from workers.data.dataset import Dataset
from workers.data.pixels import PixelCache, Pixels, Remarks, load_pixels
from workers.data.preprocess import UInt8Preprocess
from workers.data.prompts import prompts, read_names, templates_of
from workers.data.splits import SPLITS, drawn_splits, given_splits
from workers.tasks.base import Targets, TaskName
from workers.tasks.classification import ClassificationTargets
from workers.tasks.matching import MatchingTargets
from workers.tasks.retrieval import RetrievalTargets

# N images, Q texts

ALL = "all"
"""Name of the split that consists of the whole file."""
MAX_COPIES, LABEL_SHARE = 20, 0.1
"""Captions shared by more images than the first, and by more than this share of a split, are labels, not copies."""
MIN_SETS = 20
"""With fewer different sets of captions than this in a split, captions are all that tells images apart: labels link
them.
"""


@dataclass(frozen=True)
class Split:
    """One split of a data set."""

    name: str
    pixels: Pixels
    texts: tuple[str, ...]
    """All captions, image by image; for classification all prompts, class by class (Q)."""
    targets: Targets
    clusters_N: NDArray[np.int64]
    """Resampling cluster of every image: images with identical pixels, with the same captions, or of one pair share
    one.
    """
    digest: str
    """Digest of pixels, texts, targets, order and name; independent of the file's layout."""
    class_names: tuple[str, ...] = ()
    """Class names in order of the labels, for classification."""
    remarks: Remarks = field(default_factory=Remarks)
    """Images that the user should know about, by row of the file."""


@dataclass(frozen=True)
class Reading:
    """How a data file is read."""

    task: TaskName | None = None
    """Task of the file; found from the columns when None."""
    columns: Columns = field(default_factory=Columns)
    draw_splits: bool = False
    """Draw the splits even if the file gives them."""
    split_seed: int = 0
    templates: str | None = None
    """`imagenet` (80 templates), `simple` (7), or a file; when None, those that came with the data, or else
    `imagenet`.
    """
    class_names: str | None = None
    """A file of class names in order of their labels; when None, those of the data."""

    @property
    def names_file(self) -> Path | None:
        """The file of class names, if there is one."""
        return None if self.class_names is None else Path(self.class_names)


def check_data(path: Path, reading: Reading) -> None:
    """Check a data file and the options for it, as far as possible without its rows, before a model is loaded.

    Raises:
        DataError: the file cannot be read, a column is missing, or an option does not suit the file.
    """
    _check_reading(Dataset(path, reading.columns, task=reading.task), reading)


def _check_reading(dataset: Dataset, reading: Reading) -> None:
    if dataset.task == "classification":
        templates_of(reading.templates)
        if reading.names_file is not None:
            read_names(reading.names_file)
        return
    options = {
        "--templates": reading.templates,
        "--class-names": reading.class_names,
        "--group-column": reading.columns.group,
    }
    for option, value in options.items():
        if value is not None:
            raise DataError(
                f"{option} is for classification, and the task of {shown(dataset.path)} is {dataset.task}; leave it "
                f"out; got {shown(repr(value[:60]))}"
            )


def load_data(
    path: Path,
    preprocess: UInt8Preprocess,
    reading: Reading | None = None,
    *,
    whole: bool = False,
    cache: Path | None = None,
    may_draw: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Split]:
    """Return the splits of a Parquet file, decoded with a model's preprocessing.

    Args:
        path: the file.
        preprocess: preprocessing of the model.
        reading: how the file is read.
        whole: one split `all` with every row instead of search, confirm and test.
        cache: folder of the pixel cache; see `headmask.border.home.cache_folder`.
        may_draw: whether the user can have the splits drawn, so that messages suggest it.
        on_progress: called with images decoded and in all.

    Raises:
        DataError: the file, an image, a text, a label or a split is not valid.
    """
    reading = reading or Reading()
    dataset = Dataset(path, reading.columns, task=reading.task)
    _check_reading(dataset, reading)
    contents = _CONTENTS[dataset.task](dataset, reading)
    given = None if whole or reading.draw_splits else dataset.splits()
    advice = ", or draw the splits with --draw-splits" if may_draw else ""
    if given is not None:
        # A column that cannot be used is said before minutes of decoding.
        given_splits(given, [str(row) for row in range(len(given))], advice=advice)
    decoded = load_pixels(dataset, preprocess, folder=cache, on_progress=on_progress)
    if whole:
        rows = {ALL: np.arange(len(dataset))}
    elif given is None:
        rows = drawn_splits(contents.together(decoded.digests), reading.split_seed)
    else:
        rows = given_splits(given, decoded.digests, advice=advice, name_of=dataset.name_of, rule=preprocess.rule)
    return {name: contents.split(name, chosen, decoded) for name, chosen in rows.items()}


def take_split(splits: dict[str, Split], name: str) -> Split:
    """Return one split by name.

    Raises:
        DataError: there is no such split.
    """
    if name not in splits:
        raise DataError(f"split must be one of {', '.join((*SPLITS, ALL))}; got '{shown(name)}'")
    return splits[name]


@dataclass(frozen=True)
class _Part:
    """Contents of some rows besides images."""

    texts: tuple[str, ...]
    targets: Targets
    digest: str
    captions: Sequence[tuple[str, ...]] = ()
    """Captions of every image; empty for classification."""
    pairs: Sequence[int] = ()
    """The pair of every image, for matching."""
    class_names: tuple[str, ...] = ()


class _Contents(ABC):
    """Contents of a data set besides images."""

    @abstractmethod
    def __init__(self, dataset: Dataset, reading: Reading) -> None:
        """Read the contents, without touching the images."""

    def together(self, digests: Sequence[str]) -> Sequence[str]:
        """Return a key for every row; rows with the same key must be in the same split."""
        return digests

    @abstractmethod
    def part(self, name: str, rows: Sequence[int], digests: Sequence[str]) -> _Part:
        """Return the contents of some rows, given digests of everything that decides their images' pixels."""

    def split(self, name: str, rows_N: NDArray[np.int64], decoded: PixelCache) -> Split:
        """Return some rows as a split."""
        digests = [decoded.digests[row] for row in rows_N]
        part = self.part(name, rows_N.tolist(), [decoded.sources[row] for row in rows_N])
        clusters_N = linked(digests, part.captions, part.pairs)
        pixels, remarks = decoded.rows(rows_N), decoded.remarks.of(rows_N.tolist())
        return Split(name, pixels, part.texts, part.targets, clusters_N, part.digest, part.class_names, remarks)


class _Captions(_Contents):
    def __init__(self, dataset: Dataset, reading: Reading) -> None:
        self._captions = dataset.captions()

    def part(self, name: str, rows: Sequence[int], digests: Sequence[str]) -> _Part:
        captions = [self._captions[row] for row in rows]
        targets = RetrievalTargets(np.repeat(np.arange(len(rows)), list(map(len, captions))))
        texts = tuple(text for each in captions for text in each)
        return _Part(texts, targets, _digest(name, digests, captions), captions)


class _Labels(_Contents):
    def __init__(self, dataset: Dataset, reading: Reading) -> None:
        self._labels, self._names = dataset.labels(reading.names_file)
        self._groups = dataset.groups()
        self._prompts = prompts(self._names, templates_of(reading.templates, dataset.templates()))

    def part(self, name: str, rows: Sequence[int], digests: Sequence[str]) -> _Part:
        labels_N = np.array([self._labels[row] for row in rows], dtype=np.int64)
        groups = None if self._groups is None else [self._groups[row] for row in rows]
        group_of_image_N = None if groups is None else np.unique(groups, return_inverse=True)[1]
        targets = ClassificationTargets(labels_N, len(self._names), group_of_image_N)
        described = [
            (self._names[label], *groups[row : row + 1]) if groups else (self._names[label],)
            for row, label in enumerate(labels_N)
        ]
        kind = f"{name}|classification|{_digest('', self._prompts, ())}"
        return _Part(self._prompts, targets, _digest(kind, digests, described), class_names=tuple(self._names))


class _Pairs(_Contents):
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
        groups = clusters(len(digests), [*_by("pixels", digests), *_by("pair", self._pairs)]).tolist()
        first: dict[int, str] = {}
        for group, digest in zip(groups, digests, strict=True):
            first[group] = min(first.get(group, digest), digest)
        return [first[group] for group in groups]

    def part(self, name: str, rows: Sequence[int], digests: Sequence[str]) -> _Part:
        pairs = [self._pairs[row] for row in rows]
        if pairs[::2] != pairs[1::2]:
            raise DataError(f"split {name} holds one image of a pair without the other")
        captions = [self._captions[row] for row in rows]
        texts, digest = tuple(text for (text,) in captions), _digest(f"{name}|matching", digests, captions)
        return _Part(texts, MatchingTargets(len(rows) // 2), digest, captions, pairs)


_CONTENTS: dict[TaskName, type[_Contents]] = {
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
    """Return groups of images that share a value."""
    sharing: dict[tuple[str, Any], list[int]] = defaultdict(list)
    for image, value in enumerate(values):
        sharing[what, value].append(image)
    return [tuple(images) for images in sharing.values()]


def linked(
    digests: Sequence[str], captions: Sequence[Sequence[str]] = (), pairs: Sequence[int] = ()
) -> NDArray[np.int64]:
    """Return the resampling cluster of every image of a split, numbered by first image.

    Args:
        digests: digests of the images' pixels.
        captions: captions of every image; none for classification.
        pairs: pair of every image, for matching; a pair has the captions of both images.
    """
    if pairs:
        of_pair: dict[int, tuple[str, ...]] = defaultdict(tuple)
        for pair, own in zip(pairs, captions, strict=True):
            of_pair[pair] += tuple(own)
        captions = [of_pair[pair] for pair in pairs]
    return clusters(len(digests), [*_by("pixels", digests), *_by("pair", pairs), *same_captions(captions)])


def same_captions(captions: Sequence[Sequence[str]]) -> list[tuple[int, ...]]:
    """Return groups of images whose captions are all the same, in any order: they show the same thing.

    One shared caption among others does not count, nor does a set of captions that a large part of the images has, as
    long as there are other sets: see docs/decisions/0016-clusters.md.
    """
    alike = _by("captions", [frozenset(each) for each in captions])
    if len(alike) < MIN_SETS:
        return alike
    return [images for images in alike if len(images) <= max(MAX_COPIES, LABEL_SHARE * len(captions))]


def clusters(count: int, shared: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    """Return the connected components of images that share something, numbered by first image."""
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
