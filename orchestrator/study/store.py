"""The durable study: every result appended as it arrives, in an Optuna storage that dashboards can open.

A journal file by default, a database for teams. Only the driver writes, and a second driver is refused. Results are
written on a separate thread, in groups of 64 or every 2 seconds; if the storage is away, writing is retried.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage

from headmask.border.foreign import reason_of
from headmask.border.kinds import tables_of
from headmask.border.libraries import with_driver
from headmask.border.passwords import hidden
from headmask.border.reading import check_file, is_file, is_folder
from headmask.border.shown import shown
from headmask.border.writing import check_output, made_folder
from headmask.errors import StudyError
from headmask.mask import HeadGrid, HeadMask
from orchestrator.settings.commandline import command_line
from orchestrator.settings.config import SearchConfig, parse_stored
from orchestrator.settings.location import SCHEMES, check_location, file_of, is_url, kind_of, redacted, sqlite_file
from orchestrator.study.integrity import checked_attrs, with_sums
from orchestrator.study.journal import Journal, truncate_torn_line
from orchestrator.study.lock import DriverLock, StorageAwayError, lock_driver
from orchestrator.study.records import TrialRecord, read_records

GROUP = 64
GROUP_S = 2.0
FLUSH_S = 30.0
"""Seconds that closing waits for a storage that is away."""
MADE_BY_ANOTHER = re.compile(r"already exists|duplicate key|Duplicate entry|UNIQUE constraint")
MAKING_S = 60.0
"""Seconds that another process may take to make the tables of a database."""
MAX_DELAY_S = 15.0
"""Maximum time between two attempts to write, in seconds."""
BEGUN = "config"
"""The attribute that a new study gets last: without it, and without trials, a study has not begun."""

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


def has_begun(attrs: Mapping[str, Any], num_trials: int) -> bool:
    """Return whether a study is more than the remains of a driver that was killed while it created one."""
    return BEGUN in attrs or num_trials > 0


def exists(location: str, name: str) -> StudyError:
    """Return the error for creating a study that exists."""
    return StudyError(
        f"study {name!r} exists in {shown(redacted(location))}: resume it with `headmask resume`, "
        "or choose another --out or --study"
    )


@contextmanager
def open_storage(location: str, *, must_exist: bool = False) -> Iterator[BaseStorage]:
    """Hold the Optuna storage at a location open until the end of the block.

    Args:
        location: a journal file's path, or a database URL.
        must_exist: for reading: a missing storage is an error, and is not made.

    Raises:
        StudyError: the URL is of another kind, its driver is missing, or the storage cannot be reached.
        OutputError: the file of a new storage cannot be made, or holds something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_location(location)
    path = file_of(location)
    if path is not None and must_exist:
        check_storage_file(location, path)
    elif path is not None:
        check_output(path, kind_of(location))
        with made_folder(path.parent):
            pass
    if not is_url(location):
        yield Journal(Path(location))
        return
    storage = _database(location)
    try:
        yield storage
    finally:
        end_session(storage)
        storage.engine.dispose()


def check_storage_file(location: str, path: Path) -> None:
    """Check that the file of a storage exists and holds studies, without changing it.

    Raises:
        StudyError: it is not there, or is something else.
    """
    check_file(path, "study", StudyError)
    kind, is_other = kind_of(location), False
    if not path.stat().st_size:
        raise StudyError(f"there is no study in {shown(path)}, which is empty")
    if kind.made(path) and is_url(location):
        tables = tables_of(path)
        is_other = tables is not None and "studies" not in tables
    if is_other or not kind.made(path):
        raise StudyError(f"{shown(path)} is not {kind.name}; name the file that a search was given by --storage")


def _database(location: str) -> RDBStorage:
    scheme = check_location(location)
    try:
        with made_alone(location):
            return _opened(location)
    except ImportError:
        raise StudyError(f"{scheme} needs a driver: pip install 'headmask[{SCHEMES[scheme]}]'") from None
    # SQLAlchemy and each driver have their own exceptions for a database that is not there.
    except Exception as error:
        reason = hidden(reason_of(error), location)
        raise StudyError(f"cannot open storage {redacted(location)}: {reason}") from None


def _opened(location: str) -> RDBStorage:
    """Return a database, opened again if another process is making its tables."""
    for delay_s in (0.2, 0.5, 1.0):
        try:
            return RDBStorage(with_driver(location), engine_kwargs={"pool_pre_ping": True})
        # Every driver has its own exceptions for what is there already.
        except Exception as error:
            if not MADE_BY_ANOTHER.search(str(error)):
                raise
            time.sleep(delay_s)
    return RDBStorage(with_driver(location), engine_kwargs={"pool_pre_ping": True})


@contextmanager
def made_alone(location: str) -> Iterator[None]:
    """Let one process at a time make the tables of a new sqlite database: Optuna does it in steps, without a lock."""
    path = sqlite_file(location)
    if path is None or not is_folder(path.parent) or (is_file(path) and path.stat().st_size):
        yield
        return
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=MAKING_S):
        yield


def end_session(storage: BaseStorage) -> None:
    """Release this thread's connection to a database."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()


def load_study(storage: BaseStorage, location: str, name: str) -> optuna.Study:
    """Return a study of a storage.

    Raises:
        StudyError: there is none of that name; the message lists the existing ones.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        names = optuna.get_all_study_names(storage)
        listed = f"it has {', '.join(sorted(names)[:10])}" if names else "it has none"
        raise StudyError(f"there is no study {name!r} in {redacted(location)}: {listed}") from None


_NEEDED = frozenset(("model", "grid", "objective", "guide", "task"))
"""Parts of a fingerprint that are read without the model and the data."""


@dataclass(frozen=True)
class StoredStudy:
    """A study as written in a storage."""

    attrs: dict[str, Any]
    config: SearchConfig
    records: list[TrialRecord]
    """Records in order of proposal."""


def read_stored(location: str, name: str) -> StoredStudy:
    """Return the content of a storage for a study that headmask made, without disturbing a driver.

    Raises:
        StudyError: there is no such study, it was not made by headmask, has not begun, or is damaged.
    """
    with open_storage(location, must_exist=True) as storage:
        study = load_study(storage, location, name)
        attrs = checked_attrs(study.user_attrs, f"study {name!r} in {shown(redacted(location))}")
        trials = study.get_trials(deepcopy=False)
    if not isinstance(attrs.get(BEGUN), dict) or not isinstance(attrs.get("fingerprint"), dict):
        raise not_ours(location, name, attrs, len(trials))
    if missing := sorted(_NEEDED - attrs["fingerprint"].keys()):
        raise StudyError(f"study {name!r} is damaged: its fingerprint has no {', '.join(missing)}")
    return StoredStudy(attrs, parse_stored(attrs[BEGUN], f"study {name}"), read_records(attrs, trials))


def not_ours(location: str, name: str, attrs: Mapping[str, Any], num_trials: int) -> StudyError:
    """Return the error for a study that can be neither read nor continued."""
    where = f"study {name!r} in {shown(redacted(location))}"
    if has_begun(attrs, num_trials):
        return StudyError(f"{where} was not made by headmask, or is damaged")
    command = command_line("headmask", "search", "--storage", redacted(location), "--study", name)
    return StudyError(f"{where} has not begun: start it with `{command}`")
