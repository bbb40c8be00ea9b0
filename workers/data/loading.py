"""Data ready for scoring: decoded images with texts and targets, by split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

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
from workers.tasks.base import Rows, Targets
from workers.tasks.registry import TASKS, tasks_with

# N images, Q texts

T = TypeVar("T")
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
    one. It is -1 for an image without a query.
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

    task: str | None = None
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
    task = TASKS[dataset.task]
    columns = (*task.needs, *task.may_have)
    prompted = " or ".join(name for name, each in TASKS.items() if each.has_prompts)
    options = {
        "--templates": (reading.templates, task.has_prompts, prompted),
        "--class-names": (reading.class_names, "label" in columns, tasks_with("label")),
        "--group-column": (reading.columns.group, "group" in columns, tasks_with("group")),
    }
    for option, (value, fits, others) in options.items():
        if value is not None and not fits:
            raise DataError(
                f"{option} is for {others}, and the task of {shown(dataset.path)} is {dataset.task}; leave it "
                f"out; got {shown(repr(value[:60]))}"
            )
    if task.has_prompts:
        templates_of(reading.templates)
    if reading.names_file is not None:
        read_names(reading.names_file)


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
    contents = _Contents(dataset, reading)
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


class _Contents:
    """What a data set holds besides images, as far as its task reads it."""

    def __init__(self, dataset: Dataset, reading: Reading) -> None:
        self._task = task = TASKS[dataset.task]
        columns = (*task.needs, *task.may_have)
        self._captions = dataset.captions() if "caption" in columns else []
        self._labels, self._class_names = dataset.labels(reading.names_file) if "label" in columns else ([], ())
        self._groups = (dataset.groups() or []) if "group" in columns else []
        self._pairs = _checked_pairs(dataset, self._captions) if "pair" in columns else []
        self._prompts: tuple[str, ...] = ()
        if task.has_prompts:
            self._prompts = prompts(self._class_names, templates_of(reading.templates, dataset.templates()))

    def together(self, digests: Sequence[str]) -> Sequence[str]:
        """Return a key for every row; rows with the same key belong into one split.

        Identical images stay together, and so do pairs, and pairs that share an image.
        """
        if not self._pairs:
            return digests
        groups = clusters(len(digests), [*_by("pixels", digests), *_by("pair", self._pairs)]).tolist()
        first: dict[int, str] = {}
        for group, digest in zip(groups, digests, strict=True):
            first[group] = min(first.get(group, digest), digest)
        return [first[group] for group in groups]

    def split(self, name: str, rows_N: NDArray[np.int64], decoded: PixelCache) -> Split:
        """Return some rows as a split."""
        places = rows_N.tolist()
        rows = Rows(
            name,
            captions=taken(self._captions, places),
            labels=taken(self._labels, places),
            groups=taken(self._groups, places),
            pairs=taken(self._pairs, places),
            class_names=self._class_names,
            prompts=self._prompts,
        )
        texts, targets = self._task.texts_of(rows), self._task.of(rows)
        clusters_N = targets.resampled(linked([decoded.digests[row] for row in places], rows.captions, rows.pairs))
        pixels, remarks = decoded.rows(rows_N), decoded.remarks.of(places)
        digest = self._digest(name, [decoded.sources[row] for row in places], rows)
        return Split(name, pixels, texts, targets, clusters_N, digest, self._class_names, remarks)

    def _digest(self, name: str, digests: Sequence[str], rows: Rows) -> str:
        """Return the digest of a split, given those of all that decides its images' pixels."""
        what = [name, *([self._task.task] if self._task.marks_digest else [])]
        what += [_digest("", self._prompts, ())] if self._prompts else []
        return _digest("|".join(what), digests, self._task.described(rows))


def _checked_pairs(dataset: Dataset, captions: Sequence[tuple[str, ...]]) -> list[int]:
    """Return the pair of every image, of which two follow each other, with a caption each."""
    pairs = dataset.pairs()
    for row, (own, pair) in enumerate(zip(captions, pairs, strict=True)):
        if len(own) != 1:
            raise DataError(f"{dataset.path} row {row}: an image of a pair has one caption; got {len(own)}")
        if row % 2 and pair != pairs[row - 1]:
            raise DataError(f"{dataset.path} row {row}: the two images of a pair must follow each other")
    if len(pairs) % 2 or len(set(pairs)) * 2 != len(pairs):
        raise DataError(f"{dataset.path}: every pair must have two images")
    return pairs


def taken(values: Sequence[T], rows: Sequence[int]) -> list[T]:
    """Return the values of some rows; none where there are none at all."""
    return [values[row] for row in rows] if values else []


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
