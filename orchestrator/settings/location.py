"""Where a study lives: a journal file's path, or a database URL."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from headmask.border.foreign import reason_of
from headmask.border.kinds import JOURNAL, STUDY_DATABASE, Kind
from headmask.border.libraries import with_driver
from headmask.border.passwords import redacted
from headmask.border.reading import check_text, is_file, is_folder, is_there
from headmask.border.shown import shown
from headmask.errors import ConfigError, HeadmaskError, StudyError, did_you_mean

__all__ = ["SCHEMES", "check_database", "check_driver", "check_location", "is_url", "redacted", "scheme_of"]

SCHEMES = {"sqlite": "", "postgresql": "postgresql", "mysql": "mysql"}
"""Supported database schemes, and the extra that each needs."""
EXAMPLES = {
    "sqlite": "sqlite:///studies.db",
    "postgresql": "postgresql://me@host:5432/studies",
    "mysql": "mysql+pymysql://me@host:3306/studies",
    "mssql": "mssql+pyodbc://me@host/studies?driver=ODBC+Driver+18+for+SQL+Server",
}
MAX_PORT = 65_535


def is_url(location: str) -> bool:
    """Return whether a location is a URL; otherwise, it is a file's path."""
    return "://" in location


def scheme_of(location: str) -> str:
    """Return a URL's scheme without its driver, such as `postgresql`; empty for a file's path."""
    return location.split("://")[0].split("+")[0] if is_url(location) else ""


def file_of(location: str) -> Path | None:
    """Return the file of a journal or of an SQLite database; None for a database that a server keeps."""
    return sqlite_file(location) if is_url(location) else Path(location)


def kind_of(location: str) -> Kind:
    """Return what kind of content the file of a location has."""
    return STUDY_DATABASE if is_url(location) else JOURNAL


def check_location(location: str) -> str:
    """Return the scheme of a supported storage; empty for a journal file.

    Raises:
        StudyError: it is neither a file nor a supported database; the message contains no password.
    """
    if not is_url(location):
        _check_path(location)
        return ""
    scheme = scheme_of(location)
    if scheme not in SCHEMES:
        raise StudyError(
            f"--storage must be a file or a URL of {', '.join(SCHEMES)}{did_you_mean(scheme.lower(), SCHEMES)}; "
            f"got {redacted(location)}"
        )
    check_database(location, "--storage", StudyError)
    return scheme


def absolute(path: str) -> str:
    """Return a path that is valid from any folder; links in it are kept."""
    return os.path.abspath(path)


def located(location: str) -> str:
    """Return a location with an absolute path, if it has one: that of a file, or in an SQLite URL."""
    if not is_url(location):
        return absolute(location)
    scheme, _, path = location.partition(":///")
    is_relative = scheme.split("+")[0] == "sqlite" and path and not path.startswith(("/", ":memory:", "file:"))
    return f"{scheme}:///{absolute(path)}" if is_relative else location


def _check_path(location: str) -> None:
    if not location.strip():
        raise StudyError("--storage must be a file or a URL; got an empty text")
    if found := re.match(r"(sqlite|postgres|postgresql|mysql|mariadb|mssql)(\+\w+)?:", location):
        raise StudyError(
            f"--storage looks like a URL, but :// must follow {found[0][:-1]}, such as "
            f"{EXAMPLES.get(found[1], EXAMPLES['postgresql'])}; got {redacted(location)}"
        )
    if why := check_text(location):
        raise StudyError(f"--storage must be a file or a URL; got {shown(repr(location))}: {why}")
    if is_folder(location):
        raise StudyError(
            f"--storage must be a file or a URL, and {location} is a folder; name a file in it, such as "
            f"{Path(location) / 'study.journal'}"
        )


def check_database(location: str, what: str, error: type[HeadmaskError] = ConfigError) -> None:
    """Check a database URL as far as possible without opening it.

    Args:
        location: the URL, with a known scheme.
        what: the option whose value it is.
        error: the error to raise.

    Raises:
        HeadmaskError: it cannot be the URL of a database; the message says why, and contains no password.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    scheme = scheme_of(location)
    way_out = f"such as {EXAMPLES[scheme]}; got {redacted(location)}"
    try:
        url = make_url(with_driver(location))
        url.get_dialect()
    except ArgumentError as reason:
        # An error without a name comes from a URL that cannot be read.
        driver = location.split("://")[0]
        unknown = "Can't load plugin" in str(reason)
        raise error(f"{what}: {f'there is no driver {driver}' if unknown else 'it is no URL'}; {way_out}") from None
    except ValueError:
        raise error(f"{what}: the port must be a number, {way_out}") from None
    # `check_driver` detects a driver whose dialect exists but cannot be imported.
    except ImportError:
        return
    if url.port is not None and not 0 < url.port <= MAX_PORT:
        raise error(f"{what}: the port must be from 1 to {MAX_PORT:,}, {way_out}")
    if scheme != "sqlite":
        if url.database is None and scheme == "mysql":
            raise error(f"{what}: the name of the database is missing, {way_out}")
        return
    if url.host is not None:
        raise error(f"{what}: sqlite needs three slashes before a path and four before an absolute one, {way_out}")
    if url.database in (None, "", ":memory:"):
        raise error(f"{what}: sqlite needs a file, for what is in memory is lost, {way_out}")
    path = str(url.database)
    if path.startswith("file:"):
        raise error(f"{what}: sqlite needs a path, and options of its own are not understood, {way_out}")
    # Anything there that is not a file would be replaced by a database.
    if "\0" in location or (is_there(path) and not is_file(path)):
        raise error(f"{what}: sqlite needs a file, and this is none, {way_out}")


def check_driver(location: str, what: str, extras: Collection[str] = tuple(filter(None, SCHEMES.values()))) -> None:
    """Check that the driver of a database URL is installed.

    Raises:
        ConfigError: it is not; the message says how to install it.
    """
    from sqlalchemy.engine import make_url

    scheme = scheme_of(location)
    try:
        make_url(with_driver(location)).get_dialect().import_dbapi()
    except ImportError as error:
        install = f"pip install 'headmask[{scheme}]'" if scheme in extras else f"install it: {reason_of(error)}"
        raise ConfigError(f"{what}: {redacted(location)} needs a driver: {install}") from None


def sqlite_file(location: str) -> Path | None:
    """Return the file of an sqlite URL; None for other locations."""
    if scheme_of(location) != "sqlite":
        return None
    from sqlalchemy.engine import make_url

    # Not Path.resolve, which raises for links in a circle.
    return Path(os.path.realpath(make_url(location).database or ""))
