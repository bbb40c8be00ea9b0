"""Parquet in the layout of the Hugging Face Hub: images with captions or labels, one file or many, local or remote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headmask.border.shown import counted, shown
from headmask.errors import DataError
from workers.data.cells import Broken, cells, parquet_of, reading_parquet
from workers.data.columns import COLUMNS, Columns, Own, check_type, is_whole, label_names, no_column
from workers.data.dataset import Kind, captions_of, image_bytes
from workers.data.inside import readable
from workers.data.labels import Classes, label_text
from workers.data.sources.base import BadRow, Item, Source, checked_captions, checked_name
from workers.data.sources.files import RemoteFile, find_files, reached
from workers.tasks.registry import TASKS

BATCH = 16
MANY = 4096


class ParquetSource(Source):
    """Rows of Parquet files, streamed.

    Args:
        patterns: paths, globs, folders or addresses (`hf://datasets/...`, `s3://...`, `gs://...`).
        columns: names of columns; by default found by their usual names. Without a split column, splits come from file
            names.
        class_names: file of class names, in order of the labels.

    Raises:
        DataError: no such file, not Parquet, or a column is missing or of another type.
    """

    def __init__(self, patterns: list[str], columns: Columns | None = None, class_names: Path | None = None) -> None:
        super().__init__()
        self._files, self._columns = find_files(patterns, ".parquet", self.aside), columns or Columns()
        first = self._files[0]
        schema, where = self._schema(first), first.path
        self._names = {what: self._columns.find(what, schema, where) for what in COLUMNS}
        task = self._columns.task(schema, where)
        needed, optional = TASKS[task].needs, TASKS[task].may_have
        for what in needed:
            if self._names[what] is None:
                raise no_column(what, " or ".join(COLUMNS[what]), schema, where)
        # Nothing else is read: a column of another use may be of any type.
        self._names = {what: self._names[what] for what in (*needed, *optional)}
        self._check_alike(schema, first)
        self._classes: Classes | None = None
        self.kind = self._classified(task, schema, class_names) if "label" in self._names else Kind(task)
        self.split_names = frozenset(self._splits())

    def _check_alike(self, schema: pa.Schema, first: RemoteFile) -> None:
        """Check that all files have the needed columns, of readable types, and the same class names."""
        self._total, used = 0, {what: name for what, name in self._names.items() if name is not None}
        for file in self._files:
            with reached(file.path):
                own = self._schema(file)
                self._total += self._open(file).metadata.num_rows
            for what, name in used.items():
                if own.names.count(name) != 1:
                    count = own.names.count(name)
                    raise DataError(
                        f"{shown(file.path)} has {f'{count} columns' if count else 'no column'} {shown(name)}, unlike "
                        f"{shown(first.path)}; it has {shown(', '.join(own.names))}"
                    )
                check_type(what, name, own, file.path)
            label = used.get("label")
            if label and (
                is_whole(own.field(label).type) != is_whole(schema.field(label).type)
                or label_names(own, label, file.path) != label_names(schema, label, first.path)
            ):
                raise DataError(
                    f"{shown(file.path)} has other classes in column {shown(label)} than {shown(first.path)}: labels "
                    "would mean different things"
                )

    @property
    def is_remote(self) -> bool:
        """Whether a file is not on this machine."""
        return any(file.folder is None for file in self._files)

    @property
    def total(self) -> int:
        """Number of rows."""
        return self._total

    @property
    def files(self) -> list[Path]:
        """The files on this machine."""
        return [Path(file.path) for file in self._files if file.system is None]

    def identity(self) -> list[Any]:
        """Return the files' paths, sizes and times, and the columns."""
        return [*([file.path, *file.stamp] for file in self._files), self._names]

    def items(self) -> Iterator[Item | BadRow]:
        """Yield the rows, file by file."""
        used = [name for name in self._names.values() if name is not None]
        for file in self._files:
            number = 0
            for batch in self._batches(file, used):
                columns = {what: cells(batch.column(name)) for what, name in self._names.items() if name}
                for place in range(len(batch)):
                    yield self._item({what: values[place] for what, values in columns.items()}, file, number)
                    number += 1

    def _item(self, row: dict[str, Any], file: RemoteFile, number: int) -> Item | BadRow:
        name = readable(file.name)
        where = f"{shown(name)} row {number}"
        broken = next((value for value in row.values() if isinstance(value, Broken)), None)
        if broken is not None:
            return BadRow(where, broken.reason)
        struct = row["image"]
        path = struct.get("path") if isinstance(struct, dict) else None
        try:
            captions = checked_captions(captions_of(row["caption"])) if "caption" in row else ()
            label = self._number(row["label"]) if "label" in row else None
            group = self._group(row)
            split = file.split if self._names["split"] is None else _split(row["split"])
            pair = _pair(row["pair"], captions) if "pair" in row else None
        except ValueError as error:
            return BadRow(where, str(error))
        return Item(
            where,
            path or f"{name}/{number}",
            partial(image_bytes, struct, file.folder, where),
            tuple(captions),
            split,
            label,
            group,
            pair,
        )

    def _group(self, row: dict[str, Any]) -> str | None:
        if not self.kind.has_groups:
            return None
        if row["group"] is None:
            raise ValueError("the group is missing")
        return checked_name(str(row["group"]), "group")

    def _number(self, value: Any) -> int:
        """Return the number of a label's class."""
        if self._classes is None:
            if value is None:
                raise ValueError("the label is missing")
            count = len(self.kind.class_names)
            if not 0 <= value < count:
                raise ValueError(f"label {value} is not one of {counted(count, 'class', 'classes')}")
            return int(value)
        return self._classes.place[label_text(value)]

    def _classified(self, task: str, schema: pa.Schema, class_names: Path | None) -> Kind:
        column, has_groups = str(self._names["label"]), self._names["group"] is not None
        own = Own.of(schema, self._files[0].path)
        # Labels that are texts say what they are; only numbers are places in a list of names.
        is_number = is_whole(schema.field(column).type)
        names = label_names(schema, column, self._files[0].path) if is_number else ()
        if names:
            classes = Classes(own.labels if len(own.labels) == len(names) else names, names)
        else:
            classes = Classes.of(self._labels(column), shown(self._files[0].path))
        if class_names is not None:
            classes = classes.named(class_names)
        self._classes = None if names else classes
        return Kind(task, classes.names, own.templates, has_groups, classes.labels)

    def _labels(self, column: str) -> Iterator[str]:
        """Yield the distinct labels that can be used; rows with other labels are bad."""
        for value in self._values(column):
            try:
                yield label_text(value)
            except ValueError:
                continue

    def _splits(self) -> set[str]:
        column = self._names["split"]
        if column is None:
            return {file.split for file in self._files if file.split is not None}
        return {name for value in self._values(column) if (name := str(value).strip())}

    def _values(self, column: str) -> set[Any]:
        """Return the distinct values of a column of labels or splits, without those that cannot be read."""
        found = set()
        for file in self._files:
            for batch in self._batches(file, [column], MANY):
                found |= {value for value in cells(batch.column(0)) if not isinstance(value, Broken)}
        return found - {None}

    def _schema(self, file: RemoteFile) -> pa.Schema:
        with reading_parquet(readable(file.path)):
            return self._open(file).schema_arrow

    def _open(self, file: RemoteFile) -> pq.ParquetFile:
        with reached(file.path):
            return parquet_of(file.open_file(), readable(file.path) if file.system else Path(file.path))

    def _batches(self, file: RemoteFile, columns: list[str], size: int = BATCH) -> Iterator[pa.RecordBatch]:
        with reached(file.path), reading_parquet(readable(file.path)):
            yield from self._open(file).iter_batches(batch_size=size, columns=columns, use_threads=False)


def _split(value: Any) -> str | None:
    """Return the name of a split, which may be a number; None for a missing one."""
    text = "" if value is None else str(value).strip()
    return checked_name(text, "split") if text else None


def _pair(value: int | None, captions: Sequence[str]) -> int:
    if value is None:
        raise ValueError("the pair is missing")
    if len(captions) != 1:
        raise ValueError(f"an image of a pair has one caption; got {len(captions)}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"a pair is a number of 64 bits; got {value}")
    return value
