"""Tables separated by commas, tabs or semicolons, with every row checked against the header."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from headmask.border.shown import counted, shown
from headmask.errors import DataError
from workers.data.sources.base import BadRow

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}


@dataclass
class Delimited:
    """Rows by the lower-case names of their columns, each with its location, and rows that do not fit."""

    header: list[str]
    rows: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)


def read_delimited(
    text: str, where: str, score: Callable[[Collection[str]], int], place: Callable[[int], str]
) -> Delimited:
    """Return a table with a header.

    Args:
        text: content of the file.
        where: name of the file in errors.
        score: how well a header fits (higher is better), for choosing the separator.
        place: returns the name of a line in errors.

    Raises:
        DataError: two columns have one name, or the header cannot be read.
    """
    separator, header = _header(text, where, score)
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(f"{where} has {header.count(twice[0])} columns called '{shown(twice[0])}'; rename all but one")
    table = Delimited([name for name in header if name])
    reader = _reader(text, separator)
    next(reader, None)
    while True:
        before = reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            return table
        except csv.Error as error:
            table.bad_rows.append(BadRow(_lines(place, before + 1, reader.line_num), _quoted(str(error))))
            continue
        line = place(before + 1)
        if not row:
            continue
        if len(row) != len(header):
            fields = counted(len(row), "field")
            reason = f"the row has {fields}, the header has {len(header)}"
            if len(row) > len(header):
                reason += f"; put a field with {SEPARATORS[separator]} in it between quotation marks"
            table.bad_rows.append(BadRow(line, reason))
        else:
            table.rows.append((line, {name: cell for name, cell in zip(header, row, strict=True) if name}))


def _header(text: str, where: str, score: Callable[[Collection[str]], int]) -> tuple[str, list[str]]:
    """Return the separator under which the first row fits best, and the names in it."""
    found, reasons = [], []
    for separator in SEPARATORS:
        try:
            names = [name.strip().lower() for name in next(_reader(text, separator), [])]
        except csv.Error as error:
            # Quotation marks around names are no mistake if another separator fits.
            reasons.append(_quoted(str(error)))
        else:
            found.append((score(names), len(names), separator, names))
    if not found:
        raise DataError(f"{where}: the header cannot be read: {reasons[0]}")
    # Commas first among equals.
    best = max(found, key=lambda each: each[:2])
    return best[2], best[3]


def _reader(text: str, separator: str) -> Any:
    csv.field_size_limit(sys.maxsize)
    # Not the text itself: csv takes lines, and would be given single letters.
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)


def _quoted(reason: str) -> str:
    if "unexpected end" in reason:
        return "a quotation mark is opened and not closed, so that all that follows is one field"
    if "expected after" in reason:
        return "a quotation mark is closed within a field; write it twice where it belongs to the text"
    return reason


def _lines(place: Callable[[int], str], first: int, last: int) -> str:
    return place(first) if last <= first else f"{place(first)} to {last}"
