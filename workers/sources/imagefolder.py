"""A folder of images per class, as torchvision's ImageFolder has it."""

from __future__ import annotations

import re
from pathlib import Path

from headmask.errors import DataError
from workers.dataset import Kind
from workers.prompts import read_class_names
from workers.sources.base import IMAGE_SUFFIXES, Entry, FolderSource

SPLIT_NAMES = frozenset(("train", "val", "valid", "validation", "dev", "test", "search", "confirm"))


def imagefolder(root: Path, class_names: Path | None = None) -> FolderSource:
    """Return a folder that holds a folder of images per class, or such folders for splits.

    Classes are numbered in order of their folders' names. They are called like their folders, or as `class_names`
    says; 1,000 folders named like ImageNet's synsets get the names that CLIP's evaluation uses.

    Raises:
        DataError: there is no such folder, or no class in it.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder of images at {root}")
    tops = _folders(root)
    splits: list[tuple[str | None, Path]] = [(path.name, path) for path in tops if path.name in SPLIT_NAMES]
    if not splits or len(splits) < len(tops):
        splits = [(None, root)]
    names = sorted({path.name for _, folder in splits for path in _folders(folder)})
    if not names:
        raise DataError(f"{root} has no folders of classes; for images with captions or labels use --from folder")
    numbers = {name: number for number, name in enumerate(names)}
    entries = [
        Entry("folder", str(path.relative_to(root)), split=split, label=numbers[folder.name])
        for split, base in splits
        for folder in _folders(base)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    kind = Kind("classification", _class_names(names, class_names))
    return FolderSource(root, [root], entries, kind=kind, is_listed=True)


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))


def _class_names(folders: list[str], file: Path | None) -> tuple[str, ...]:
    if file is not None:
        return read_class_names(file, folders)
    if len(folders) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in folders):
        from open_clip import IMAGENET_CLASSNAMES

        return tuple(IMAGENET_CLASSNAMES)
    return tuple(folders)
