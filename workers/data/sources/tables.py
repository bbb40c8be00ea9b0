"""Photos in a folder with a CSV, JSON or JSONL of captions or labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headmask.border.reading import lines_of, parse_json, read_json, read_text
from headmask.border.shown import shown
from headmask.errors import DataError
from workers.data.columns import Columns
from workers.data.dataset import Kind
from workers.data.inside import name_key
from workers.data.labels import Classes, label_text
from workers.data.sources.base import BadRow, Entry, FolderSource, checked_captions, checked_name
from workers.data.sources.delimited import read_delimited

USUAL = {
    "image": ("image", "file", "filename", "file_name", "filepath", "path", "image_path", "img_filename", "image_name"),
    "caption": ("caption", "captions", "text", "sentence", "sentences", "comment"),
    "label": ("label", "class", "y"),
    "group": ("group",),
    "split": ("split",),
}
"""Usual names of columns, in lower case."""


@dataclass(frozen=True)
class _Raw:
    """A row as read."""

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
        table: CSV or TSV with a header, JSON or JSONL. Rows have an image path and a caption (several rows per image,
            or a list of captions), or a label and perhaps a group; and a split where the splits are given. JSON may
            also map paths to captions.
        columns: names of columns; `group` may be several, separated by commas, whose values together are the group.
        class_names: file of class names, in order of the labels.

    Raises:
        DataError: the table cannot be read, or has no column of images, or neither of captions nor of labels.
    """
    rows, bad_rows, has_labels = _read(table, columns or Columns())
    entries: dict[str, Entry] = {}
    labels: dict[str, str] = {}
    for raw in rows:
        try:
            name = checked_name(raw.image)
        except ValueError as error:
            bad_rows.append(BadRow(raw.where, str(error)))
            continue
        key = name_key(name)
        try:
            entry = _added(entries.get(key) or Entry(raw.where, name), raw)
            if has_labels:
                labels[key] = _label(labels.get(key), raw.label)
            else:
                entry.captions += checked_captions(raw.captions)
            entries[key] = entry
        except ValueError as error:
            bad_rows.append(BadRow(f"{raw.where} ({shown(name)})", str(error)))
    if not has_labels:
        return FolderSource(images, [table], list(entries.values()), bad_rows)
    if not labels and not bad_rows:
        raise DataError(f"{shown(table)} has no label")
    classes = Classes.of(labels.values(), shown(table))
    classes = classes if class_names is None or not labels else classes.named(class_names)
    for key, entry in entries.items():
        entry.label = classes.place[labels[key]]
    has_groups = any(entry.group is not None for entry in entries.values())
    if has_groups:
        bad_rows += [BadRow(entry.named, "the group is missing") for entry in entries.values() if entry.group is None]
        entries = {key: entry for key, entry in entries.items() if entry.group is not None}
    kind = Kind("classification", classes.names, has_groups=has_groups, labels=classes.labels)
    return FolderSource(images, [table], list(entries.values()), bad_rows, kind)


def _added(entry: Entry, raw: _Raw) -> Entry:
    for key, value in (("split", raw.split), ("group", raw.group)):
        text, before = _word(value, key), getattr(entry, key)
        if text and before and text != before:
            raise ValueError(f"{key} {shown(text)} contradicts {key} {shown(before)} before")
        setattr(entry, key, before or text)
    return entry


def _word(value: Any, what: str) -> str | None:
    """Return the name of a split or group, which may be a number; None for a missing one."""
    if value in (None, ""):
        return None
    if isinstance(value, int | float):
        return str(value)
    return checked_name(value, what)


def _label(before: str | None, value: Any) -> str:
    label = label_text(value)
    if before is not None and before != label:
        raise ValueError(
            f"label {shown(label)} contradicts label {shown(before)} before; multi-label data is not supported"
        )
    return label


def _read(path: Path, columns: Columns) -> tuple[Iterator[_Raw], list[BadRow], bool]:
    """Return the rows of a table, those that cannot be read, and whether there are labels instead of captions."""
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise DataError(f"the caption file must be {', '.join(_READERS)}; got {shown(path.name) or shown(path)}")
    rows, bad_rows, header = _READERS[suffix](path, columns)
    names = _names(columns, header, path)
    if "image" not in names or not {"caption", "label"} & names.keys():
        usual = {what: ", ".join(USUAL[what]) for what in USUAL}
        raise DataError(
            f"{shown(path)} needs an image column ({usual['image']}) and a caption column ({usual['caption']}) or a "
            f"label column ({usual['label']}); got {shown(', '.join(header))[:300] or 'nothing'}. Name them with "
            "--image-column, --caption-column, --label-column"
        )
    return (_raw(where, row, names) for where, row in rows), bad_rows, "caption" not in names


_Rows = tuple[list[tuple[str, dict[str, Any]]], list[BadRow], list[str]]
"""Location of each row with its cells by lower-case name; rows that cannot be read; all column names."""


def _names(columns: Columns, header: Collection[str], path: Path) -> dict[str, tuple[str, ...]]:
    """Return the possible names of columns by what they hold, if they occur; captions go before labels.

    Raises:
        DataError: a column asked for by name does not exist.
    """
    names: dict[str, tuple[str, ...]] = {}
    for what, usual in USUAL.items():
        asked = getattr(columns, what)
        wanted = tuple(part.strip().lower() for part in asked.split(",")) if asked else usual
        missing = [name for name in wanted if name not in header]
        if asked and missing:
            raise DataError(
                f"{shown(path)} has no column {shown(missing[0])}; it has {shown(', '.join(header))[:300] or 'none'}"
            )
        if len(missing) < len(wanted):
            names[what] = wanted
    names.pop("caption" if columns.label else "label" if "caption" in names else "", None)
    return names


def _raw(where: str, row: dict[str, Any], names: dict[str, tuple[str, ...]]) -> _Raw:
    # The first column that a row has, not the first that is filled: another one may hold something else.
    cells = {what: [row[name] for name in names.get(what, ()) if name in row] for what in USUAL}
    first = {what: found[0] if found else None for what, found in cells.items()}
    captions = first["caption"] if isinstance(first["caption"], list) else [first["caption"]]
    groups = cells["group"]
    group: Any = groups
    if any(each in (None, "") for each in groups):
        group = None
    elif all(isinstance(each, str | int | float) for each in groups):
        group = ", ".join(map(str, groups))
    return _Raw(where, first["image"], captions, first["label"], group, first["split"])


def _from_delimited(path: Path, columns: Columns) -> _Rows:
    table = read_delimited(
        read_text(path, "caption file", DataError),
        shown(path),
        lambda header: sum(what in header for what in _looked_for(columns)),
        lambda line: f"line {line}",
    )
    return list(table.rows), table.bad_rows, table.header


def _looked_for(columns: Columns) -> set[str]:
    """Return the requested names of columns, or the usual ones."""
    asked = [getattr(columns, what) for what in USUAL if getattr(columns, what)]
    return {name for names in USUAL.values() for name in names} | {
        part.strip().lower() for each in asked for part in each.split(",")
    }


def _from_json(path: Path, columns: Columns) -> _Rows:
    content = read_json(path, "caption file", DataError, any_text=True)
    if isinstance(content, dict):
        content = [{"image": name, "captions": captions} for name, captions in content.items()]
    if not isinstance(content, list):
        raise DataError(f"{shown(path)} must hold a list of objects, or one object of paths and captions")
    return _objects(path, [(f"entry {number}", item) for number, item in enumerate(content, start=1)])


def _from_json_lines(path: Path, columns: Columns) -> _Rows:
    found, bad_rows = [], []
    for number, line in enumerate(lines_of(read_text(path, "caption file", DataError)), start=1):
        if not line.strip():
            continue
        try:
            found.append((f"line {number}", parse_json(line, "the line", DataError, any_text=True)))
        except DataError as error:
            bad_rows.append(BadRow(f"line {number}", str(error)))
    if bad_rows and not found:
        raise DataError(f"{shown(path)} is not JSON in lines: {bad_rows[0]}")
    rows, others, header = _objects(path, found)
    return rows, bad_rows + others, header


def _objects(path: Path, content: list[tuple[str, Any]]) -> _Rows:
    """Return objects as rows, with their keys in lower case."""
    rows, bad_rows = [], []
    for where, item in content:
        if not isinstance(item, dict):
            got = shown(repr(item)[:60])
            raise DataError(f"{shown(path)} {where} must be an object with image and caption; got {got}")
        row = {name.lower(): value for name, value in item.items()}
        if len(row) < len(item):
            bad_rows.append(BadRow(where, "two of its keys differ in capital letters alone"))
        else:
            rows.append((where, row))
    return rows, bad_rows, list(dict.fromkeys(name for _, row in rows for name in row))


_READERS: dict[str, Callable[[Path, Columns], _Rows]] = {
    ".csv": _from_delimited,
    ".tsv": _from_delimited,
    ".json": _from_json,
    ".jsonl": _from_json_lines,
}
