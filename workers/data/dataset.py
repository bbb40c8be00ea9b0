"""Data sets as Parquet, in the layouts of the Hugging Face Hub.

One row per image: `image` struct<bytes, path>; `caption` list<string> for retrieval and matching, with `pair` for the
latter; `label` for classification, with `group` where there are groups; `split` where the splits are given. Captions
may be a plain string, labels integers or names, and bytes may be null, with a path relative to the file's folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headmask.border.kinds import DATA_SET, parquet_metadata
from headmask.border.reading import check_text
from headmask.border.shown import shown
from headmask.border.writing import written
from headmask.errors import DataError
from workers.data.cells import Broken, cells, first_broken, open_parquet, reading_parquet
from workers.data.columns import COLUMNS, Columns, Own, check_labels, check_type, label_names, no_column
from workers.data.inside import read_inside
from workers.data.labels import Classes, label_text
from workers.tasks.registry import TASKS

ROW_GROUP = 100
BATCH = 16
"""Images read at a time; more may be too large for one array."""
GROUP_BYTES = 1 << 26


@dataclass(frozen=True)
class Row:
    """One image with everything that belongs to it."""

    path: str
    image: bytes
    """The encoded file."""
    captions: tuple[str, ...] = ()
    split: str | None = None
    label: int | None = None
    """Index of its class."""
    group: str | None = None
    pair: int | None = None
    """Number of its pair; both images of a pair follow each other."""


@dataclass(frozen=True)
class Kind:
    """The task of a data set, with its classes and templates."""

    task: str = "retrieval"
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    """Prompt templates that came with the data, with {c} for the class name."""
    has_groups: bool = False
    labels: tuple[str, ...] = ()
    """The source's labels of the classes, if they differ from their names: folders, numbers."""

    def schema(self, ignored: Mapping[str, int] | None = None) -> pa.Schema:
        """Return the columns of a file, with their description for the Hugging Face hub.

        Args:
            ignored: number of the source's files that are not images, by ending.
        """
        string = {"dtype": "string", "_type": "Value"}
        known: dict[str, tuple[pa.DataType, dict[str, Any]]] = {
            "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"}),
            "caption": (pa.list_(pa.string()), {"feature": string, "_type": "List"}),
            "label": (pa.int64(), {"names": list(self.class_names), "_type": "ClassLabel"}),
            "group": (pa.string(), string),
            "pair": (pa.int64(), {"dtype": "int64", "_type": "Value"}),
            "split": (pa.string(), string),
        }
        task = TASKS[self.task]
        names = [name for name in (*task.needs, *task.may_have) if name != "group" or self.has_groups]
        columns = {name: known[name] for name in names}
        features = {name: feature for name, (_, feature) in columns.items()}
        metadata = {"huggingface": json.dumps({"info": {"features": features}}), **parquet_metadata("data set")}
        own = Own(
            templates=self.templates,
            labels=() if self.labels == self.class_names else self.labels,
            ignored=dict(ignored or {}),
        ).model_dump(exclude_defaults=True)
        if own:
            metadata["headmask"] = json.dumps(own)
        return pa.schema([(name, kind) for name, (kind, _) in columns.items()], metadata=metadata)


def write_dataset(path: Path, rows: Iterable[Row], kind: Kind | None = None) -> int:
    """Write rows in groups of 100, and return their number. The file appears as a whole or not at all."""
    schema = (kind or Kind()).schema()
    count = 0
    with written(path, DATA_SET) as scratch, pq.ParquetWriter(scratch, schema) as writer:
        for group in groups_of(rows):
            writer.write_table(table_of(group, schema))
            count += len(group)
    return count


def groups_of(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield rows in groups of 100, fewer where images are large."""
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row.image)
        if len(group) == ROW_GROUP or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def table_of(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Return rows as a table."""
    values: dict[str, Callable[[Row], Any]] = {
        "image": lambda row: {"bytes": row.image, "path": row.path},
        "caption": lambda row: list(row.captions),
        "label": lambda row: row.label,
        "group": lambda row: row.group,
        "pair": lambda row: row.pair,
        "split": lambda row: row.split,
    }
    return pa.Table.from_pydict({name: [values[name](row) for row in rows] for name in schema.names}, schema)


class Dataset:
    """A Parquet file of images, opened for reading.

    Args:
        path: the file.
        columns: names of its columns. task: task of the file; found from its columns when None.

    Raises:
        DataError: no such file, not Parquet, a column is missing or of another type, or there are no rows.
    """

    def __init__(self, path: Path, columns: Columns | None = None, *, task: str | None = None) -> None:
        self.path = path
        columns = columns or Columns()
        where = str(path)
        self._file = open_parquet(path)
        with reading_parquet(path):
            schema = self._file.schema_arrow
        self.task = task or columns.task(schema, where)
        reads = TASKS[self.task]
        self._names = {what: columns.find(what, schema, where) for what in COLUMNS}
        for what in reads.needs:
            if self._names[what] is None:
                raise no_column(what, " or ".join(COLUMNS[what]), schema, where)
        for what in (*reads.needs, *reads.may_have):
            if (name := self._names[what]) is not None:
                check_type(what, name, schema, where)
        self.own = Own.of(schema, where)
        """What headmask wrote into the file besides the rows."""
        if not len(self):
            raise DataError(f"{shown(path)} has no rows")

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def captions(self) -> list[tuple[str, ...]]:
        """Return the captions of every image, without touching the images.

        Raises:
            DataError: an image has no caption, or an empty one.
        """
        found = []
        for number, captions in enumerate(self.raw_captions()):
            if not captions or any(caption is None or not caption.strip() for caption in captions):
                raise self._bad(number, f"every image needs captions, none of them empty; got {shown(captions)[:200]}")
            if why := next(filter(None, map(check_text, captions)), None):
                raise self._bad(number, f"a caption cannot be used: {why}")
            found.append(captions)
        return found

    def raw_captions(self) -> list[tuple[Any, ...]]:
        """Return the captions of every image unchecked, including empty ones."""
        return [captions_of(value) for value in self._read("caption")]

    def labels(self, class_names: Path | None = None) -> tuple[list[int], tuple[str, ...]]:
        """Return the class of every image and the names of all classes.

        Names are those of the file's description, or else the labels themselves; see `Classes`.

        Args:
            class_names: a file with other names.

        Raises:
            DataError: a label is missing, or names no class; or the class names do not fit.
        """
        numbers, classes = self.classes(class_names)
        return numbers, classes.names

    def classes(self, class_names: Path | None = None) -> tuple[list[int], Classes]:
        """Return the class of every image and all classes, as `labels` does."""
        values, column = self._read("label"), str(self._names["label"])
        if None in values:
            raise self._bad(values.index(None), "the label is missing")
        names = () if isinstance(values[0], str) else label_names(self._file.schema_arrow, column, str(self.path))
        if names:
            own = self.own.labels
            classes = Classes(own if len(own) == len(names) else names, names)
            check_labels(values, len(names), str(self.path))
            return values, classes if class_names is None else classes.named(class_names)
        texts = []
        for number, value in enumerate(values):
            try:
                texts.append(label_text(value))
            except ValueError as error:
                raise self._bad(number, str(error)) from None
        classes = Classes.of(texts, shown(self.path))
        classes = classes if class_names is None else classes.named(class_names)
        return [classes.place[text] for text in texts], classes

    def groups(self) -> list[str] | None:
        """Return the group of every image; None if the file has no groups.

        Raises:
            DataError: some images have a group and others none.
        """
        if self._names["group"] is None:
            return None
        groups = self._read("group")
        if None in groups:
            raise self._bad(groups.index(None), "the group is missing")
        return [self._checked(number, str(group), "group") for number, group in enumerate(groups)]

    def pairs(self) -> list[int]:
        """Return the pair of every image.

        Raises:
            DataError: an image has none.
        """
        values = self._read("pair")
        if None in values:
            raise self._bad(values.index(None), "the pair is missing")
        pairs: list[int] = values
        return pairs

    def splits(self) -> list[str | None] | None:
        """Return the split of every image; None if the file has no splits."""
        if self._names["split"] is None:
            return None
        splits = [None if split is None else str(split) for split in self._read("split")]
        return None if all(split is None for split in splits) else splits

    def templates(self) -> tuple[str, ...]:
        """Return the prompt templates that came with the data; empty if there are none."""
        return self.own.templates

    def name_of(self, row: int) -> str:
        """Return the name of an image for errors: its row, and its file name if there is one."""
        cell = self.rows("image", [row]).get(row)
        name = cell.get("path") if isinstance(cell, dict) else None
        return f"row {row}" + (f" ({shown(name)})" if name else "")

    def images(self) -> Iterator[bytes]:
        """Yield the encoded image of every row, one row group in memory at a time.

        Raises:
            DataError: neither bytes nor a readable file inside the data file's folder.
        """
        number = 0
        for batch in self._batches("image", BATCH):
            for value in cells(batch.column(0)):
                yield image_bytes(value, self.path.parent, f"{shown(self.path)} row {number}")
                number += 1

    def rows(self, what: str, rows: Collection[int]) -> dict[int, Any]:
        """Return the cells of some rows by row, reading only the row groups that they are in.

        Args:
            what: `image`, `caption` and so on; empty without such a column.
            rows: numbers of rows; those past the end are left out.

        Raises:
            DataError: the file is damaged.
        """
        found: dict[int, Any] = {}
        name, start = self._names[what], 0
        for group in range(self._file.num_row_groups if name else 0):
            stop = start + self._file.metadata.row_group(group).num_rows
            if wanted := {row - start: row for row in rows if start <= row < stop}:
                values = self._column(group, str(name), max(wanted) + 1)
                found |= {row: values[place] for place, row in wanted.items()}
            start = stop
        return found

    def _column(self, group: int, name: str, count: int) -> list[Any]:
        """Return the first cells of a row group, read in pieces: a whole one may be too large for one array."""
        found: list[Any] = []
        with reading_parquet(self.path):
            for batch in self._file.iter_batches(BATCH, row_groups=[group], columns=[name], use_threads=False):
                found += cells(batch.column(0))
                if len(found) >= count:
                    break
        return found

    def _bad(self, row: int, reason: str) -> DataError:
        return DataError(f"{shown(self.path)} row {row}: {reason}")

    def _checked(self, row: int, text: str, what: str) -> str:
        if why := check_text(text):
            raise self._bad(row, f"the {what} cannot be used: {why}")
        return text

    def _read(self, what: str) -> list[Any]:
        values = [value for batch in self._batches(what) for value in cells(batch.column(0))]
        if broken := first_broken(values):
            raise self._bad(broken[0], f"{what}: {broken[1].reason}")
        return values

    def _batches(self, what: str, size: int = ROW_GROUP) -> Iterator[pa.RecordBatch]:
        with reading_parquet(self.path):
            yield from self._file.iter_batches(batch_size=size, columns=[self._names[what]], use_threads=False)


def captions_of(value: Any) -> tuple[Any, ...]:
    """Return a cell of a caption column as a tuple of captions."""
    return (value,) if isinstance(value, str) else tuple(value or ())


def image_bytes(value: Any, folder: Path | None, where: str) -> bytes:
    """Return the encoded image of a cell of an image column.

    Args:
        value: bytes, or a struct of bytes and path.
        folder: folder that paths are relative to; None if only bytes are available.
        where: name of the cell in errors.

    Raises:
        DataError: neither bytes nor a readable file inside the folder.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, Broken):
        raise DataError(f"{where}: the image's name: {value.reason}")
    content: bytes | None = None if value is None else value.get("bytes")
    if content is not None:
        return content
    path = None if value is None else value.get("path")
    if not path or folder is None:
        raise DataError(f"{where}: the image has neither bytes nor a path" + ("" if not path else " that can be read"))
    return read_inside(folder, path, where)
