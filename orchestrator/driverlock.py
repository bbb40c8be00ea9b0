"""One driver per study: a lock that its holder's death gives back at once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from headmask.errors import StudyError
from orchestrator.location import scheme_of


class DriverLock(Protocol):
    """A held lock."""

    def release(self) -> None:
        """Give the study free."""
        ...


def lock_driver(location: str, name: str) -> DriverLock:
    """Return the lock of a study, held.

    Journal files and sqlite are locked by a file beside them, which the kernel gives back when the process dies;
    PostgreSQL and MySQL by an advisory lock, which the server gives back with the connection.

    Raises:
        StudyError: another driver holds it.
    """
    scheme = scheme_of(location)
    if scheme in ("postgresql", "mysql"):
        return _DatabaseLock(location, scheme, name)
    path = Path(location.split("///", 1)[1] if scheme == "sqlite" else location)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.{_key(name):016x}.driver"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _taken(name) from None
    return lock


class _DatabaseLock:
    """An advisory lock on a connection of its own."""

    def __init__(self, url: str, scheme: str, name: str) -> None:
        from sqlalchemy import create_engine, text
        from sqlalchemy.pool import NullPool

        self._connection: Any = None
        try:
            self._connection = create_engine(url, poolclass=NullPool).connect()
        except ImportError:
            raise StudyError(f"{scheme} needs a driver: pip install 'headmask[{scheme}]'") from None
        except Exception as error:
            raise StudyError(f"cannot open the study's database: {str(error).strip().splitlines()[0]}") from None
        if scheme == "postgresql":
            held = self._connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _key(name)}).scalar()
        else:
            key = f"headmask-{_key(name):x}"
            held = self._connection.execute(text("SELECT GET_LOCK(:key, 0)"), {"key": key}).scalar()
        self._connection.commit()
        if not held:
            self._connection.close()
            raise _taken(name)

    def release(self) -> None:
        self._connection.close()


def _key(name: str) -> int:
    """Return a positive 63-bit number for a study's name."""
    return int.from_bytes(hashlib.sha256(f"headmask {name}".encode()).digest()[:8], "big") >> 1


def _taken(name: str) -> StudyError:
    return StudyError(f"another driver runs study {name!r} right now: wait until it ends, or stop it")
