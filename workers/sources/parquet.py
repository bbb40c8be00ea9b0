"""Parquet of the Hugging Face hub: images with captions or labels, one file or many, here or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headmask.errors import DataError
from workers.columns import COLUMNS, Columns, check_type, label_names, no_column
from workers.dataset import Kind, captions_of, image_bytes
from workers.prompts import read_class_names
from workers.sources.base import BadRow, Item, Source, checked_captions
from workers.sources.files import RemoteFile, find_files, reached, split_of

BATCH = 16


class ParquetSource(Source):
    """Rows of Parquet files, streamed.

    Args:
        patterns: paths, globs, folders or addresses (`hf://datasets/...`, `s3://...`, `gs://...`).
        columns: names of columns; found by what they are usually called. Without a split column, a file's name tells
            its split.
        class_names: file of class names, in order of the labels.

    Raises:
        DataError: no such file, not Parquet, or a column is missing or of another type.
    """

    def __init__(self, patterns: list[str], columns: Columns | None = None, class_names: Path | None = None) -> None:
        self._files, self._columns = find_files(patterns, ".parquet"), columns or Columns()
        first = self._open(self._files[0])
        schema, where = first.schema_arrow, self._files[0].path
        self._names = {what: self._columns.find(what, schema, where) for what in COLUMNS}
        task = self._columns.task(schema, where)
        self._texts = "label" if task == "classification" else "caption"
        for what in ("image", self._texts):
            if self._names[what] is None:
                raise no_column(what, " or ".join(COLUMNS[what]), schema, where)
            check_type(what, str(self._names[what]), schema, where)
        self._total = 0
        for file in self._files:
            opened = self._open(file)
            self._total += opened.metadata.num_rows
            if opened.schema_arrow.names != schema.names:
                raise DataError(f"{file.path} has other columns than {where}: {', '.join(opened.schema_arrow.names)}")
        self._label: Callable[[Any], int] = int
        self.kind = Kind("matching" if task == "matching" else "retrieval")
        if task == "classification":
            self.kind = self._classes(schema, class_names)
        self.split_names = frozenset(self._splits())

    @property
    def total(self) -> int:
        """Number of rows."""
        return self._total

    def identity(self) -> list[Any]:
        """Return the files' places, sizes and times, and the columns."""
        return [*([file.path, *file.stamp] for file in self._files), self._names]

    def items(self) -> Iterator[Item | BadRow]:
        """Yield the rows, file by file."""
        used = [name for name in self._names.values() if name is not None]
        for file in self._files:
            number = 0
            for batch in self._batches(file, used):
                cells = {what: batch.column(name).to_pylist() for what, name in self._names.items() if name}
                for place in range(len(batch)):
                    yield self._item({what: values[place] for what, values in cells.items()}, file, number)
                    number += 1

    def _item(self, cells: dict[str, Any], file: RemoteFile, number: int) -> Item | BadRow:
        where = f"{file.name} row {number}"
        struct = cells["image"]
        path = struct.get("path") if isinstance(struct, dict) else None
        split = cells.get("split") or (None if self._names["split"] else split_of(file.path))
        try:
            captions = checked_captions(captions_of(cells["caption"])) if self._texts == "caption" else ()
            label = self._label_of(cells) if self._texts == "label" else None
        except ValueError as error:
            return BadRow(where, str(error))
        group = cells.get("group") if self.kind.has_groups else None
        return Item(
            where,
            path or f"{file.name}/{number}",
            partial(image_bytes, struct, file.folder, where),
            tuple(captions),
            split,
            label,
            None if group is None else str(group),
            cells.get("pair") if self.kind.task == "matching" else None,
        )

    def _label_of(self, cells: dict[str, Any]) -> int:
        if cells["label"] is None:
            raise ValueError("the label is missing")
        label = self._label(cells["label"])
        if not 0 <= label < len(self.kind.class_names):
            raise ValueError(f"label {label} is not one of {len(self.kind.class_names)} classes")
        return label

    def _classes(self, schema: pa.Schema, class_names: Path | None) -> Kind:
        column = str(self._names["label"])
        names: Sequence[str] = label_names(schema, column)
        if not names:
            values = self._values(column)
            if any(isinstance(value, str) for value in values):
                names = sorted(values)
                places = {name: number for number, name in enumerate(names)}
                self._label = places.__getitem__
            else:
                names = [str(number) for number in range(max(values, default=-1) + 1)]
        if class_names is not None:
            names = read_class_names(class_names, names)
        return Kind("classification", tuple(names), has_groups=self._names["group"] is not None)

    def _splits(self) -> set[str]:
        column = self._names["split"]
        if column is None:
            return {split for file in self._files if (split := split_of(file.path)) is not None}
        return self._values(column)

    def _values(self, column: str) -> set[Any]:
        """Return the distinct values of a column of labels or splits."""
        cells = (batch.column(0).unique() for file in self._files for batch in self._batches(file, [column]))
        return {value for each in cells for value in each.to_pylist() if value is not None}

    def _open(self, file: RemoteFile) -> pq.ParquetFile:
        with reached(file.path):
            return pq.ParquetFile(file.system.open_input_file(file.path))

    def _batches(self, file: RemoteFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with reached(file.path):
            yield from self._open(file).iter_batches(batch_size=BATCH, columns=columns, use_threads=False)
