"""The durable study as a file: Optuna's journal, forced to disk once per group, safe against dying writers."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

_log = logging.getLogger(__name__)


class _KernelLock:
    """Serialises writers of a journal. The kernel gives it back when its holder dies, however it dies."""

    def __init__(self, journal: str) -> None:
        self._path = f"{journal}.flock"
        self._file: int | None = None

    def acquire(self) -> bool:
        self._file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o644)
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
    """A journal whose lines are visible at once and forced to disk once per group."""

    def __init__(self, path: str) -> None:
        self._kernel_lock = _KernelLock(path)
        super().__init__(path, lock_obj=self._kernel_lock)  # type: ignore[arg-type]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append all or nothing, without forcing the disk; `commit` does that.

        Raises:
            OSError: the lines could not be written, such as to a full disk.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._kernel_lock, open(self._file_path, "ab", buffering=0) as journal:
            before, left = journal.seek(0, os.SEEK_END), memoryview(lines)
            try:
                while left:
                    left = left[journal.write(left) :]
            except OSError:
                # Half a line would spoil all that comes after it.
                journal.truncate(before)
                raise

    def commit(self) -> None:
        """Force everything appended to disk."""
        descriptor = os.open(self._file_path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Journal(JournalStorage):
    """A storage in a journal file."""

    def __init__(self, path: Path) -> None:
        self._file = GroupCommitBackend(str(path))
        super().__init__(self._file)

    def commit(self) -> None:
        """Force everything written to disk."""
        self._file.commit()


def truncate_torn_line(path: Path) -> None:
    """Cut off a last line that a dying driver left half-written: Optuna reads past it only while it is last."""
    if not path.is_file():
        return
    with path.open("rb+") as journal:
        content = journal.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            _log.warning("%s ended in a half-written line, which is cut off; its result is scored again", path)
            journal.truncate(whole)
