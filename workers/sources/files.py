"""Files by path, glob, folder or address (`hf://`, `s3://`, `gs://`), through pyarrow's file systems."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from headmask.errors import DataError
from headmask.reading import check_file
from headmask.shown import shown
from workers.cells import openable
from workers.sources.walk import Aside, ending_of, files_below

RETRY_S = 30
_SPLITS = frozenset(("train", "validation", "valid", "val", "dev", "test", "search", "confirm"))


@dataclass(frozen=True)
class RemoteFile:
    """A file on this machine or elsewhere, by the name that it was found under."""

    path: str
    stamp: tuple[Any, ...]
    """Size and time of change."""
    system: fs.FileSystem | None = None
    """None on this machine."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> Path | None:
        """The file's folder where it is on this machine."""
        return Path(self.path).parent if self.system is None else None

    def open_file(self) -> Any:
        """Return the file, opened for reading anywhere in it, as pyarrow takes it."""
        return openable(Path(self.path)) if self.system is None else self.system.open_input_file(self.path)

    def open_stream(self) -> Any:
        """Return the file, opened for reading from its beginning."""
        return Path(self.path).open("rb") if self.system is None else self.system.open_input_stream(self.path)


@contextmanager
def reached(where: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one message: file systems and the hub raise their own kinds.

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


def find_files(patterns: list[str], suffix: str, aside: Aside | None = None) -> list[RemoteFile]:
    """Return the files that paths, globs, folders and addresses name, in order of their paths.

    Args:
        patterns: what was asked for.
        suffix: the ending of files that are taken from folders.
        aside: counts what else lies in them.

    Raises:
        DataError: nothing is there, or an address cannot be reached.
    """
    found: dict[Any, RemoteFile] = {}
    for pattern in patterns:
        files: dict[Any, RemoteFile]
        if "://" in pattern.removeprefix("file://"):
            with reached(pattern):
                files = {(pattern.partition("://")[0], file.path): file for file in _remote(pattern, suffix)}
        else:
            files = _local(pattern.removeprefix("file://"), suffix, aside or Aside())
        if not files:
            raise DataError(f"there is no {suffix} file at {shown(pattern) or 'an empty name'}")
        found |= {key: file for key, file in files.items() if key not in found}
    return sorted(found.values(), key=lambda file: file.path)


def _local(pattern: str, suffix: str, aside: Aside) -> dict[Any, RemoteFile]:
    """Return files of this machine by their real folders and their names: links keep the names that tell splits."""
    if not pattern or "\0" in pattern:
        return {}
    paths: list[Path] = []
    for name in [pattern] if os.path.lexists(pattern) else sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(name):
            below = list(files_below(Path(name), aside))
            paths += [path for path in below if path.name.endswith(suffix)]
            aside.ignored.update(ending_of(path.name) for path in below if not path.name.endswith(suffix))
        else:
            paths.append(Path(name))
    found: dict[Any, RemoteFile] = {}
    for path in map(Path.absolute, paths):
        check_file(path, f"{suffix} file", DataError)
        status = path.stat()
        key = os.path.realpath(path.parent), path.name
        found.setdefault(key, RemoteFile(str(path), (status.st_size, str(status.st_mtime_ns))))
    return found


def _remote(pattern: str, suffix: str) -> list[RemoteFile]:
    base = re.split(r"[*?\[]", pattern)[0]
    has_glob = base != pattern
    system, path = _system(base.rpartition("/")[0] if has_glob else base)
    wanted = _matcher(path, pattern[len(base.rpartition("/")[0]) :]) if has_glob else None
    files = []
    for info in [system.get_file_info(path)]:
        if info.type == fs.FileType.Directory:
            inside = system.get_file_info(fs.FileSelector(info.path, recursive=True))
            files += [each for each in inside if each.path.endswith(suffix) and (wanted is None or wanted(each.path))]
        elif info.type == fs.FileType.File:
            files.append(info)
    return [RemoteFile(info.path, (info.size, str(info.mtime_ns)), system) for info in files if info.is_file]


def _system(address: str) -> tuple[fs.FileSystem, str]:
    """Return the file system and the path of an address."""
    if address.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in address:
        # Without a limit, missing credentials are looked for during a quarter of an hour.
        address += ("&" if "?" in address else "?") + f"retry_limit_seconds={RETRY_S}"
    system, path = fs.FileSystem.from_uri(address)
    return system, path


def _matcher(base: str, pattern: str) -> Any:
    """Return whether a path matches a glob below a folder; ** crosses folders, * does not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.lstrip("/"))
    kinds = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = "".join(kinds.get(part, re.escape(part)) for part in parts)
    compiled = re.compile(re.escape(base.rstrip("/")) + "/" + expression)
    return lambda path: compiled.fullmatch(path) is not None


def split_of(path: str) -> str | None:
    """Return the split that a word in a file's name tells (`train-00000-of-00005.parquet`), or its folder's."""
    parts = PurePosixPath(path)
    words = [word for word in re.split(r"[^a-z]+", parts.stem.lower()) if word in _SPLITS]
    if words:
        # Two of them tell nothing.
        return words[0] if len(set(words)) == 1 else None
    folder = parts.parent.name.lower()
    return folder if folder in _SPLITS else None
