"""Storages of Optuna by their location, a journal file or a database URL: checked, opened, and closed again."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
from orchestrator.settings.location import SCHEMES, check_location, file_of, is_url, kind_of, redacted, sqlite_file
from orchestrator.study.journal import Journal

MADE_BY_ANOTHER = re.compile(r"already exists|duplicate key|Duplicate entry|UNIQUE constraint")
MAKING_S = 60.0
"""Seconds that another process may take to make the tables of a database."""


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
