"""Files by path, glob, folder or address (`hf://`, `s3://`, `gs://`), through pyarrow's file systems."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from headmask.errors import DataError

RETRY_S = 30


@dataclass(frozen=True)
class RemoteFile:
    """A file on this machine or elsewhere."""

    system: fs.FileSystem
    path: str
    stamp: tuple[Any, ...]
    """Size and time of change."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> Path | None:
        """The file's folder where it is on this machine."""
        return Path(self.path).parent if isinstance(self.system, fs.LocalFileSystem) else None


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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{where} cannot be read: {reason[:200]}") from None


def find_files(patterns: list[str], suffix: str) -> list[RemoteFile]:
    """Return the files that paths, globs, folders and addresses name, in order of their paths.

    Raises:
        DataError: nothing is there, or an address cannot be reached.
    """
    found: dict[tuple[str, str], RemoteFile] = {}
    for pattern in patterns:
        with reached(pattern):
            files = _files(pattern, suffix)
        if not files:
            raise DataError(f"there is no {suffix} file at {pattern}")
        found |= {(file.system.type_name, file.path): file for file in files}
    return [found[key] for key in sorted(found)]


def _files(pattern: str, suffix: str) -> list[RemoteFile]:
    if "://" not in pattern:
        paths = sorted(glob.glob(pattern, recursive=True)) or [pattern]
        system, infos = (
            fs.LocalFileSystem(),
            [fs.LocalFileSystem().get_file_info(str(Path(path).resolve())) for path in paths],
        )
        wanted = None
    else:
        base = re.split(r"[*?\[]", pattern)[0]
        has_glob = base != pattern
        system, path = _system(base.rpartition("/")[0] if has_glob else base)
        infos = [system.get_file_info(path)]
        wanted = _matcher(path, pattern[len(base.rpartition("/")[0]) :]) if has_glob else None
    files = []
    for info in infos:
        if info.type == fs.FileType.Directory:
            inside = system.get_file_info(fs.FileSelector(info.path, recursive=True))
            files += [each for each in inside if each.path.endswith(suffix) and (wanted is None or wanted(each.path))]
        elif info.type == fs.FileType.File:
            files.append(info)
    return [RemoteFile(system, info.path, (info.size, str(info.mtime_ns))) for info in files if info.is_file]


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
    """Return the split that a file's name or folder tells, such as `train-00000-of-00005.parquet` or `test/0.tar`."""
    known = ("train", "validation", "valid", "val", "dev", "test", "search", "confirm")
    parts = PurePosixPath(path)
    stem = re.match(r"([a-z]+)(?:[-_.]|$)", parts.stem.lower())
    if stem and stem[1] in known:
        return stem[1]
    return parts.parent.name.lower() if parts.parent.name.lower() in known else None
