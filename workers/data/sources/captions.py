"""The caption files of COCO, Flickr30k, COCO-CN and Flickr30k-CNA, as users have them on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from headmask.border.reading import check_text, is_file, is_folder, lines_of, read_json, read_text
from headmask.border.shown import shown
from headmask.errors import DataError
from workers.data.inside import name_key, readable
from workers.data.prompts import read_lines
from workers.data.sources.base import BadRow, Entry, FolderSource, checked_captions, checked_name
from workers.data.sources.delimited import read_delimited


class _Entries:
    """Images by name, in order of first appearance, and rows that cannot be used."""

    def __init__(self) -> None:
        self.by_name: dict[str, Entry] = {}
        self.bad_rows: list[BadRow] = []

    def add(
        self, where: str, name: Any, captions: Sequence[Any], split: Any = None, places: Sequence[str] = ()
    ) -> None:
        """Add captions to an image, under all spellings of its name; unusable ones are bad rows."""
        try:
            name = checked_name(name)
            texts = checked_captions(captions)
            split = None if split is None else checked_name(split, "split")
            entry = self.by_name.setdefault(name_key(name), Entry(where, name, split=split, places=tuple(places)))
            if entry.split != split:
                raise ValueError(f"split {shown(split)} contradicts split {shown(entry.split)} before")
        except ValueError as error:
            named = f" ({shown(name)})" if isinstance(name, str) and name else ""
            self.bad(f"{where}{named}", str(error))
            return
        entry.captions += texts

    def bad(self, where: str, reason: str) -> None:
        """Record a bad row."""
        self.bad_rows.append(BadRow(where, reason))

    def source(self, images: Path, files: Sequence[Path]) -> FolderSource:
        """Return the source with these entries."""
        if not self.by_name and not self.bad_rows:
            raise DataError(f"{shown(files[0])} names no image")
        return FolderSource(images, files, list(self.by_name.values()), self.bad_rows)


def coco(images: Path, files: Sequence[Path]) -> FolderSource:
    """Return COCO captions from one or more files such as `captions_val2014.json`.

    Images are in the folder itself or in `val2014/` and similar folders, as the archives unpack. With several files,
    each is a split named after the file: `train` or `val`.

    Raises:
        DataError: a file is not of that layout, or is named twice.
    """
    _check_all_differ(files)
    entries = _Entries()
    for file in files:
        split = next((name for name in ("train", "val", "test") if f"_{name}" in file.stem), readable(file.stem))
        _add_coco(entries, file, split if len(files) > 1 else None)
    return entries.source(images, files)


def _add_coco(entries: _Entries, file: Path, split: str | None) -> None:
    content = _object(file, "images", "annotations")
    names: dict[Any, Any] = {}
    captions: dict[Any, list[Any]] = {}
    for number, image in enumerate(content["images"], start=1):
        where, key = f"{readable(file.name)} image {number}", image.get("id")
        if not _is_key(key):
            entries.bad(where, f"its id is a number or a text; got {shown(repr(key)[:60])}")
        elif key in names:
            entries.bad(where, f"id {shown(key)} is there twice")
        else:
            names[key] = image.get("file_name")
    for number, annotation in enumerate(content["annotations"], start=1):
        key = annotation.get("image_id")
        if not _is_key(key) or key not in names:
            where = f"{readable(file.name)} annotation {number}"
            entries.bad(where, f"there is no image {shown(repr(key)[:60])}")
        else:
            captions.setdefault(key, []).append(annotation.get("caption"))
    for key, name in names.items():
        # Archives name the images after their folder in 2014, and not in 2017.
        folder = re.search(r"(?:train|val|test)20\d\d", f"{name} {file.stem}")
        places = [f"{folder[0]}/{name}"] if folder else []
        entries.add(f"{readable(file.name)} image {shown(key)}", name, captions.get(key, []), split, places)


def _is_key(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _check_all_differ(files: Sequence[Path]) -> None:
    twice = [file for number, file in enumerate(files) if file in files[:number]]
    if twice:
        raise DataError(f"--captions names {shown(twice[0])} twice")


def karpathy(images: Path, files: Sequence[Path]) -> FolderSource:
    """Return Karpathy's splits: `dataset_coco.json`, `dataset_flickr30k.json`, `dataset_flickr8k.json`.

    Their splits are train, restval (COCO), val and test.

    Raises:
        DataError: the file is not of that layout, or is named twice.
    """
    _check_all_differ(files)
    entries = _Entries()
    for file in files:
        for number, image in enumerate(_object(file, "images")["images"], start=1):
            name, where = image.get("filename"), f"{readable(file.name)} image {number}"
            sentences, folder = image.get("sentences"), image.get("filepath")
            if isinstance(name, str) and name_key(name.strip()) in entries.by_name:
                entries.bad(f"{where} ({shown(name)})", "the image is there twice")
            elif not isinstance(sentences, list) or not all(isinstance(each, dict) for each in sentences):
                entries.bad(where, f"its sentences are a list of objects; got {shown(repr(sentences)[:60])}")
            elif not isinstance(folder, str | None) or (folder and check_text(folder)):
                entries.bad(where, f"its filepath is a text; got {shown(repr(folder)[:60])}")
            else:
                places = [f"{folder}/{name}"] if folder else []
                entries.add(where, name, [each.get("raw") for each in sentences], image.get("split"), places)
    return entries.source(images, files)


def flickr30k(images: Path, files: Sequence[Path]) -> FolderSource:
    """Return Flickr30k captions without splits.

    They come as `results_20130124.token`, as `results.csv` with bars between columns, or as `captions.txt` with commas.

    Raises:
        DataError: the first line is of neither layout, or a file is named twice.
    """
    _check_all_differ(files)
    entries = _Entries()
    for file in files:
        text = read_text(file, "caption file", DataError)
        lines = _numbered(text)
        first = lines[0][1] if lines else ""
        if re.sub('[ "]', "", first).lower() == "image,caption":
            _add_commas(entries, file, text)
        elif re.match(r"[^\t#]+#\w+\t", first):
            _add_tokens(entries, file, lines)
        elif re.match(r"\s*image_name\s*\||[^|]+\|\s*\d+\s*\|", first):
            _add_bars(entries, file, lines)
        elif lines:
            raise DataError(
                f"{_line(file, lines[0][0])} must be `NAME.jpg#0<tab>caption` or `NAME.jpg| 0| caption`; "
                f"got '{shown(first[:60])}'"
            )
    return entries.source(images, files)


def _add_tokens(entries: _Entries, file: Path, lines: list[tuple[int, str]]) -> None:
    for number, line in lines:
        where, found = _line(file, number), re.fullmatch(r"([^\t#]+)#\w+\t([^\t]*)", line)
        if found:
            entries.add(where, found[1], [found[2]])
        else:
            entries.bad(where, f"a line is `NAME.jpg#0<tab>caption`; got '{shown(line[:60])}'")


def _add_bars(entries: _Entries, file: Path, lines: list[tuple[int, str]]) -> None:
    for number, line in lines:
        where, fields = _line(file, number), [part.strip() for part in line.split("|")]
        if fields[0] == "image_name":
            continue
        # One line of the published file lacks the second bar.
        mended = re.fullmatch(r"(\d+)\s+(.+)", fields[1]) if len(fields) == 2 else None
        if mended:
            fields = [fields[0], mended[1], mended[2]]
        if len(fields) == 3 and fields[1].isdecimal():
            entries.add(where, fields[0], [fields[2]])
        else:
            entries.bad(where, f"a line is `NAME.jpg| 0| caption`; got '{shown(line[:60])}'")


def _add_commas(entries: _Entries, file: Path, text: str) -> None:
    """Add the captions of `captions.txt`, a mirror's file with commas between columns."""
    table = read_delimited(
        text, shown(file), lambda header: int(header == ["image", "caption"]), lambda line: _line(file, line)
    )
    if table.header != ["image", "caption"]:
        raise DataError(f"{_line(file, 1)} must be `image,caption`; got {shown(', '.join(table.header)[:60])}")
    entries.bad_rows += table.bad_rows
    for where, row in table.rows:
        entries.add(where, row["image"], [row["caption"]])


def coco_cn(images: Path, files: Sequence[Path]) -> FolderSource:
    """Return COCO-CN, a folder with `imageid.human-written-caption.txt` and `coco-cn_<train, val, test>.txt`.

    The human-written captions are those that retrieval is reported on (1,053 for the 1,000 test images); name another
    caption file of the folder, such as `imageid.manually-translated-caption.txt`, to take that one. Images are COCO's
    of 2014.

    Raises:
        DataError: there is no such folder, or a line is not `ID#n<tab>caption`.
    """
    (given,) = _one(files, "coco-cn")
    file = given / "imageid.human-written-caption.txt" if is_folder(given) else given
    folder = file.parent
    split_files = {name: folder / f"coco-cn_{name}.txt" for name in ("train", "val", "test")}
    split_files = {name: path for name, path in split_files.items() if is_file(path)}
    split_of: dict[str, str] = {}
    for name, path in split_files.items():
        for key in read_lines(path, "list of a split"):
            if split_of.setdefault(key, name) != name:
                raise DataError(f"{shown(key)} is in two splits, {split_of[key]} and {name}")
    entries = _Entries()
    for where, key, caption in _keyed(file, entries):
        year = re.match(r"COCO_((?:train|val|test)2014)_", key)
        places = [f"{year[1]}/{key}.jpg"] if year else []
        entries.add(where, f"{key}.jpg", [caption], split_of.get(key), places)
    return entries.source(images, [file, *split_files.values()])


def flickr30k_cna(images: Path, files: Sequence[Path]) -> FolderSource:
    """Return Flickr30k-CNA, a folder with `train/`, `val/` and `test/`, each of which contains a text file.

    The test captions are those of Flickr30k-CN (`flickr30k_cn_test.txt`); both names are accepted, and so is one of the
    files alone.

    Raises:
        DataError: there is no such file, or a line is not `ID<tab>caption` or `ID#n<tab>caption`.
    """
    (given,) = _one(files, "flickr30k-cna")
    found = {
        split: path
        for split in ("train", "val", "test")
        for pattern in (f"{split}/flickr30k_cn*_{split}.txt", f"flickr30k_cn*_{split}.txt")
        for path in (sorted(given.glob(pattern)) if is_folder(given) else [])
    }
    if is_folder(given) and not found:
        raise DataError(f"there is no flickr30k_cna_train.txt, _val.txt or _test.txt in {shown(given)}")
    entries = _Entries()
    for split, path in found.items() or [(None, given)]:
        for where, key, caption in _keyed(path, entries):
            name = key if PurePosixPath(key).suffix else f"{key}.jpg"
            entries.add(where, name, [caption], split)
    return entries.source(images, list(found.values()) or [given])


def _keyed(file: Path, entries: _Entries) -> Iterator[tuple[str, str, str]]:
    """Yield location, image and caption of lines `ID#n<tab>caption`; some files have a blank instead of the tab."""
    lines = _numbered(read_text(file, "caption file", DataError))
    for number, line in lines:
        where = _line(file, number)
        found = re.fullmatch(r"(\S+?)(?:#\S*)?(?:\t+([^\t]*)| +([^\t]*))", line.rstrip())
        reason = f"must be `ID<tab>caption`; got '{shown(line[:60])}'"
        if found:
            yield where, found[1], found[2] if found[2] is not None else found[3]
        elif number == lines[0][0]:
            raise DataError(f"{where} {reason}")
        else:
            entries.bad(where, f"it {reason}")


def _numbered(text: str) -> list[tuple[int, str]]:
    """Return the non-blank lines with their numbers in the file."""
    return [(number, line) for number, line in enumerate(lines_of(text), start=1) if line.strip()]


def _line(file: Path, number: int) -> str:
    return f"{shown(readable(file.name))} line {number}"


def _object(file: Path, *lists: str) -> dict[str, list[dict[str, Any]]]:
    """Return a JSON object that contains the given lists of objects."""
    content = read_json(file, "caption file", DataError, any_text=True)
    for key in lists:
        part = content.get(key) if isinstance(content, dict) else None
        if not isinstance(part, list) or not all(isinstance(item, dict) for item in part):
            raise DataError(
                f"{shown(file)} must hold an object with a list {key!r} of objects; does it have another layout?"
            )
    return dict(content)


def _one(files: Sequence[Path], source: str) -> Sequence[Path]:
    if len(files) != 1:
        raise DataError(f"--from {source} takes one --captions, a folder or a file; got {len(files)}")
    return files
