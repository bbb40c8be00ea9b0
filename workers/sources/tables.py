"""Photos in a folder with a CSV, JSON or JSONL of captions or labels."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headmask.errors import DataError
from workers.columns import Columns
from workers.dataset import Kind
from workers.prompts import read_class_names
from workers.sources.base import BadRow, Entry, FolderSource, checked_captions, read_text

USUAL = {
    "image": ("image", "file", "filename", "file_name", "filepath", "path", "image_path", "img_filename", "image_name"),
    "caption": ("caption", "captions", "text", "sentence", "sentences", "comment"),
    "label": ("label", "class", "y"),
    "group": ("group",),
    "split": ("split",),
}
"""What columns are usually called, in lower case."""


@dataclass(frozen=True)
class _Raw:
    """A row as found."""

    where: str
    image: Any
    captions: list[Any]
    label: Any
    group: Any
    split: Any


def folder(images: Path, table: Path, columns: Columns | None = None, class_names: Path | None = None) -> FolderSource:
    """Return a folder of images with the captions or labels of a table.

    Args:
        images: the folder; paths in the table are relative to it.
        table: CSV with a header, JSON or JSONL. Rows have an image path and a caption (several rows per image, or a
            list of captions), or a label and perhaps a group; and a split where the splits are given. JSON may also
            map paths to captions.
        columns: names of columns; `group` may be several, separated by commas, whose values together are the group.
        class_names: file of class names, in order of the labels.

    Raises:
        DataError: the table cannot be read, or has no column of images, or neither of captions nor of labels.
    """
    rows, has_labels = _read(table, columns or Columns())
    entries: dict[str, Entry] = {}
    labels: dict[str, str] = {}
    bad_rows = []
    for raw in rows:
        if not isinstance(raw.image, str) or not raw.image.strip():
            bad_rows.append(BadRow(raw.where, "no image is named"))
            continue
        name = raw.image.strip()
        try:
            entry = _added(entries, name, raw)
            if has_labels:
                labels[name] = _label(labels.get(name), raw.label)
            else:
                entry.captions += checked_captions(raw.captions)
            entries[name] = entry
        except ValueError as error:
            bad_rows.append(BadRow(f"{raw.where} ({name})", str(error)))
    if not has_labels:
        return FolderSource(images, [table], list(entries.values()), bad_rows)
    if not labels and not bad_rows:
        raise DataError(f"{table} has no label")
    names = _number(entries, labels, class_names)
    kind = Kind("classification", names, has_groups=any(entry.group is not None for entry in entries.values()))
    return FolderSource(images, [table], list(entries.values()), bad_rows, kind)


def _added(entries: dict[str, Entry], name: str, raw: _Raw) -> Entry:
    entry = entries.get(name) or Entry(raw.where, name)
    for key, value in (("split", raw.split), ("group", raw.group)):
        text, before = None if value in (None, "") else str(value), getattr(entry, key)
        if text and before and text != before:
            raise ValueError(f"{key} {text} contradicts {key} {before} before")
        setattr(entry, key, before or text)
    return entry


def _label(before: str | None, value: Any) -> str:
    if isinstance(value, list):
        raise ValueError("several labels for one image; multi-label data is not supported")
    if value in (None, ""):
        raise ValueError("the label is missing")
    if before is not None and before != str(value):
        raise ValueError(f"label {value} contradicts label {before} before; multi-label data is not supported")
    return str(value)


def _number(entries: dict[str, Entry], labels: dict[str, str], class_names: Path | None) -> tuple[str, ...]:
    """Give every entry the number of its class, and return the names of the classes."""
    found = sorted(set(labels.values()))
    if all(label.isdecimal() for label in found):
        own = tuple(str(number) for number in range(max(map(int, found), default=-1) + 1))
    else:
        own = tuple(found)
    places = {label: number for number, label in enumerate(own)}
    for name, entry in entries.items():
        entry.label = places[str(int(labels[name])) if own[0] == "0" and labels[name].isdecimal() else labels[name]]
    return read_class_names(class_names, own) if class_names else own


def _read(path: Path, columns: Columns) -> tuple[Iterator[_Raw], bool]:
    """Return the rows of a table, and whether they have labels instead of captions."""
    text = read_text(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".json", ".jsonl"):
        raise DataError(f"the caption file must be .csv, .json or .jsonl; got {path.name}")
    rows, header = _from_csv(text) if suffix == ".csv" else _from_json(text, path, lines=suffix == ".jsonl")
    names = _names(columns, header, path)
    if "image" not in names or not {"caption", "label"} & names.keys():
        usual = {what: ", ".join(USUAL[what]) for what in USUAL}
        raise DataError(
            f"{path} needs an image column ({usual['image']}) and a caption column ({usual['caption']}) or a label "
            f"column ({usual['label']}); got {', '.join(header) or 'nothing'}. Name them with --image-column, "
            "--caption-column, --label-column"
        )
    return (_raw(where, row, names) for where, row in rows), "caption" not in names


_Rows = tuple[list[tuple[str, dict[str, Any]]], list[str]]
"""Where each row stands and its cells by lower-case name; and all names."""


def _names(columns: Columns, header: Collection[str], path: Path) -> dict[str, tuple[str, ...]]:
    """Return what columns may be called by what they hold, those that are nowhere left out; captions go before labels.

    Raises:
        DataError: a column that is named is not there.
    """
    names: dict[str, tuple[str, ...]] = {}
    for what, usual in USUAL.items():
        asked = getattr(columns, what)
        wanted = tuple(part.strip().lower() for part in asked.split(",")) if asked else usual
        missing = [name for name in wanted if name not in header]
        if asked and missing:
            raise DataError(f"{path} has no column {missing[0]}; it has {', '.join(header) or 'none'}")
        if len(missing) < len(wanted):
            names[what] = wanted
    names.pop("caption" if columns.label else "label" if "caption" in names else "", None)
    return names


def _raw(where: str, row: dict[str, Any], names: dict[str, tuple[str, ...]]) -> _Raw:
    cells = {what: [row[name] for name in names.get(what, ()) if row.get(name) not in (None, "")] for what in USUAL}
    first = {what: found[0] if found else None for what, found in cells.items()}
    captions = first["caption"] if isinstance(first["caption"], list) else [first["caption"]]
    group = ", ".join(map(str, cells["group"])) or None
    return _Raw(where, first["image"], captions, first["label"], group, first["split"])


def _from_csv(text: str) -> _Rows:
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = [name.strip().lower() for name in reader.fieldnames or []]
    return [(f"line {reader.line_num}", dict(zip(header, row.values(), strict=False))) for row in reader], header


def _from_json(text: str, path: Path, *, lines: bool) -> _Rows:
    try:
        content = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if isinstance(content, dict):
        content = [{"image": name, "captions": captions} for name, captions in content.items()]
    if not isinstance(content, list):
        raise DataError(f"{path} must hold a list of objects, or one object of paths and captions")
    for number, item in enumerate(content, start=1):
        if not isinstance(item, dict):
            raise DataError(f"{path} entry {number} must be an object with image and caption; got {item!r}")
    rows = [{name.lower(): value for name, value in item.items()} for item in content]
    header = list(dict.fromkeys(name for row in rows for name in row))
    return [(f"entry {number}", row) for number, row in enumerate(rows, 1)], header
