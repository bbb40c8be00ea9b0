"""The durable study as a file: Optuna's journal, forced to disk once per group, safe against dying writers.

Every line ends with a checksum of itself, which Optuna reads past, so that a line that is not what was written is found
and named. The file is reached through its folder, so a study goes on in a folder that is moved meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shlex
import weakref
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from headmask.border.foreign import reason_of
from headmask.border.reading import check_file
from headmask.border.shown import shown
from headmask.errors import HeadmaskError, StudyError

_CHECKED = re.compile(rb'(.*),"crc":"([0-9a-f]{8})"\}\s*', re.DOTALL)
"""A line with its checksum, which lines of older versions and of other programs do not have."""

_log = logging.getLogger(__name__)


class _KernelLock:
    """Serialises writers of a journal. The kernel releases it when its holder dies."""

    def __init__(self, name: str, folder: int) -> None:
        self._name, self._folder = f"{name}.flock", folder
        self._file: int | None = None

    def acquire(self) -> bool:
        self._file = os.open(self._name, os.O_CREAT | os.O_RDWR, 0o644, dir_fd=self._folder)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class GroupCommitBackend(JournalFileBackend):
    """A journal whose lines are checked, visible at once, and forced to disk once per group."""

    def __init__(self, path: str) -> None:
        self._path, self._name = path, os.path.basename(path)
        self._folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        # Whoever holds the storage may use it as long as it lives.
        weakref.finalize(self, os.close, self._folder)
        self._kernel_lock = _KernelLock(self._name, self._folder)
        self._starts = {0: 0}
        """Positions of lines in the file, by number, as far as they have been read."""
        super().__init__(path, lock_obj=self._kernel_lock)  # type: ignore[arg-type]

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield lines from a number on; an incomplete last line is left for later.

        Raises:
            StudyError: a line is not what was written.
        """
        number = log_number_from if log_number_from in self._starts else 0
        with self._opened(os.O_RDONLY) as descriptor, open(descriptor, "rb", closefd=False) as journal:
            end = os.fstat(descriptor).st_size
            place = journal.seek(self._starts[number])
            for line in journal:
                place += len(line)
                # What comes after a line that is not yet whole was written meanwhile.
                if place > end or not line.endswith(b"\n"):
                    return
                self._starts[number + 1] = place
                if number >= log_number_from:
                    yield _checked(line, self._path, number + 1)
                number += 1

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append all or nothing, without forcing it to disk; `commit` does that.

        Raises:
            OSError: the lines could not be written, such as to a full disk.
        """
        lines = b"".join(map(_line_of, logs))
        with self._kernel_lock, self._opened(os.O_WRONLY | os.O_APPEND | os.O_CREAT) as descriptor:
            before, left = os.lseek(descriptor, 0, os.SEEK_END), memoryview(lines)
            try:
                while left:
                    left = left[os.write(descriptor, left) :]
            except OSError:
                # Half a line would spoil all that comes after it.
                os.ftruncate(descriptor, before)
                raise

    def commit(self) -> None:
        """Force everything appended to disk."""
        with self._opened(os.O_RDWR) as descriptor:
            os.fsync(descriptor)

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        descriptor = os.open(self._name, flags, 0o644, dir_fd=self._folder)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _line_of(log: dict[str, Any]) -> bytes:
    """Return a journal's line with its checksum."""
    content = json.dumps(log, separators=(",", ":")).encode()[:-1]
    return content + f',"crc":"{zlib.crc32(content):08x}"}}\n'.encode()


def _checked(line: bytes, path: str, number: int) -> dict[str, Any]:
    where = f"line {number} of {shown(path)}"
    found = _CHECKED.fullmatch(line)
    if found is not None and zlib.crc32(found[1]) != int(found[2], 16):
        raise _damaged(path, number, f"{where} is not what headmask wrote")
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, number, f"{where} is not JSON ({error})") from None
    if not isinstance(content, dict) or "op_code" not in content:
        raise _damaged(path, number, f"{where} is not a line of a study")
    content.pop("crc", None)
    return content


def _damaged(path: str, number: int, reason: str) -> StudyError:
    return StudyError(
        f"{reason}, so the study is damaged. Bring the file back from a copy, or delete that line "
        f"(sed -i.bak {number}d {shlex.quote(path)}): a result that it held is scored again"
    )


class Journal(JournalStorage):
    """A storage in a journal file.

    Raises:
        StudyError: the file is no journal, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = GroupCommitBackend(str(path))
        except (OSError, ValueError) as error:
            raise StudyError(f"cannot open storage {shown(path)}: {reason_of(error)}") from None
        try:
            super().__init__(self._file)
        except HeadmaskError:
            raise
        except Exception as error:
            # Optuna's replay raises whatever a line that is not as it must be makes it stumble over.
            raise StudyError(
                f"{shown(path)} is not a journal of studies, or is damaged: {reason_of(error)}. "
                "Bring the file back from a copy"
            ) from None

    def commit(self) -> None:
        """Force everything written to disk."""
        self._file.commit()


def truncate_torn_line(path: Path) -> None:
    """Cut off a last line that a dying driver left half-written: Optuna skips it only while it is last."""
    if not path.exists():
        return
    check_file(path, "journal of studies", StudyError)
    with path.open("rb+") as journal:
        content = journal.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            _log.warning("%s ended in a half-written line, which is cut off; its result is scored again", path)
            journal.truncate(whole)
