"""webdataset tar shards, in the layouts of CLIP_benchmark."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headmask.errors import DataError
from workers.dataset import Kind
from workers.prompts import read_class_names, read_lines
from workers.sources.base import IMAGE_SUFFIXES, BadRow, Item, Source, checked_captions
from workers.sources.files import RemoteFile, find_files, reached, split_of


class ShardSource(Source):
    """Samples of tar files: an image with `.txt` (a caption per line) or `.cls` (the number of its class).

    Args:
        patterns: folders, paths or globs of tar files. A folder may hold `test/0.tar` and so on, with
            `classnames.txt`, `zeroshot_classification_templates.txt` and `dataset_type.txt` beside the splits.
        class_names: file of class names, in order of the labels.

    Raises:
        DataError: there is no shard, it is of another layout, or its labels are several per image.
    """

    def __init__(self, patterns: list[str], class_names: Path | None = None) -> None:
        self._files = find_files(patterns, ".tar")
        # Shards are numbered without leading zeros.
        self._files.sort(key=lambda file: (str(Path(file.path).parent), len(file.name), file.name))
        roots = [Path(self._files[0].path).parent, Path(self._files[0].path).parent.parent]
        kind = _content(roots, "dataset_type.txt")
        first = next((sample for sample in _samples(self._files[0])), {})
        if kind == ["multilabel"] or ".npy" in first:
            raise DataError(f"{self._files[0].path} has several labels per image; multi-label data is not supported")
        if kind == ["retrieval"] or (".cls" not in first and ".txt" in first):
            self.kind = Kind()
        elif ".cls" in first:
            names = read_class_names(class_names) if class_names else tuple(_content(roots, "classnames.txt"))
            if not names:
                raise DataError(f"{roots[0]} has no classnames.txt; name a file with --class-names")
            templates = tuple(_content(roots, "zeroshot_classification_templates.txt"))
            self.kind = Kind("classification", names, templates)
        else:
            endings = ", ".join(sorted(key for key in first if key)) or "nothing"
            raise DataError(
                f"{self._files[0].path} needs .txt or .cls beside every image; its first sample has {endings}"
            )
        self.split_names = frozenset(split for file in self._files if (split := split_of(file.path)) is not None)

    def identity(self) -> list[Any]:
        """Return the shards' places, sizes and times."""
        return [[file.path, *file.stamp] for file in self._files]

    def items(self) -> Iterator[Item | BadRow]:
        """Yield the samples, shard by shard."""
        for file in self._files:
            for sample in _samples(file):
                yield self._item(file, sample)

    def _item(self, file: RemoteFile, sample: dict[str, Any]) -> Item | BadRow:
        name = sample[""]
        where = f"{file.name}, sample {name}"
        image = next((content for ending, content in sample.items() if ending in IMAGE_SUFFIXES), None)
        if image is None:
            return BadRow(where, "there is no image")
        ending = next(ending for ending in sample if ending in IMAGE_SUFFIXES)
        split = split_of(file.path)
        try:
            if self.kind.task == "classification":
                label = self._label(sample)
                return Item(where, name + ending, lambda: image, (), split, label)
            text = sample.get(".txt", b"").decode("utf-8")
            captions = checked_captions([line for line in text.splitlines() if line.strip()])
            return Item(where, name + ending, lambda: image, tuple(captions), split)
        except ValueError as error:
            return BadRow(where, str(error))

    def _label(self, sample: dict[str, Any]) -> int:
        text = sample.get(".cls", b"").decode("utf-8").strip()
        if not text.isdecimal() or int(text) >= len(self.kind.class_names):
            raise ValueError(f".cls must hold a number below {len(self.kind.class_names)}; got {text!r}")
        return int(text)


def _samples(file: RemoteFile) -> Iterator[dict[str, Any]]:
    """Yield samples: what follows each other in a shard under one name, by ending; the name itself under ""."""
    sample: dict[str, Any] = {}
    with (
        reached(file.path),
        file.system.open_input_stream(file.path) as stream,
        tarfile.open(fileobj=stream, mode="r|*") as archive,
    ):
        for member in archive:
            if not member.isfile():
                continue
            folder, slash, base = member.name.rpartition("/")
            stem, dot, ending = base.partition(".")
            if sample and sample[""] != folder + slash + stem:
                yield sample
                sample = {}
            content = archive.extractfile(member)
            sample[""] = folder + slash + stem
            sample[dot + ending.lower()] = content.read() if content else b""
    if sample:
        yield sample


def _content(folders: list[Path], name: str) -> list[str]:
    """Return the lines of a file beside the shards or their splits; none where there is no such file."""
    for folder in folders:
        if (folder / name).is_file():
            return list(read_lines(folder / name, "unreadable"))
    return []
