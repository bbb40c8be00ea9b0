"""Files by path, glob, folder or URL (`hf://`, `s3://`, `gs://`), through pyarrow's file systems."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from pyarrow import fs

from headmask.border.reading import check_file
from headmask.border.shown import shown
from headmask.errors import DataError
from workers.data.cells import openable
from workers.data.sources.walk import Aside, ending_of, files_below
from workers.data.splits import USUAL

RETRY_S = 30


@dataclass(frozen=True)
class RemoteFile:
    """A file on this machine or remote, under the name by which it was found."""

    path: str
    stamp: tuple[Any, ...]
    """Size and time of change."""
    system: fs.FileSystem | None = None
    """File system; None on this machine."""
    depth: int = 1
    """Number of folders in its path that may name its split: those below what was asked for, or else the last."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def split(self) -> str | None:
        """The split named by the file's name or by a folder in its path; see `split_of`."""
        return split_of(self.path, self.depth)

    @property
    def folder(self) -> Path | None:
        """The file's folder, if it is on this machine."""
        return Path(self.path).parent if self.system is None else None

    def open_file(self) -> Any:
        """Return the file, opened for random access, as pyarrow needs it."""
        return openable(Path(self.path)) if self.system is None else self.system.open_input_file(self.path)

    def open_stream(self) -> Any:
        """Return the file, opened for sequential reading."""
        return Path(self.path).open("rb") if self.system is None else self.system.open_input_stream(self.path)


@contextmanager
def reached(where: str) -> Iterator[None]:
    """Turn any error while reading a file into one message: file systems and the Hub raise their own kinds.

    Raises:
        DataError: something went wrong.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(f"{shown(where)} cannot be read: {shown(reason[:300])}") from None


def find_files(
    patterns: list[str], suffix: str, aside: Aside | None = None, *, known: Collection[str] = ()
) -> list[RemoteFile]:
    """Return the files that paths, globs, folders and URLs name, in order of their paths.

    Args:
        patterns: paths, globs, folders and URLs.
        suffix: the ending of files that are taken from folders, in lower case.
        aside: counts the other files in them.
        known: names of accompanying files, which are not counted.

    Raises:
        DataError: nothing was found, or a URL cannot be reached.
    """
    found: dict[Any, RemoteFile] = {}
    for pattern in patterns:
        files: dict[Any, RemoteFile]
        if "://" in pattern.removeprefix("file://"):
            with reached(pattern):
                files = {(pattern.partition("://")[0], file.path): file for file in _remote(pattern, suffix)}
        else:
            files = _local(pattern.removeprefix("file://"), suffix, aside or Aside(), known)
        if not files:
            raise DataError(f"there is no {suffix} file at {shown(pattern) or 'an empty name'}")
        found |= {key: file for key, file in files.items() if key not in found}
    return sorted(found.values(), key=lambda file: file.path)


def _local(pattern: str, suffix: str, aside: Aside, known: Collection[str]) -> dict[Any, RemoteFile]:
    """Return local files by their real folders and their names: links keep names that contain a split."""
    if not pattern or "\0" in pattern:
        return {}
    paths: list[Path] = []
    is_given = os.path.lexists(pattern)
    for name in [pattern] if is_given else sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(name):
            below = [path for path in files_below(Path(name), aside) if path.name not in known]
            paths += [path for path in below if ending_of(path.name) == suffix]
            aside.ignored.update(ending_of(path.name) for path in below if ending_of(path.name) != suffix)
        else:
            paths.append(Path(name))
    base = Path(pattern if is_given else _before_glob(pattern)).absolute()
    found: dict[Any, RemoteFile] = {}
    for path in map(Path.absolute, paths):
        check_file(path, f"{suffix} file", DataError)
        status = path.stat()
        key = os.path.realpath(path.parent), path.name
        depth = _depth(path, base)
        found.setdefault(key, RemoteFile(str(path), (status.st_size, str(status.st_mtime_ns)), depth=depth))
    return found


def _before_glob(pattern: str) -> str:
    """Return the folder at the beginning of a glob."""
    return re.split(r"[*?\[]", pattern)[0].rpartition("/")[0] or ("/" if pattern.startswith("/") else ".")


def _depth(path: PurePath, base: PurePath) -> int:
    """Return the number of folders between a file and a folder above it, at least 1."""
    return max(1, len(path.relative_to(base).parts) - 1) if path.is_relative_to(base) else 1


def _remote(pattern: str, suffix: str) -> list[RemoteFile]:
    base = re.split(r"[*?\[]", pattern)[0]
    has_glob = base != pattern
    system, path = _system(base.rpartition("/")[0] if has_glob else base)
    wanted = _matcher(path, pattern[len(base.rpartition("/")[0]) :]) if has_glob else None
    files = []
    for info in [system.get_file_info(path)]:
        if info.type == fs.FileType.Directory:
            inside = system.get_file_info(fs.FileSelector(info.path, recursive=True))
            files += [
                each for each in inside if ending_of(each.path) == suffix and (wanted is None or wanted(each.path))
            ]
        elif info.type == fs.FileType.File:
            files.append(info)
    return [
        RemoteFile(
            info.path,
            (info.size, str(info.mtime_ns)),
            system,
            _depth(PurePosixPath(info.path), PurePosixPath(path)),
        )
        for info in files
        if info.is_file
    ]


def _system(address: str) -> tuple[fs.FileSystem, str]:
    """Return the file system and the path of a URL."""
    if address.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in address:
        # Without a limit, missing credentials are looked for during a quarter of an hour.
        address += ("&" if "?" in address else "?") + f"retry_limit_seconds={RETRY_S}"
    system, path = fs.FileSystem.from_uri(address)
    return system, path


def _matcher(base: str, pattern: str) -> Any:
    """Return a test whether a path matches a glob below a folder; ** crosses folders, * does not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.lstrip("/"))
    kinds = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = "".join(kinds.get(part, re.escape(part)) for part in parts)
    compiled = re.compile(re.escape(base.rstrip("/")) + "/" + expression)
    return lambda path: compiled.fullmatch(path) is not None


def split_of(path: str, depth: int = 1) -> str | None:
    """Return the split named by a word of a file's name (`train-00000-of-00005.parquet`), or by a folder's name.

    Args:
        path: path of the file.
        depth: number of folders in its path to consider, the last first. Their names are a split's, or like
            `split=train`.
    """
    parts = PurePosixPath(path)
    words = [word for word in re.split(r"[^a-z]+", parts.stem.lower()) if word in USUAL]
    if words:
        # Two of them tell nothing.
        return words[0] if len(set(words)) == 1 else None
    folders = [folder.name.lower().removeprefix("split=") for folder in list(parts.parents)[:depth]]
    return next((folder for folder in folders if folder in USUAL), None)
