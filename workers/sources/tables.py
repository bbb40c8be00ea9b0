"""Photos in a folder with a CSV, JSON or JSONL of captions or labels."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headmask.errors import DataError
from workers.columns import Columns
from workers.dataset import Kind
from workers.prompts import read_class_names
from workers.sources.base import BadRow, Entry, FolderSource, checked_captions

IMAGE_KEYS = ("image", "file", "filename", "file_name", "filepath", "path", "image_path", "img_filename", "image_name")
CAPTION_KEYS = ("caption", "captions", "text", "sentence", "sentences", "comment")
LABEL_KEYS = ("label", "class", "y")
GROUP_KEYS = ("group",)
SPLIT_KEYS = ("split",)


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
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"there is no caption file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _from_csv(text, path, columns)
    if suffix in (".json", ".jsonl"):
        return _from_json(text, path, columns, lines=suffix == ".jsonl")
    raise DataError(f"the caption file must be .csv, .json or .jsonl; got {path.name}")


@dataclass(frozen=True)
class _Keys:
    """Names of columns in a table."""

    image: str | None
    caption: str | None
    label: str | None
    groups: tuple[str, ...]
    split: str | None

    @classmethod
    def find(cls, header: dict[str, str], columns: Columns, path: Path) -> _Keys:
        """Return the columns that are asked for, or have a usual name; by lower-case name in the header."""

        def one(asked: str | None, usual: tuple[str, ...]) -> str | None:
            if asked is not None and asked.lower() not in header:
                raise DataError(f"{path} has no column {asked}; it has {', '.join(header) or 'none'}")
            return next((header[name] for name in ([asked.lower()] if asked else usual) if name in header), None)

        groups = columns.group.split(",") if columns.group else []
        caption = None if columns.label else one(columns.caption, CAPTION_KEYS)
        return cls(
            one(columns.image, IMAGE_KEYS),
            caption,
            None if caption else one(columns.label, LABEL_KEYS),
            tuple(str(one(group.strip(), ())) for group in groups) or tuple(filter(None, [one(None, GROUP_KEYS)])),
            one(columns.split, SPLIT_KEYS),
        )

    def raw(self, where: str, row: dict[str, Any]) -> _Raw:
        """Return a row by what its columns hold."""
        captions = row.get(self.caption) if self.caption else None
        groups = [str(row.get(group)) for group in self.groups if row.get(group) not in (None, "")]
        return _Raw(
            where,
            row.get(self.image) if self.image else None,
            captions if isinstance(captions, list) else [captions],
            row.get(self.label) if self.label else None,
            ", ".join(groups) or None,
            row.get(self.split) if self.split else None,
        )


def _from_csv(text: str, path: Path, columns: Columns) -> tuple[Iterator[_Raw], bool]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = {name.strip().lower(): name for name in reader.fieldnames or []}
    keys = _Keys.find(header, columns, path)
    if keys.image is None or not (keys.caption or keys.label):
        raise DataError(
            f"{path} needs a header with an image column ({', '.join(IMAGE_KEYS)}) and a caption column "
            f"({', '.join(CAPTION_KEYS)}) or a label column ({', '.join(LABEL_KEYS)}); "
            f"got {', '.join(header) or 'nothing'}. Name them with --image-column, --caption-column, --label-column"
        )
    return (keys.raw(f"line {reader.line_num}", row) for row in reader), keys.caption is None


def _from_json(text: str, path: Path, columns: Columns, *, lines: bool) -> tuple[Iterator[_Raw], bool]:
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
    names = list(dict.fromkeys(name for item in content for name in item))
    keys = _Keys.find({name.lower(): name for name in names}, columns, path)
    # A row may name its image or caption differently from the others.
    rows = (_Keys.find({name.lower(): name for name in item}, _own(columns, item), path) for item in content)
    found = (own.raw(f"entry {number}", item) for number, (own, item) in enumerate(zip(rows, content, strict=True), 1))
    return found, keys.caption is None and keys.label is not None


def _own(columns: Columns, item: dict[str, Any]) -> Columns:
    """Return the columns that are asked for, less those that a row lacks."""
    present = {name.lower() for name in item}
    kept = {
        what: name
        for what, name in vars(columns).items()
        if name and all(part.strip().lower() in present for part in name.split(","))
    }
    return Columns(**kept)
