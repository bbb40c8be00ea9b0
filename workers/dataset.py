"""Image-caption data as Parquet, in the Hugging Face layout.

Columns: `image` struct<bytes, path>, `caption` list<string>, and `split` where the splits are given. Captions may be a
plain string, and bytes may be null, with a path relative to the file's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headmask.errors import DataError

ROW_GROUP = 100
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("caption", pa.list_(pa.string())),
        ("split", pa.string()),
    ],
    metadata={
        "huggingface": json.dumps(
            {
                "info": {
                    "features": {
                        "image": {"_type": "Image"},
                        "caption": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
                        "split": {"dtype": "string", "_type": "Value"},
                    }
                }
            }
        )
    },
)
IMAGE_COLUMNS = ("image", "img", "jpg")
CAPTION_COLUMNS = ("caption", "captions", "text", "sentences")


@dataclass(frozen=True)
class Row:
    """One image with its captions."""

    path: str
    image: bytes
    """The encoded file."""
    captions: tuple[str, ...]
    split: str | None = None


def write_dataset(path: Path, rows: Iterable[Row]) -> int:
    """Write rows in groups of 100, and return how many there were. The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    count = 0
    try:
        with pq.ParquetWriter(temporary, SCHEMA) as writer:
            for group in _groups(rows):
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                count += len(group)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _groups(rows: Iterable[Row]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        image = {"bytes": row.image, "path": row.path}
        group.append({"image": image, "caption": list(row.captions), "split": row.split})
        if len(group) == ROW_GROUP:
            yield group
            group = []
    if group:
        yield group


class Dataset:
    """A Parquet file of images and captions, opened for reading.

    Args:
        path: the file.
        image_column: name of the image column; found by the usual names when None.
        caption_column: likewise.
        split_column: name of the split column; `split` where there is one when None.

    Raises:
        DataError: no such file, not Parquet, a column is missing or of another type, or there are no rows.
    """

    def __init__(
        self,
        path: Path,
        *,
        image_column: str | None = None,
        caption_column: str | None = None,
        split_column: str | None = None,
    ) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
        except FileNotFoundError:
            raise DataError(f"there is no data file at {path}; make one with `headmask data build`") from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
        self._image = self._column("image", image_column, IMAGE_COLUMNS)
        self._caption = self._column("caption", caption_column, CAPTION_COLUMNS)
        self._split = self._optional_split(split_column)
        self._check_types()
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
        for number, value in enumerate(self._read(self._caption)):
            captions = (value,) if isinstance(value, str) else tuple(value or ())
            if not captions or any(caption is None or not caption.strip() for caption in captions):
                raise DataError(
                    f"{self.path} row {number}: every image needs captions, none of them empty; got {value!r}"
                )
            found.append(captions)
        return found

    def splits(self) -> list[str | None] | None:
        """Return the split of every image; None where the file gives none."""
        if self._split is None:
            return None
        splits = self._read(self._split)
        return None if all(split is None for split in splits) else splits

    def images(self) -> Iterator[bytes]:
        """Yield the encoded image of every row, one row group in memory at a time.

        Raises:
            DataError: neither bytes nor a readable file inside the data file's folder.
        """
        number = 0
        for batch in self._batches(self._image):
            for value in batch.column(0).to_pylist():
                yield self._encoded(value, number)
                number += 1

    def _encoded(self, value: Any, number: int) -> bytes:
        if isinstance(value, bytes):
            return value
        if value is None or (value.get("bytes") is None and not value.get("path")):
            raise DataError(f"{self.path} row {number}: the image has neither bytes nor a path")
        content: bytes | None = value.get("bytes")
        return (
            content
            if content is not None
            else read_inside(self.path.parent, value["path"], f"{self.path} row {number}")
        )

    def _read(self, column: str) -> list[Any]:
        return [value for batch in self._batches(column) for value in batch.column(0).to_pylist()]

    def _batches(self, column: str) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._file.iter_batches(batch_size=ROW_GROUP, columns=[column], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} is damaged: {str(error).splitlines()[0]}") from None

    def _column(self, what: str, asked: str | None, usual: Sequence[str]) -> str:
        names = self._file.schema_arrow.names
        for name in [asked] if asked else usual:
            if name in names:
                return name
        wanted = asked or " or ".join(usual)
        raise DataError(
            f"{self.path} has no {what} column {wanted}; it has {', '.join(names)}. Name one with --{what}-column"
        )

    def _optional_split(self, asked: str | None) -> str | None:
        if asked is None and "split" not in self._file.schema_arrow.names:
            return None
        return self._column("split", asked, ("split",))

    def _check_types(self) -> None:
        schema = self._file.schema_arrow
        image, caption = schema.field(self._image).type, schema.field(self._caption).type
        is_struct = pa.types.is_struct(image) and {"bytes", "path"} & {field.name for field in image}
        if not (is_struct or _is_binary(image)):
            raise DataError(
                f"{self.path}: image column {self._image} must be struct<bytes, path> or binary; got {image}"
            )
        listed = caption.value_type if pa.types.is_list(caption) or pa.types.is_large_list(caption) else caption
        if not (pa.types.is_string(listed) or pa.types.is_large_string(listed)):
            raise DataError(
                f"{self.path}: caption column {self._caption} must be string or list<string>; got {caption}"
            )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


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
