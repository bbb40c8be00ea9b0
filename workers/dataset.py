"""Data sets as Parquet, in the layouts of the Hugging Face hub.

One row per image: `image` struct<bytes, path>; `caption` list<string> for retrieval and matching, with `pair` for the
latter; `label` for classification, with `group` where there are groups; `split` where the splits are given. Captions
may be a plain string, labels integers or names, and bytes may be null, with a path relative to the file's folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headmask.errors import DataError
from workers.columns import COLUMNS, Columns, check_labels, check_type, label_names, no_column
from workers.tasks import TaskName

ROW_GROUP = 100
GROUP_BYTES = 1 << 26
_NEEDED: dict[TaskName, tuple[str, ...]] = {
    "retrieval": ("image", "caption"),
    "classification": ("image", "label"),
    "matching": ("image", "caption", "pair"),
}


@dataclass(frozen=True)
class Row:
    """One image with what belongs to it."""

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
    """What a data set is for."""

    task: TaskName = "retrieval"
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    """Prompt templates that came with the data, with {c} for the class name."""
    has_groups: bool = False

    def schema(self) -> pa.Schema:
        """Return the columns of a file, with their description for the Hugging Face hub."""
        string = {"dtype": "string", "_type": "Value"}
        columns: dict[str, tuple[pa.DataType, dict[str, Any]]] = {
            "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"})
        }
        if self.task == "classification":
            columns["label"] = pa.int64(), {"names": list(self.class_names), "_type": "ClassLabel"}
            if self.has_groups:
                columns["group"] = pa.string(), string
        else:
            columns["caption"] = pa.list_(pa.string()), {"feature": string, "_type": "List"}
        if self.task == "matching":
            columns["pair"] = pa.int64(), {"dtype": "int64", "_type": "Value"}
        columns["split"] = pa.string(), string
        features = {name: feature for name, (_, feature) in columns.items()}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        if self.templates:
            metadata["headmask"] = json.dumps({"templates": list(self.templates)})
        return pa.schema([(name, kind) for name, (kind, _) in columns.items()], metadata=metadata)


def write_dataset(path: Path, rows: Iterable[Row], kind: Kind | None = None) -> int:
    """Write rows in groups of 100, and return how many there were. The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    schema = (kind or Kind()).schema()
    count = 0
    try:
        with pq.ParquetWriter(temporary, schema) as writer:
            for group in groups_of(rows):
                writer.write_table(table_of(group, schema))
                count += len(group)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
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
        columns: their names.
        task: what the file is for; found by its columns when None.

    Raises:
        DataError: no such file, not Parquet, a column is missing or of another type, or there are no rows.
    """

    def __init__(self, path: Path, columns: Columns | None = None, *, task: TaskName | None = None) -> None:
        self.path = path
        columns = columns or Columns()
        try:
            self._file = pq.ParquetFile(path)
        except FileNotFoundError:
            raise DataError(f"there is no data file at {path}; make one with `headmask data build`") from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
        schema = self._file.schema_arrow
        self.task: TaskName = task or columns.task(schema, str(path))
        self._names = {what: columns.find(what, schema, str(path)) for what in COLUMNS}
        for what in _NEEDED[self.task]:
            if self._names[what] is None:
                raise no_column(what, " or ".join(COLUMNS[what]), schema, str(path))
            check_type(what, str(self._names[what]), schema, str(path))
        if not len(self):
            raise DataError(f"{path} has no rows")

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
                raise DataError(
                    f"{self.path} row {number}: every image needs captions, none of them empty; got {captions!r}"
                )
            found.append(captions)
        return found

    def raw_captions(self) -> list[tuple[Any, ...]]:
        """Return the captions of every image as they are, empty ones and all."""
        return [captions_of(value) for value in self._read("caption")]

    def labels(self) -> tuple[list[int], tuple[str, ...]]:
        """Return the class of every image and the names of all classes.

        Names are those of the file's description, or the labels themselves in order of the alphabet.

        Raises:
            DataError: a label is missing, or names no class.
        """
        values = self._read("label")
        for number, value in enumerate(values):
            if value is None:
                raise DataError(f"{self.path} row {number}: the label is missing")
        if isinstance(values[0], str):
            names = tuple(sorted(set(values)))
            place = {name: index for index, name in enumerate(names)}
            return [place[value] for value in values], names
        names = label_names(self._file.schema_arrow, str(self._names["label"]))
        names = names or tuple(str(label) for label in range(max(values) + 1))
        check_labels(values, len(names), str(self.path))
        return values, names

    def groups(self) -> list[str] | None:
        """Return the group of every image; None where the file gives none.

        Raises:
            DataError: some images have a group and others none.
        """
        if self._names["group"] is None:
            return None
        groups = self._read("group")
        if None in groups:
            raise DataError(f"{self.path} row {groups.index(None)}: the group is missing")
        return [str(group) for group in groups]

    def pairs(self) -> list[int]:
        """Return the pair of every image."""
        return self._read("pair")

    def splits(self) -> list[str | None] | None:
        """Return the split of every image; None where the file gives none."""
        if self._names["split"] is None:
            return None
        splits = self._read("split")
        return None if all(split is None for split in splits) else splits

    def templates(self) -> tuple[str, ...]:
        """Return the prompt templates that came with the data; there may be none."""
        content = (self._file.schema_arrow.metadata or {}).get(b"headmask", b"{}")
        return tuple(json.loads(content).get("templates", ()))

    def images(self) -> Iterator[bytes]:
        """Yield the encoded image of every row, one row group in memory at a time.

        Raises:
            DataError: neither bytes nor a readable file inside the data file's folder.
        """
        number = 0
        for batch in self._batches("image"):
            for value in batch.column(0).to_pylist():
                yield image_bytes(value, self.path.parent, f"{self.path} row {number}")
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
            if wanted := [row for row in rows if start <= row < stop]:
                column = self._column(group, str(name))
                found |= {row: column[row - start].as_py() for row in wanted}
            start = stop
        return found

    def _column(self, group: int, name: str) -> pa.ChunkedArray:
        try:
            return self._file.read_row_group(group, columns=[name], use_threads=False).column(0)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self.path} is damaged: {str(error).splitlines()[0]}")

    def _read(self, what: str) -> list[Any]:
        return [value for batch in self._batches(what) for value in batch.column(0).to_pylist()]

    def _batches(self, what: str) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._file.iter_batches(batch_size=ROW_GROUP, columns=[self._names[what]], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None


def captions_of(value: Any) -> tuple[Any, ...]:
    """Return a cell of a caption column as captions."""
    return (value,) if isinstance(value, str) else tuple(value or ())


def image_bytes(value: Any, folder: Path | None, where: str) -> bytes:
    """Return the encoded image of a cell of an image column.

    Args:
        value: bytes, or a struct of bytes and path.
        folder: where paths lead from; None where only bytes can be had.
        where: names the cell in errors.

    Raises:
        DataError: neither bytes nor a readable file inside the folder.
    """
    if isinstance(value, bytes):
        return value
    content: bytes | None = None if value is None else value.get("bytes")
    if content is not None:
        return content
    path = None if value is None else value.get("path")
    if not path or folder is None:
        raise DataError(f"{where}: the image has neither bytes nor a path" + ("" if not path else " that can be read"))
    return read_inside(folder, path, where)


def read_inside(folder: Path, name: str, where: str) -> bytes:
    """Return a file's content by its path relative to a folder.

    Raises:
        DataError: the path leads out of the folder, or the file cannot be read.
    """
    base = folder.resolve()
    try:
        target = (base / name).resolve()
        content = target.read_bytes() if target.is_relative_to(base) else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{where}: cannot read {name!r} in {folder} ({reason})") from None
    if content is None:
        raise DataError(f"{where}: path {name!r} leads out of {folder}")
    return content
