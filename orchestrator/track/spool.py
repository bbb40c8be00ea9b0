"""`tracking.jsonl`: everything that a search tracks, on disk before it is sent.

Lines are written as they are queued, not when sending fails: a driver that is killed leaves what it had not sent, and a
run can be sent as a whole to another server. Written means handed to the kernel, which survives the driver; the sender
forces them to disk.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from headmask.errors import StudyError
from orchestrator.track.operations import LINE, Begin, Line, Operation, Sent

_log = logging.getLogger(__name__)

NAME = "tracking.jsonl"


class Spool:
    """The operations of a run folder in order, and how many of them each run has. Only one process can hold it.

    Use as a context manager, or close it.

    Raises:
        StudyError: another process holds it, or a line is not one of ours.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self.begin: Begin | None = None
        """How the search is tracked, once it has begun."""
        self._operations: list[Operation] = []
        self._sent: dict[str, int] = {}
        self._lock = threading.Lock()
        self._unwritten = b""
        """Whole lines that could not be written yet, such as to a full disk."""
        self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
        try:
            self._hold()
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def _hold(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"{self.path} is in use: a search, or `headmask track`, sends it right now; try again when it has ended"
            ) from None

    def _read(self) -> None:
        content = self.path.read_bytes()
        # A driver that was killed in the middle of a line leaves its beginning.
        if (whole := content.rfind(b"\n") + 1) < len(content):
            os.ftruncate(self._file, whole)
        for number, text in enumerate(content[:whole].splitlines(), 1):
            try:
                self._keep(LINE.validate_json(text))
            except ValidationError:
                raise StudyError(f"{self.path}, line {number}, is not what headmask writes: {text[:60]!r}") from None

    def _keep(self, line: Line) -> None:
        if isinstance(line, Begin):
            self.begin = line
        elif isinstance(line, Sent):
            self._sent[line.run_id] = line.count
        else:
            self._operations.append(line)

    @property
    def operations(self) -> Sequence[Operation]:
        """All operations so far; more may be added at the end."""
        return self._operations

    def sent(self, run_id: str) -> int:
        """Return how many operations a run has."""
        return self._sent.get(run_id, 0)

    def append(self, line: Line) -> None:
        """Keep a line, and write it; if that fails, it is written with the next one."""
        with self._lock:
            self._keep(line)
            self._unwritten += line.model_dump_json().encode() + b"\n"
            before, left = os.fstat(self._file).st_size, memoryview(self._unwritten)
            try:
                while left:
                    left = left[os.write(self._file, left) :]
            except OSError as error:
                # Half a line would spoil all that comes after it.
                os.ftruncate(self._file, before)
                _log.debug("%s: %s", self.path, error)
            else:
                self._unwritten = b""

    def commit(self) -> None:
        """Force everything written to disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
