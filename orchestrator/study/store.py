"""The durable study: every result appended as it arrives, in an Optuna storage that dashboards can open.

A journal file by default, a database for teams. Only the driver writes, and a second driver is refused. Results are
written on a separate thread, in groups of 64 or every 2 seconds; if the storage is away, writing is retried.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.storages import BaseStorage

from headmask.border.foreign import reason_of
from headmask.border.shown import shown
from headmask.border.writing import check_output
from headmask.errors import StudyError
from headmask.mask import HeadGrid, HeadMask
from orchestrator.settings.location import file_of, is_url, kind_of, redacted
from orchestrator.study.integrity import checked_attrs, with_sums
from orchestrator.study.journal import Journal, truncate_torn_line
from orchestrator.study.lock import DriverLock, StorageAwayError, lock_driver
from orchestrator.study.records import TrialRecord, read_records
from orchestrator.study.storage import check_storage_file, end_session, load_study, open_storage
from orchestrator.study.stored import BEGUN, has_begun

GROUP = 64
GROUP_S = 2.0
FLUSH_S = 30.0
"""Seconds that closing waits for a storage that is away."""
MAX_DELAY_S = 15.0
"""Maximum time between two attempts to write, in seconds."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Attr:
    """A study attribute to be written."""

    key: str
    value: Any


class StudyStore:
    """One study in a storage, held by one driver. Use as a context manager: leaving it flushes and unlocks.

    Make one with `create` or `open`.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage, lock: DriverLock, held: ExitStack) -> None:
        self.study, self._storage = study, storage
        self.name = study.study_name
        self._lock, self._held = lock, held
        self._attrs = checked_attrs(study.user_attrs, f"study {self.name!r}")
        self._lost: StudyError | None = None
        """Why nothing more can be written: another driver has taken the study."""
        self._again = False
        """Whether the last attempt to write failed, so that part of it may have been written."""
        self._queue: queue.Queue[TrialRecord | _Attr | threading.Event | None] = queue.Queue()
        self._unsaved = 0
        self._thread = threading.Thread(target=self._write_all, name="headmask-store", daemon=True)
        self._thread.start()

    @classmethod
    def create(cls, location: str, name: str, attrs: Mapping[str, Any]) -> StudyStore:
        """Return a new study in a storage.

        Args:
            location: a journal file's path, or a database URL.
            name: name of the study.
            attrs: initial study attributes, JSON values.

        Raises:
            StudyError: a study of that name has begun, another driver begins it, or the storage cannot be opened.
            OutputError: the file of the storage holds something else, or cannot be written.
        """
        with ExitStack() as held:
            if path := file_of(location):
                check_output(path, kind_of(location))
            lock = lock_driver(location, name)
            held.callback(lock.release)
            if not is_url(location):
                truncate_torn_line(Path(location))
            storage = held.enter_context(open_storage(location))
            # A driver that was killed here before may have left a part of what follows.
            study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
            if has_begun(study.user_attrs, len(study.get_trials(deepcopy=False))):
                raise exists(location, name)
            for key in sorted(attrs, key=lambda key: key == BEGUN):
                for written, value in with_sums(study.user_attrs, key, attrs[key]).items():
                    study.set_user_attr(written, value)
            return cls(study, storage, lock, held.pop_all())

    @classmethod
    def open(cls, location: str, name: str) -> StudyStore:
        """Return an existing study, to continue it.

        Raises:
            StudyError: no such study, another driver runs it, or the storage cannot be opened.
        """
        with ExitStack() as held:
            if path := file_of(location):
                check_storage_file(location, path)
                check_output(path, kind_of(location))
            lock = lock_driver(location, name)
            held.callback(lock.release)
            if not is_url(location):
                truncate_torn_line(Path(location))
            storage = held.enter_context(open_storage(location, must_exist=True))
            return cls(load_study(storage, location, name), storage, lock, held.pop_all())

    def attr(self, key: str) -> Any:
        """Return a study attribute, or None, including attributes not yet written."""
        return self._attrs.get(key)

    def set_attr(self, key: str, value: Any) -> None:
        """Write a study attribute, after the results that were appended before it."""
        for written, content in with_sums(self._attrs, key, value).items():
            self._attrs[written] = content
            self._queue.put(_Attr(written, content))

    def records(self, grid: HeadGrid) -> dict[HeadMask, TrialRecord]:
        """Return all stored results by mask.

        Raises:
            StudyError: one is not what was written.
        """
        records = read_records(self._attrs, self.study.get_trials(deepcopy=False), grid=grid)
        return {record.mask: record for record in records}

    def append(self, record: TrialRecord) -> None:
        """Store a result soon; returns at once.

        Raises:
            StudyError: while the storage was away, another driver took the study over.
        """
        if self._lost is not None:
            raise self._lost
        self._queue.put(record)

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until everything so far is on disk, and return whether it is."""
        written = threading.Event()
        self._queue.put(written)
        return written.wait(timeout_s)

    def close(self) -> int:
        """Write what waits, release the study, and return how many results could not be written."""
        self._queue.put(None)
        self._thread.join(FLUSH_S)
        self._held.close()
        return self._unsaved + sum(isinstance(item, TrialRecord) for item in list(self._queue.queue))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if unsaved := self.close():
            _log.error("%d results could not be written to the study; resuming scores them again", unsaved)

    def _write_all(self) -> None:
        is_last = False
        while not is_last:
            group, written, is_last = self._next_group()
            delay_s = 0.5
            while not self._wrote(group):
                if self._lost is not None:
                    return
                self._again = True
                time.sleep(delay_s)
                delay_s = min(2 * delay_s, MAX_DELAY_S)
            if written is not None:
                written.set()
        end_session(self._storage)

    def _wrote(self, group: list[TrialRecord | _Attr]) -> bool:
        """Write a group, removing from it what is written, and return whether all of it is on disk."""
        self._unsaved = sum(isinstance(item, TrialRecord) for item in group)
        try:
            self._lock.renew()
            if self._again:
                self._drop_written(group)
                self._again = False
            while group:
                item = group[0]
                if isinstance(item, TrialRecord):
                    self.study.add_trial(item.to_trial())
                else:
                    self.study.set_user_attr(item.key, item.value)
                group.pop(0)
                self._unsaved -= isinstance(item, TrialRecord)
            if isinstance(self._storage, Journal):
                self._storage.commit()
        # Every storage has its own exceptions for being away; nothing is lost by trying again.
        except Exception as error:
            if isinstance(error, StudyError) and not isinstance(error, StorageAwayError):
                self._lost = error
            _log.warning("the storage is away (%s); %d results wait", reason_of(error), len(group))
            return False
        return True

    def _drop_written(self, group: list[TrialRecord | _Attr]) -> None:
        """Remove results from a group that were written before the storage failed to confirm it."""
        stored = {trial.user_attrs.get("proposal") for trial in self.study.get_trials(deepcopy=False)}
        group[:] = [item for item in group if not (isinstance(item, TrialRecord) and item.proposal in stored)]

    def _next_group(self) -> tuple[list[TrialRecord | _Attr], threading.Event | None, bool]:
        """Return what to write next, the events to set when it is written, and whether it is the last."""
        group: list[TrialRecord | _Attr] = []
        item = self._queue.get()
        deadline = time.monotonic() + GROUP_S
        while isinstance(item, (TrialRecord, _Attr)):
            group.append(item)
            if len(group) == GROUP:
                return group, None, False
            try:
                item = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return group, None, False
        return group, item, item is None


def exists(location: str, name: str) -> StudyError:
    """Return the error for creating a study that exists."""
    return StudyError(
        f"study {name!r} exists in {shown(redacted(location))}: resume it with `headmask resume`, "
        "or choose another --out or --study"
    )
