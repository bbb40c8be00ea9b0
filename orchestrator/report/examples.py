"""The queries that a mask changed most, with their images, captions and labels."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from headmask.errors import DataError
from headmask.pixels.images import COMPOSITED, PixelRule, decode_image, quiet_pillow
from orchestrator.pages import data_uri
from orchestrator.settings.sections import DataSection
from orchestrator.verdict.queries import SIDES, Queries
from workers.data.dataset import Dataset, captions_of, image_bytes
from workers.tasks.base import QueryKind
from workers.tasks.registry import TASKS

# Q queries of a kind

MOST = 6
THUMBNAIL = 144
CLIPPED = 255


@dataclass(frozen=True)
class Example:
    """A query with its results before and after."""

    row: int
    name: str
    """File of its image, or the row of the data file if that has no file names; for a pair, of its first image."""
    texts: tuple[str, ...]
    """Captions, or the name of the class; empty if the data is not available."""
    pictures: tuple[str, ...]
    """Data URIs of its image, or of both images of a pair; empty if the data is not available."""
    before: str
    after: str


@dataclass(frozen=True)
class Moved:
    """Changes in the queries of one kind."""

    title: str
    is_ranked: bool
    """Whether before and after are ranks."""
    num_better: int
    num_worse: int
    num_same: int
    better: list[Example]
    """Queries that improved, most first."""
    worse: list[Example]


@dataclass(frozen=True)
class Changes:
    """Changes in the queries of the test split of one data set."""

    data: str
    kinds: list[Moved]
    problem: str | None
    """Why pictures and texts are missing; None if they are not."""


def changed(queries: Queries, section: DataSection, rule: PixelRule = COMPOSITED) -> Changes:
    """Return the queries of a split that changed most, with pictures and texts if the data file is available."""
    try:
        source: _Source | None = _Source(section, rule)
        problem = None
    except DataError as error:
        source, problem = None, f"The data is not reachable from here, so there are no pictures and texts: {error}"
    kinds = [_moved(queries, name, kind, source) for name, kind in queries.targets.kinds.items() if kind.title]
    return Changes(queries.data, kinds, problem)


def _moved(queries: Queries, name: str, kind: QueryKind, source: _Source | None) -> Moved:
    before_Q, after_Q = (queries.ranks[side][name].astype(np.float64) for side in SIDES)
    gain_Q = np.log((1 + before_Q) / (1 + after_Q))
    sure_Q = np.zeros(len(gain_Q))
    if kind.graded is not None:
        was_Q, is_Q = (queries.ranks[side][kind.graded].astype(np.float64) for side in SIDES)
        sure_Q = is_Q - was_Q
    image_Q = queries.targets.image_of_queries[name]
    best_first = np.lexsort((-sure_Q, -gain_Q))
    better = _first_of_images(best_first[gain_Q[best_first] > 0], image_Q)
    worse = _first_of_images(best_first[gain_Q[best_first] < 0][::-1], image_Q)
    rows = {row["query"]: row for row in queries.table.filter(pc.field("kind") == name).to_pylist()}
    place = {query: int(query - np.searchsorted(image_Q, image_Q[query])) for query in (*better, *worse)}
    described = [_example(kind, rows[query], place[query], source) for query in (*better, *worse)]
    return Moved(
        title=kind.title or name,
        is_ranked=kind.is_ranked,
        num_better=int((gain_Q > 0).sum()),
        num_worse=int((gain_Q < 0).sum()),
        num_same=int((gain_Q == 0).sum()),
        better=described[: len(better)],
        worse=described[len(better) :],
    )


def _first_of_images(queries: Iterable[int], image_Q: NDArray[np.int64]) -> list[int]:
    """Return the first few queries, one per image."""
    first: dict[int, int] = {}
    for query in queries:
        if len(first) == MOST:
            break
        first.setdefault(int(image_Q[query]), int(query))
    return list(first.values())


def _example(kind: QueryKind, query: dict[str, Any], place: int, source: _Source | None) -> Example:
    """Return a query of `queries.parquet`; `place` is the index of the caption among those of its image."""
    texts: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    row = query["row"]
    name = f"row {row}"
    if source is not None:
        name = source.file(row) or name
        rows = list(range(row, row + kind.num_images))
        texts = (source.name(query["label"]),) if kind.text == "class" else source.captions(rows)
        texts = texts[place : place + 1] if kind.text == "caption" else texts
        pictures = source.pictures(rows)
    before, after = (_rank(kind, query, side) for side in SIDES)
    return Example(row, name, texts, pictures, before, after)


def _rank(kind: QueryKind, query: dict[str, Any], side: str) -> str:
    rank, graded = query[f"{side}_rank"], query[f"{side}_probability"]
    if not kind.is_ranked:
        return "not matched" if rank else "matched"
    text = f"{rank + 1}" if rank < CLIPPED else f"over {CLIPPED}"
    return f"{text} ({100 * graded:.0f} %)" if kind.shows_graded else text


class _Source:
    """The images and texts of queries, read from the data by row.

    Raises:
        DataError: the data file is missing or not valid.
    """

    def __init__(self, section: DataSection, rule: PixelRule) -> None:
        self._rule = rule
        reading = section.reading()
        self._dataset = Dataset(Path(section.path), reading.columns, task=reading.task)
        self._names: tuple[str, ...] = ()
        if "label" in TASKS[self._dataset.task].needs:
            self._names = self._dataset.labels(reading.names_file)[1]

    def name(self, label: int) -> str:
        return self._names[label] if label < len(self._names) else str(label)

    def file(self, row: int) -> str | None:
        cell = self._dataset.rows("image", [row]).get(row)
        path = cell.get("path") if isinstance(cell, dict) else None
        return str(path) if path else None

    def captions(self, rows: Sequence[int]) -> tuple[str, ...]:
        found = self._dataset.rows("caption", rows)
        return tuple(str(caption) for row in rows for caption in captions_of(found.get(row)))

    def pictures(self, rows: Sequence[int]) -> tuple[str, ...]:
        found = self._dataset.rows("image", rows)
        return tuple(uri for row in rows if (uri := self._picture(row, found.get(row))))

    def _picture(self, row: int, cell: Any) -> str | None:
        where = f"{self._dataset.path} row {row}"
        try:
            with quiet_pillow():
                image = decode_image(image_bytes(cell, self._dataset.path.parent, where), where, self._rule)
        except DataError:
            return None
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        file = io.BytesIO()
        image.save(file, "WEBP", quality=80)
        return data_uri(file.getvalue(), "image/webp")
