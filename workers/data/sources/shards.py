"""webdataset tar shards, in the layouts of CLIP_benchmark."""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headmask.border.reading import decoded, lines_of
from headmask.border.shown import shown
from headmask.errors import DataError
from workers.data.dataset import Kind
from workers.data.inside import readable
from workers.data.labels import Classes
from workers.data.prompts import check_templates, read_lines, read_names
from workers.data.sources.base import BadRow, Item, Source, checked_captions
from workers.data.sources.files import RemoteFile, find_files, reached
from workers.data.sources.walk import image_endings, is_hidden

_KNOWN = (".txt", ".cls")
_CLASSES, _TEMPLATES, _TASK = "classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt"
"""Files beside the shards."""


class ShardSource(Source):
    """Samples of tar files: an image with `.txt` (a caption per line) or `.cls` (the number of its class).

    Args:
        patterns: folders, paths or globs of tar files. A folder may hold `test/0.tar` and so on, with
            `classnames.txt`, `zeroshot_classification_templates.txt` and `dataset_type.txt` beside the splits.
        class_names: file of class names, in order of the labels.

    Raises:
        DataError: there is no shard, it has another layout, or several labels per image.
    """

    def __init__(self, patterns: list[str], class_names: Path | None = None) -> None:
        super().__init__()
        self._files = find_files(patterns, ".tar", self.aside, known=(_CLASSES, _TEMPLATES, _TASK))
        # Shards are numbered without leading zeros.
        self._files.sort(key=lambda file: (str(Path(file.path).parent), len(file.name), file.name))
        place = shown(self._files[0].path)
        roots = [Path(self._files[0].path).parent, Path(self._files[0].path).parent.parent]
        kind = _content(roots, _TASK)
        sample = next(_samples(self._files[0]), _Sample(""))
        first = sample.parts
        if sample.problems and not first:
            raise DataError(f"{place}: {'; '.join(sample.problems)}")
        if kind == ["multilabel"] or ".npy" in first:
            raise DataError(f"{place} has several labels per image; multi-label data is not supported")
        if kind == ["retrieval"] or (".cls" not in first and ".txt" in first):
            self.kind = Kind()
        elif ".cls" in first:
            classes = _classes(_content(roots, _CLASSES), class_names)
            if classes is None:
                raise DataError(f"{shown(roots[0])} has no {_CLASSES}; name a file with --class-names")
            checked = check_templates(_content(roots, _TEMPLATES), _TEMPLATES)
            self.kind = Kind("classification", classes.names, checked, labels=classes.labels)
            self._place = {label.lstrip("0") or "0": number for label, number in classes.place.items()}
        else:
            endings = shown(", ".join(sorted(first))) or "nothing"
            raise DataError(f"{place} needs .txt or .cls beside every image; its first sample has {endings}")
        self.split_names = frozenset(file.split for file in self._files if file.split is not None)

    @property
    def files(self) -> list[Path]:
        """The shards on this machine."""
        return [Path(file.path) for file in self._files if file.system is None]

    @property
    def is_remote(self) -> bool:
        """Whether a file is not on this machine."""
        return any(file.folder is None for file in self._files)

    def identity(self) -> list[Any]:
        """Return the shards' paths, sizes and times."""
        return [[file.path, *file.stamp] for file in self._files]

    def items(self) -> Iterator[Item | BadRow]:
        """Yield the samples, shard by shard."""
        for file in self._files:
            for sample in _samples(file):
                yield self._item(file, sample)

    def _item(self, file: RemoteFile, sample: _Sample) -> Item | BadRow:
        name = readable(sample.name)
        where = f"{shown(readable(file.name))}, sample {shown(name)}"
        self.aside.skipped.update(sample.skipped)
        images = [ending for ending in sample.parts if ending in image_endings()]
        self.aside.ignored.update(readable(each) for each in sample.parts.keys() - {*images, *_KNOWN})
        if inner := _inner_sample(sample.parts):
            sample.problems.append(f"{shown(readable(inner))} would be a sample of its own; rename it without a dot")
        if sample.problems:
            return BadRow(where, "; ".join(sample.problems))
        if len(images) != 1:
            return BadRow(where, f"there are several images: {', '.join(images)}" if images else "there is no image")
        content, split = sample.parts[images[0]], file.split
        try:
            if self.kind.class_names:
                label = self._label(sample)
                return Item(where, name + images[0], lambda: content, (), split, label)
            text = decoded(sample.parts.get(".txt", b""), ".txt", DataError)
            captions = checked_captions([line for line in lines_of(text) if line.strip()])
            return Item(where, name + images[0], lambda: content, tuple(captions), split)
        except ValueError as error:
            return BadRow(where, str(error))

    def _label(self, sample: _Sample) -> int:
        text = decoded(sample.parts.get(".cls", b""), ".cls", DataError).strip()
        found = self._place.get(text.lstrip("0") or "0") if text else None
        if found is None:
            labels = tuple(self._place)
            rule = f"a number below {len(labels)}" if labels[-1] == str(len(labels) - 1) else "a label of a class"
            raise ValueError(f".cls must hold {rule}; got '{shown(text[:60])}'")
        return found


def _classes(listed: list[str], file: Path | None) -> Classes | None:
    """Return the classes of a list beside the shards, or of a given file; None if there is neither.

    Labels are numbers, so a file may have other names than the list, and a different number of them; only a JSON object
    contains the labels, too.
    """
    own = Classes.numbered(listed) if listed else None
    if file is None:
        return own
    names = read_names(file)
    if not isinstance(names, Mapping):
        return Classes.numbered(names)
    return (own or Classes.of(names, shown(file))).named(file)


def _is_whole(endings: Collection[str]) -> bool:
    """Return whether endings form a sample: an image with its captions or label."""
    return any(known in endings for known in _KNOWN) and any(ending in image_endings() for ending in endings)


def _inner_sample(endings: Collection[str]) -> str | None:
    """Return the part before the endings of a second sample within a sample, such as `.2` for `.2.jpg`, `.2.txt`."""
    inner: dict[str, list[str]] = {}
    for ending in endings:
        stem, _, last = ending.rpartition(".")
        if stem:
            inner.setdefault(stem, []).append(f".{last}")
    return next((stem for stem, lasts in inner.items() if _is_whole(lasts)), None)


@dataclass
class _Sample:
    """Consecutive entries of a shard with the same name."""

    name: str
    parts: dict[str, bytes] = field(default_factory=dict)
    """Contents by ending, in lower case."""
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def takes(self, stem: str) -> bool:
        """Return whether a file belongs to the sample, which is named by its shortest part.

        Names may have dots (`s.0001.jpg`), and so may endings (`0001.seg.png`).
        """
        if stem == self.name or stem.startswith(f"{self.name}."):
            return True
        if not self.name.startswith(f"{stem}.") or _is_whole(self.parts):
            return False
        # Its parts so far had longer endings than was thought.
        more = self.name.removeprefix(stem)
        self.name, self.parts = stem, {f"{more}{ending}": content for ending, content in self.parts.items()}
        return True

    def add(self, ending: str, content: bytes) -> None:
        """Add a file."""
        if ending in self.parts:
            self.problems.append(f"there are two {shown(readable(ending))}")
        self.parts[ending] = content


def _samples(file: RemoteFile) -> Iterator[_Sample]:
    """Yield the samples of a shard."""
    sample: _Sample | None = None
    skipped: list[str] = []
    with reached(file.path), file.open_stream() as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isdir():
                continue
            if any(is_hidden(part) for part in name.split("/") if part.strip(".")):
                skipped.append("hidden file")
                continue
            folder, slash, base = name.rpartition("/")
            stem, dot, ending = base.rpartition(".")
            stem, ending = (folder + slash + stem, dot + ending.lower()) if dot else (name, "without ending")
            if sample is None or not sample.takes(stem):
                if sample is not None:
                    yield sample
                sample = _Sample(stem)
            sample.skipped += skipped
            skipped = []
            problem = _problem(member)
            if problem is not None:
                sample.problems.append(problem)
                continue
            content = archive.extractfile(member)
            sample.add(stem.removeprefix(sample.name) + ending, content.read() if content else b"")
    if sample is not None:
        sample.skipped += skipped
        yield sample


def _problem(member: tarfile.TarInfo) -> str | None:
    """Return why an entry of an archive is not read; None if it is."""
    name = shown(readable(member.name))
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return f"the name of {name} leads out of the archive"
    if member.issym() or member.islnk():
        target = shown(readable(member.linkname))
        return f"{name} is a link to {target}; pack files instead, with tar --dereference --hard-dereference"
    return None if member.isfile() else f"{name} is no file"


def _content(folders: list[Path], name: str) -> list[str]:
    """Return the lines of a file beside the shards or their splits; empty if there is no such file."""
    for folder in folders:
        if (folder / name).exists():
            return list(read_lines(folder / name, name))
    return []
