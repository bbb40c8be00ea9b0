"""MLflow's database in an sqlite file: made and brought up to date by one process at a time, and whole or not there.

MLflow makes its tables in dozens of steps without a lock. Two processes that begin at once, or one that is killed,
leave a database that no version of MLflow opens again. So a new one is made beside, and gets its name when it is done.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from headmask.border.foreign import reason_of
from headmask.border.reading import is_there
from orchestrator.track.refusal import TrackingRefusedError

LOCK_S = 120.0
"""Seconds that another process may take to make the database."""
SETTLED_S = 20.0
"""Seconds without a change after which a database counts as finished or abandoned."""


def prepare_database(path: Path, *, is_own: bool) -> None:
    """Make sure that an sqlite file is a database of this version of MLflow.

    Args:
        path: the file; it is made where there is none.
        is_own: whether it is the one beside run folders, which is brought up to date where it is older.

    Raises:
        TrackingRefusedError: it is none, or of another version; the message says how to repair it.
        OSError: it cannot be made.
    """
    newest = _newest_revision()
    if _revision(path) == newest:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_S)
    try:
        with lock:
            found = _revision(path)  # Another process may have made it meanwhile.
            if found is None:
                _make(path)
            elif found != newest:
                _check_settled(path)
                _bring_up_to_date(path, found, is_own=is_own)
    except Timeout:
        raise OSError(f"another process has been making {path} for {LOCK_S:.0f} s") from None


@cache
def _newest_revision() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def _revision(path: Path) -> str | None:
    """Return the version of a database's tables; None if there are none yet.

    Raises:
        TrackingRefusedError: it is none of MLflow's, or only part of one.
    """
    if not is_there(path) or path.stat().st_size == 0:
        return None
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=20)
        ) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables:
                return None
            versions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise OSError(f"{path}: {error}") from None
        versions = []
    except sqlite3.DatabaseError as error:
        raise _broken(path, str(error)) from None
    if not versions or not {"experiments", "runs"} <= tables:
        _check_settled(path)
        raise _broken(path, "it holds a part of MLflow's tables, or those of another program")
    return str(versions[0][0])


def _check_settled(path: Path) -> None:
    """Check that no other program, such as `mlflow ui`, is making a database right now."""
    if time.time() - path.stat().st_mtime < SETTLED_S:
        raise OSError(f"{path} is not whole: another program makes it right now, or was stopped while it did")


def _broken(path: Path, why: str) -> TrackingRefusedError:
    return TrackingRefusedError(
        f"{path} is not a database of MLflow ({why}): move it away, and a new one is made; "
        "`headmask track sync RUN_FOLDER` fills it"
    )


def _make(path: Path) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _migrate(scratch)
        _open_once(scratch, path.parent)
        # A link, because it does not replace what somebody else has put there.
        try:
            os.link(scratch, path)
        except FileExistsError:
            if path.stat().st_size:
                return
            scratch.replace(path)
        except OSError:
            scratch.replace(path)  # No links on this file system.
    finally:
        for left in (scratch, scratch.with_name(f"{scratch.name}-journal")):
            left.unlink(missing_ok=True)


def _engine(path: Path) -> Any:
    from sqlalchemy import create_engine
    from sqlalchemy.engine import URL
    from sqlalchemy.pool import NullPool

    return create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)


def _migrate(path: Path) -> None:
    """Make MLflow's tables, or update those of an older version."""
    from mlflow.store.db.utils import _all_tables_exist, _initialize_tables, _upgrade_db

    engine = _engine(path)
    try:
        _upgrade_db(engine) if _all_tables_exist(engine) else _initialize_tables(engine)
    finally:
        engine.dispose()


def _open_once(path: Path, folder: Path) -> None:
    """Let MLflow write what it writes when it first opens a database, such as its default experiment."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{path}", (folder / "mlartifacts").as_uri())
    store.engine.dispose()


def _bring_up_to_date(path: Path, found: str, *, is_own: bool) -> None:
    """Migrate headmask's own database, keeping a copy of the old one."""
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store.db.utils import _get_alembic_config

    try:
        ScriptDirectory.from_config(_get_alembic_config("")).get_revision(found)
    except CommandError:
        raise TrackingRefusedError(
            f"{path} was made by a newer version of MLflow (its tables are of revision {found}): install that, or name "
            "another database with --tracking-uri"
        ) from None
    if not is_own:
        raise TrackingRefusedError(
            f"{path} was made by an older version of MLflow (its tables are of revision {found}): after a backup, run "
            f"`mlflow db upgrade sqlite:///{path}`"
        )
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(path, scratch)
        _migrate(scratch)
        kept = path.with_name(f"{path.name}.{found}")
        if not is_there(kept):
            os.link(path, kept)
        os.replace(scratch, path)
    # Alembic, SQLAlchemy and sqlite have their own exceptions for tables that are not as their version says.
    except Exception as error:
        raise _broken(path, f"it cannot be brought up to date: {reason_of(error)}") from None
    finally:
        scratch.unlink(missing_ok=True)
