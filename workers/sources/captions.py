"""The caption files of COCO, Flickr30k, COCO-CN and Flickr30k-CNA, as their users have them on disk."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from headmask.errors import DataError
from workers.prompts import read_json, read_lines
from workers.sources.base import BadRow, Entry, FolderSource, checked_captions, read_text


class _Entries:
    """Images by name, in order of first appearance, and what cannot be used."""

    def __init__(self) -> None:
        self.by_name: dict[str, Entry] = {}
        self.bad_rows: list[BadRow] = []

    def add(
        self, where: str, name: str, captions: Sequence[Any], split: str | None = None, places: Sequence[str] = ()
    ) -> None:
        """Add captions to an image."""
        try:
            texts = checked_captions(captions)
        except ValueError as error:
            self.bad_rows.append(BadRow(f"{where} ({name})", str(error)))
            return
        entry = self.by_name.setdefault(name, Entry(where, name, split=split, places=tuple(places)))
        entry.captions += texts

    def source(self, images: Path, files: Sequence[Path]) -> FolderSource:
        """Return the source that they make."""
        if not self.by_name and not self.bad_rows:
            raise DataError(f"{files[0]} names no image")
        return FolderSource(images, files, list(self.by_name.values()), self.bad_rows)


def coco(images: Path, files: Sequence[Path]) -> FolderSource:
    """Return COCO captions: `captions_val2014.json` and its kin, several files at a time where wanted.

    Images lie in the folder itself or in `val2014/` and the like, as the archives unpack. With several files, each is
    a split named as the file says: `train` or `val`.

    Raises:
        DataError: a file is not of that layout.
    """
    entries = _Entries()
    for file in files:
        content = _object(file, "images", "annotations")
        split = next((name for name in ("train", "val", "test") if f"_{name}" in file.stem), file.stem)
        names: dict[Any, str] = {}
        captions: dict[Any, list[Any]] = {}
        for number, image in enumerate(content["images"], start=1):
            if image.get("id") in names:
                entries.bad_rows.append(BadRow(f"{file.name} image {number}", f"id {image['id']} is there twice"))
                continue
            names[image.get("id")] = image.get("file_name", "")
        for number, annotation in enumerate(content["annotations"], start=1):
            if annotation.get("image_id") not in names:
                where = f"{file.name} annotation {number}"
                entries.bad_rows.append(BadRow(where, f"there is no image {annotation.get('image_id')}"))
                continue
            captions.setdefault(annotation["image_id"], []).append(annotation.get("caption"))
        for key, name in names.items():
            # Archives name the images after their folder in 2014, and not in 2017.
            folder = re.search(r"(?:train|val|test)20\d\d", f"{name} {file.stem}")
            places = [f"{folder[0]}/{name}"] if folder else []
            where = f"{file.name} image {key}"
            entries.add(where, name, captions.get(key, []), split if len(files) > 1 else None, places)
    return entries.source(images, files)


def karpathy(images: Path, files: Sequence[Path]) -> FolderSource:
    """Return Karpathy's splits: `dataset_coco.json`, `dataset_flickr30k.json`, `dataset_flickr8k.json`.

    Their splits are train, restval (COCO), val and test.

    Raises:
        DataError: the file is not of that layout.
    """
    entries = _Entries()
    for file in files:
        for number, image in enumerate(_object(file, "images")["images"], start=1):
            name, where = image.get("filename", ""), f"{file.name} image {number}"
            if name in entries.by_name:
                entries.bad_rows.append(BadRow(f"{where} ({name})", "the image is there twice"))
                continue
            sentences = [sentence.get("raw") for sentence in image.get("sentences", [])]
            places = [str(PurePosixPath(image["filepath"], name))] if image.get("filepath") else []
            entries.add(where, name, sentences, image.get("split"), places)
    return entries.source(images, files)


def flickr30k(images: Path, files: Sequence[Path]) -> FolderSource:
    """Return Flickr30k captions without splits: `results_20130124.token`, or `results.csv` with bars between columns.

    Raises:
        DataError: a line is of neither layout.
    """
    entries = _Entries()
    for file in files:
        for number, line in enumerate(_lines(file), start=1):
            where = f"{file.name} line {number}"
            if "|" in line:
                name, _, rest = line.partition("|")
                comment, bar, caption = rest.partition("|")
                if name.strip() == "image_name":
                    continue
                # One line of the published file lacks the second bar.
                if not bar:
                    comment, _, caption = rest.strip().partition(" ")
                entries.add(where, name.strip(), [caption if comment.strip().isdecimal() else None])
            elif found := re.match(r"([^\t#]+)#\w+\t(.*)", line):
                entries.add(where, found[1], [found[2]])
            elif number == 1 and line.replace(" ", "").lower() == "image,caption":
                return _comma_separated(images, file)
            else:
                raise DataError(
                    f"{where} must be `NAME.jpg#0<tab>caption` or `NAME.jpg| 0| caption`; got {line[:60]!r}"
                )
    return entries.source(images, files)


def _comma_separated(images: Path, file: Path) -> FolderSource:
    """Return `captions.txt`, in which another mirror has columns between commas."""
    entries = _Entries()
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for row in csv.DictReader(lines, skipinitialspace=True):
            name, caption = [*row.values(), None, None][:2]
            entries.add(f"{file.name}", str(name).strip(), [caption])
    return entries.source(images, [file])


def coco_cn(images: Path, files: Sequence[Path]) -> FolderSource:
    """Return COCO-CN: a folder with `imageid.human-written-caption.txt` and `coco-cn_<train, val, test>.txt`.

    The human-written captions are those that retrieval is reported on (1,053 for the 1,000 test images); name another
    caption file of the folder, such as `imageid.manually-translated-caption.txt`, to take that one. Images are COCO's
    of 2014.

    Raises:
        DataError: there is no such folder, or a line is not `ID#n<tab>caption`.
    """
    (given,) = _one(files, "coco-cn")
    file = given / "imageid.human-written-caption.txt" if given.is_dir() else given
    folder = file.parent
    split_files = {name: folder / f"coco-cn_{name}.txt" for name in ("train", "val", "test")}
    split_files = {name: path for name, path in split_files.items() if path.is_file()}
    split_of = {key: name for name, path in split_files.items() for key in read_lines(path, "unreadable split")}
    entries = _Entries()
    for where, key, caption in _keyed(file):
        year = re.match(r"COCO_((?:train|val|test)2014)_", key)
        places = [f"{year[1]}/{key}.jpg"] if year else []
        entries.add(where, f"{key}.jpg", [caption], split_of.get(key), places)
    return entries.source(images, [file, *split_files.values()])


def flickr30k_cna(images: Path, files: Sequence[Path]) -> FolderSource:
    """Return Flickr30k-CNA: a folder with `train/`, `val/` and `test/` in each of which lies a text file.

    The test captions are those of Flickr30k-CN (`flickr30k_cn_test.txt`); both names are known. One of the files alone
    can be named, too.

    Raises:
        DataError: there is no such file, or a line is not `ID<tab>caption` or `ID#n<tab>caption`.
    """
    (given,) = _one(files, "flickr30k-cna")
    found = {
        split: path
        for split in ("train", "val", "test")
        for pattern in (f"{split}/flickr30k_cn*_{split}.txt", f"flickr30k_cn*_{split}.txt")
        for path in (sorted(given.glob(pattern)) if given.is_dir() else [])
    }
    if given.is_dir() and not found:
        raise DataError(f"there is no flickr30k_cna_train.txt, _val.txt or _test.txt in {given}")
    entries = _Entries()
    for split, path in found.items() or [(None, given)]:
        for where, key, caption in _keyed(path):
            name = key if PurePosixPath(key).suffix else f"{key}.jpg"
            entries.add(where, name, [caption], split)
    return entries.source(images, list(found.values()) or [given])


def _keyed(file: Path) -> Iterable[tuple[str, str, str]]:
    """Yield where, image and caption of lines `ID#n<tab>caption`; some files have a blank for the tab."""
    for number, line in enumerate(_lines(file), start=1):
        found = re.match(r"(\S+?)(?:#\S*)?[\t ]+(.*)", line)
        if not found:
            raise DataError(f"{file.name} line {number} must be `ID<tab>caption`; got {line[:60]!r}")
        yield f"{file.name} line {number}", found[1], found[2]


def _lines(file: Path) -> list[str]:
    return [line for line in read_text(file).splitlines() if line.strip()]


def _object(file: Path, *lists: str) -> dict[str, list[dict[str, Any]]]:
    """Return a JSON object that has some lists of objects."""
    if not file.is_file():
        raise DataError(f"there is no caption file at {file}")
    content = read_json(file)
    for key in lists:
        part = content.get(key) if isinstance(content, dict) else None
        if not isinstance(part, list) or not all(isinstance(item, dict) for item in part):
            raise DataError(f"{file} must hold an object with a list {key!r} of objects; is it of another layout?")
    return dict(content)


def _one(files: Sequence[Path], source: str) -> Sequence[Path]:
    if len(files) != 1:
        raise DataError(f"--from {source} takes one --captions, a folder or a file; got {len(files)}")
    return files
