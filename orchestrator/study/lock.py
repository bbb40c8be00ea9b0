"""One driver per study: a lock that is released at once when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from headmask.border.foreign import reason_of
from headmask.border.libraries import with_driver
from headmask.border.writing import made_folder
from headmask.errors import StudyError
from orchestrator.settings.location import file_of, scheme_of

PATIENCE_S = 1.0
"""Seconds for which another holder may keep a lock before it counts as taken."""
IS_HELD_POSTGRESQL = """
    SELECT EXISTS (
        SELECT 1 FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND (classid::bigint << 32) + objid::bigint = :key
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
"""


class StorageAwayError(StudyError):
    """The database does not answer, but may do so later."""


class DriverLock(Protocol):
    """A held lock."""

    def renew(self) -> None:
        """Make sure that the lock is held, taking it again if a server has lost it.

        Raises:
            StudyError: another driver has taken it meanwhile.
        """
        ...

    def release(self) -> None:
        """Release the study."""
        ...


def lock_driver(location: str, name: str) -> DriverLock:
    """Return the lock of a study, held by this process.

    Journal files and sqlite are locked by a file beside them, which the kernel gives back when the process dies;
    PostgreSQL and MySQL by an advisory lock, which the server gives back with the connection.

    Raises:
        StudyError: another driver holds it.
    """
    scheme = scheme_of(location)
    if scheme in ("postgresql", "mysql"):
        return _DatabaseLock(location, scheme, name)
    path = _lock_path(location, name)
    with made_folder(path.parent):
        lock = _FileLock(path)
    try:
        # Whoever lists the studies of a storage holds it for a moment.
        lock.file.acquire(timeout=PATIENCE_S)
    except Timeout:
        raise _taken(name) from None
    return lock


def is_driven(location: str, name: str) -> bool:
    """Return whether a driver is running a study now.

    Raises:
        StudyError: the database cannot be asked.
    """
    scheme = scheme_of(location)
    if scheme in ("postgresql", "mysql"):
        with contextlib.closing(_connected(location, scheme)) as connection:
            query = IS_HELD_POSTGRESQL if scheme == "postgresql" else "SELECT IS_USED_LOCK(:name) IS NOT NULL"
            return bool(connection.execute(text(query), _names(name)).scalar())
    try:
        descriptor = os.open(_lock_path(location, name), os.O_RDONLY)
    except OSError:
        return False
    # Looking at it takes no right to write, and does not keep a driver that begins now from taking it.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _lock_path(location: str, name: str) -> Path:
    path = file_of(location) or Path(location)
    return path.with_name(f"{path.name}.{_key(name):016x}.driver")


class _FileLock:
    """A kernel lock, which is released only by its holder or its holder's death."""

    def __init__(self, path: Path) -> None:
        self.file = FileLock(path)

    def renew(self) -> None:
        pass

    def release(self) -> None:
        self.file.release()


class _DatabaseLock:
    """An advisory lock on a separate connection."""

    def __init__(self, url: str, scheme: str, name: str) -> None:
        self._url, self._scheme, self._name = url, scheme, name
        self._connection = _connected(url, scheme)
        self._take()

    def renew(self) -> None:
        # Where the server went away, the lock went with the connection.
        if not self._is_connected():
            self._connection.close()
            self._connection = _connected(self._url, self._scheme)
            self._take()

    def release(self) -> None:
        self._connection.close()

    def _is_connected(self) -> bool:
        if self._connection.closed:
            return False
        try:
            self._connection.execute(text("SELECT 1"))
            self._connection.commit()
        except DBAPIError:
            return False
        return True

    def _take(self) -> None:
        query = "SELECT pg_try_advisory_lock(:key)" if self._scheme == "postgresql" else "SELECT GET_LOCK(:name, 0)"
        held = self._connection.execute(text(query), _names(self._name)).scalar()
        self._connection.commit()
        if not held:
            self._connection.close()
            raise _taken(self._name)


def _connected(url: str, scheme: str) -> Connection:
    try:
        return create_engine(with_driver(url), poolclass=NullPool).connect()
    except ImportError:
        raise StudyError(f"{scheme} needs a driver: pip install 'headmask[{scheme}]'") from None
    except Exception as error:
        raise StorageAwayError(f"cannot open the study's database: {reason_of(error)}") from None


def _names(name: str) -> dict[str, int | str]:
    """Return the names of a study's lock in PostgreSQL and in MySQL."""
    return {"key": _key(name), "name": f"headmask-{_key(name):x}"}


def _key(name: str) -> int:
    """Return a positive 63-bit number for a study's name."""
    return int.from_bytes(hashlib.sha256(f"headmask {name}".encode()).digest()[:8], "big") >> 1


def _taken(name: str) -> StudyError:
    return StudyError(f"another driver runs study {name!r} right now: wait until it ends, or stop it")
