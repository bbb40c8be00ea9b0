"""One folder of images per class, in the layout of torchvision's ImageFolder."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

from headmask.border.shown import shown
from headmask.errors import DataError
from workers.data.dataset import Kind
from workers.data.inside import readable
from workers.data.labels import Classes
from workers.data.sources.base import Entry, FolderSource, check_folder
from workers.data.sources.walk import (
    Aside,
    Identity,
    ending_of,
    files_below,
    folders_in,
    identity_of,
    is_hidden,
    is_image,
)
from workers.data.splits import USUAL

_MAX_NAMED = 10


def imagefolder(root: Path, class_names: Path | None = None) -> FolderSource:
    """Return a folder that contains one folder of images per class, or such folders for each split.

    Classes are ordered by their folders' names, numerically if all are numbers. They are named after their folders, or
    by `class_names`; 1,000 folders named like ImageNet's synsets get the names that CLIP's evaluation uses.

    Raises:
        DataError: there is no such folder, no class in it or in one of its splits, or a class without any image.
    """
    check_folder(root)
    aside = Aside()
    here = frozenset((identity_of(root),))
    splits = _splits(root, aside, here)
    folders = [
        (split, folder, _label(folder))
        for split, base in splits
        for folder in folders_in(base, aside, here | {identity_of(base)})
    ]
    if not folders:
        raise DataError(
            f"{shown(root)} has no folders of classes; for images with captions or labels use --from folder"
        )
    classes = Classes.of((label for _, _, label in folders), shown(root))
    entries, others = [], {label: Counter[str]() for label in classes.labels}
    for split, folder, label in folders:
        for path in files_below(folder, aside, here):
            if is_image(path.name):
                name = str(path.relative_to(root))
                entries.append(Entry("folder", name, split=split, label=classes.place[label]))
            else:
                others[label][ending_of(path.name)] += 1
    _check_none_empty(classes, entries, others, root)
    for base in {root, *(base for _, base in splits)}:
        aside.ignored.update(ending_of(name) for name in _loose(base))
    aside.ignored.update(sum(others.values(), Counter()))
    classes = _named(classes, class_names)
    kind = Kind("classification", classes.names, labels=classes.labels)
    return FolderSource(root, [root], entries, kind=kind, aside=aside)


def _splits(root: Path, aside: Aside, above: frozenset[Identity]) -> list[tuple[str | None, Path]]:
    """Return the folders of splits, or the folder itself if there are none."""
    tops = folders_in(root, Aside(), above)
    named = [path for path in tops if path.name.lower() in USUAL]
    full = [path for path in named if folders_in(path, Aside(), above)]
    if named and len(named) == len(tops):
        folders_in(root, aside, above)
        empty = ", ".join(path.name for path in named if path not in full)
        if empty:
            raise DataError(
                f"{shown(root)} has splits that hold no folders of classes: {empty}. Remove or fill them; for images "
                "with captions or labels use --from folder"
            )
        return [(path.name, path) for path in named]
    if full:
        others = ", ".join(readable(path.name) for path in tops if path not in full)
        raise DataError(
            f"{shown(root)} has folders of splits, {', '.join(path.name for path in full)}, and others beside them: "
            f"{shown(others)[:200]}; move those elsewhere, or name the folder of one split"
        )
    return [(None, root)]


def _label(folder: Path) -> str:
    return unicodedata.normalize("NFC", readable(folder.name))


def _loose(folder: Path) -> list[str]:
    """Return the files beside the folders of classes."""
    return [name for name in os.listdir(folder) if not is_hidden(name) and not os.path.isdir(folder / name)]


def _check_none_empty(classes: Classes, entries: list[Entry], others: dict[str, Counter[str]], root: Path) -> None:
    full = {entry.label for entry in entries}
    empty = [label for number, label in enumerate(classes.labels) if number not in full]
    if not empty:
        return
    listed = [
        shown(label) + (f" (it holds {counted(others[label])})" if others[label] else "")
        for label in empty[:_MAX_NAMED]
    ]
    more = f" and {len(empty) - _MAX_NAMED} more" if len(empty) > _MAX_NAMED else ""
    what = "1 class without an image" if len(empty) == 1 else f"{len(empty)} classes without an image"
    raise DataError(f"{shown(root)} has {what}: {', '.join(listed)}{more}. Remove such folders, or fill them")


def counted(endings: Counter[str]) -> str:
    """Return endings in words: `3 .txt, 1 .mp4`."""
    return ", ".join(f"{count} {shown(ending)}" for ending, count in endings.most_common())


def _named(classes: Classes, file: Path | None) -> Classes:
    if file is not None:
        return classes.named(file)
    if len(classes.labels) == 1000 and all(re.fullmatch(r"n\d{8}", label) for label in classes.labels):
        from open_clip import IMAGENET_CLASSNAMES

        return Classes(classes.labels, tuple(IMAGENET_CLASSNAMES))
    return classes
