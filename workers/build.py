"""Building a data set from a folder of images and a file of captions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headmask.errors import DataError
from workers.dataset import Row, read_inside, write_dataset
from workers.images import decode_image

IMAGE_KEYS = ("image", "file", "filename", "file_name", "filepath", "path", "image_path")
CAPTION_KEYS = ("caption", "captions", "text", "sentence", "sentences")
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
_MOST_LISTED = 20


@dataclass(frozen=True)
class BadRow:
    """A row of the caption file, or an image, that cannot be used."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class BuildReport:
    """What was built."""

    path: Path
    num_images: int
    num_captions: int
    bad_rows: tuple[BadRow, ...]
    """Left out, with `on_bad_row="skip"`."""
    num_unnamed: int
    """Image files in the folder that no caption names."""


@dataclass
class _Entry:
    """An image that the caption file names."""

    where: str
    captions: list[str] = field(default_factory=list)
    split: str | None = None


def build_folder(
    images: Path,
    captions: Path,
    out: Path,
    *,
    on_bad_row: Literal["fail", "skip"] = "fail",
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BuildReport:
    """Write a Parquet data set of a folder's images, and return what went into it.

    Args:
        images: the folder; paths in the caption file are relative to it.
        captions: CSV with a header, JSON or JSONL. Rows have an image path, a caption (several rows per image, or a
            list of captions), and a split where the splits are given. JSON may also map paths to captions.
        out: the Parquet file to write. Images are stored as they are, in order of first appearance.
        on_bad_row: whether an unreadable image or a row without image or caption stops the build, or is left out.
        overwrite: replace `out` where it exists.
        on_progress: called with images done and in all.

    Raises:
        DataError: bad input; with `on_bad_row="fail"` every bad row is named. Nothing is written then.
    """
    if out.exists() and not overwrite:
        raise DataError(f"{out} exists; choose another name or pass --overwrite")
    if not images.is_dir():
        raise DataError(f"there is no folder of images at {images}")
    entries, bad_rows = _entries(captions)
    num_captions = 0

    def rows() -> Iterator[Row]:
        nonlocal num_captions
        for done, (name, entry) in enumerate(entries.items(), start=1):
            try:
                content = read_inside(images, name, entry.where)
                decode_image(content, entry.where)
            except DataError as error:
                bad_rows.append(BadRow(f"{entry.where} ({name})", str(error).removeprefix(f"{entry.where}: ")))
            else:
                num_captions += len(entry.captions)
                yield Row(name, content, tuple(entry.captions), entry.split)
            on_progress(done, len(entries))
        if bad_rows and on_bad_row == "fail":
            raise DataError(_listing(captions, bad_rows))

    num_images = write_dataset(out, rows())
    if not num_images:
        out.unlink()
        raise DataError(
            f"{captions} names no usable image in {images}" + "".join(f"\n  {row}" for row in bad_rows[:20])
        )
    return BuildReport(out, num_images, num_captions, tuple(bad_rows), _num_unnamed(images, entries))


def _listing(captions: Path, bad_rows: list[BadRow]) -> str:
    lines = [
        f"{captions} has {len(bad_rows)} bad row{'s' * (len(bad_rows) > 1)}; mend them, or pass --on-bad-row skip:"
    ]
    lines += [f"  {row}" for row in bad_rows[:_MOST_LISTED]]
    if len(bad_rows) > _MOST_LISTED:
        lines.append(f"  and {len(bad_rows) - _MOST_LISTED} more")
    return "\n".join(lines)


def _num_unnamed(images: Path, entries: dict[str, _Entry]) -> int:
    base = images.resolve()
    named = {(base / name).resolve() for name in entries}
    found = {path.resolve() for path in base.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES}
    return len(found - named)


def _entries(captions: Path) -> tuple[dict[str, _Entry], list[BadRow]]:
    """Return what the caption file says of every image, in order of first appearance, and its bad rows."""
    entries: dict[str, _Entry] = {}
    bad_rows: list[BadRow] = []
    for where, name, texts, split in _read_captions(captions):
        if not isinstance(name, str) or not name.strip():
            bad_rows.append(BadRow(where, "no image is named"))
            continue
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            bad_rows.append(BadRow(f"{where} ({name})", "the caption is missing or empty"))
            continue
        entry = entries.setdefault(name.strip(), _Entry(where))
        entry.captions += [text.strip() for text in texts]
        if split and entry.split and split != entry.split:
            bad_rows.append(BadRow(f"{where} ({name})", f"split {split} contradicts split {entry.split} before"))
        entry.split = entry.split or split or None
    return entries, bad_rows


_Raw = tuple[str, Any, list[Any], str | None]
"""Where a row stands, its image path, its captions and its split, as found."""


def _read_captions(path: Path) -> Iterator[_Raw]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"there is no caption file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _from_csv(text, path)
    if suffix in (".json", ".jsonl"):
        return _from_json(text, path, lines=suffix == ".jsonl")
    raise DataError(f"the caption file must be .csv, .json or .jsonl; got {path.name}")


def _from_csv(text: str, path: Path) -> Iterator[_Raw]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = {name.strip().lower(): name for name in reader.fieldnames or []}
    image = next((header[key] for key in IMAGE_KEYS if key in header), None)
    caption = next((header[key] for key in CAPTION_KEYS if key in header), None)
    if image is None or caption is None:
        raise DataError(
            f"{path} needs a header with an image column ({', '.join(IMAGE_KEYS)}) and a caption column "
            f"({', '.join(CAPTION_KEYS)}); got {', '.join(header) or 'nothing'}"
        )
    for row in reader:
        yield f"line {reader.line_num}", row[image], [row[caption]], row.get(header.get("split", "")) or None


def _from_json(text: str, path: Path, *, lines: bool) -> Iterator[_Raw]:
    try:
        content = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if isinstance(content, dict):
        for number, (name, captions) in enumerate(content.items(), start=1):
            yield f"entry {number}", name, captions if isinstance(captions, list) else [captions], None
        return
    if not isinstance(content, list):
        raise DataError(f"{path} must hold a list of objects, or one object of paths and captions")
    for number, item in enumerate(content, start=1):
        if not isinstance(item, dict):
            raise DataError(f"{path} entry {number} must be an object with image and caption; got {item!r}")
        captions = next((item[key] for key in CAPTION_KEYS if key in item), None)
        name = next((item[key] for key in IMAGE_KEYS if key in item), None)
        yield f"entry {number}", name, captions if isinstance(captions, list) else [captions], item.get("split")
