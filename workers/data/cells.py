"""Parquet files written by others: any damage is one message, and broken text affects only its cell."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from headmask.border.reading import check_file, lfs_hint
from headmask.border.shown import shown
from headmask.errors import DataError

_BEYOND = (pa.ArrowNotImplementedError, pa.ArrowCapacityError, MemoryError)


@dataclass(frozen=True)
class Broken:
    """A cell that cannot be read."""

    reason: str


def cells(column: pa.Array) -> list[Any]:
    """Return the values of a column; `Broken` for text that is not UTF-8."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        return [_cell(column, place) for place in range(len(column))]
    return values


def _cell(column: pa.Array, place: int) -> Any:
    try:
        return column[place].as_py()
    except UnicodeDecodeError as error:
        return Broken(f"the text is not UTF-8 (byte 0x{error.object[error.start]:02x})")


@contextmanager
def reading_parquet(where: str | Path) -> Iterator[None]:
    """Turn pyarrow's errors while it reads a file into one message.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeDecodeError) as error:
        reason = shown(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300])
        if isinstance(error, _BEYOND):
            raise DataError(
                f"{shown(where)} is more than pyarrow {pa.__version__} can read: {reason}. Write it again with smaller "
                "row groups, or without the feature that is named"
            ) from None
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"cannot read {shown(where)}: {error.strerror or reason}") from None
        raise DataError(f"{shown(where)} is damaged: {reason}") from None


def open_parquet(path: Path) -> pq.ParquetFile:
    """Return a Parquet file opened for reading.

    Raises:
        DataError: there is no such file, or it is not Parquet.
    """
    check_data_file(path)
    return parquet_of(openable(path), path)


def check_data_file(path: Path) -> None:
    """Check that a path names a file, without opening it.

    Raises:
        DataError: it does not.
    """
    if not os.path.lexists(path):
        raise DataError(f"there is no data file at {shown(path)}; make one with `headmask data build`")
    check_file(path, "data file", DataError)


def openable(path: Path) -> str | IO[bytes]:
    """Return what pyarrow can open: a path, or the opened file if its name is not UTF-8, which pyarrow requires."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.open("rb")
    return str(path)


def parquet_of(source: Any, where: str | Path) -> pq.ParquetFile:
    """Return anything that pyarrow opens as a Parquet file.

    Raises:
        DataError: it is not Parquet.
    """
    try:
        return pq.ParquetFile(source)
    except (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeDecodeError) as error:
        reason = shown((str(error).splitlines() or [type(error).__name__])[0][:300])
        if isinstance(where, Path) and where.is_file():
            with where.open("rb") as file:
                reason = lfs_hint(file.read(40)) or reason
        raise DataError(f"{shown(where)} cannot be read as Parquet: {reason}") from None


def first_broken(values: Iterable[Any]) -> tuple[int, Broken] | None:
    """Return the first cell that cannot be read, with its location."""
    return next(((place, value) for place, value in enumerate(values) if isinstance(value, Broken)), None)
