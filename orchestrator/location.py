"""Where a study lives: a journal file's path, or a database URL."""

from __future__ import annotations

import os

from headmask.errors import StudyError

SCHEMES = {"sqlite": "", "postgresql": "postgresql", "mysql": "mysql"}
"""Database URLs that are understood, and the extra that each needs."""


def is_url(location: str) -> bool:
    """Return whether a location is a URL; else it is a file's path."""
    return "://" in location


def scheme_of(location: str) -> str:
    """Return a URL's scheme without its driver, such as `postgresql`; empty for a file's path."""
    return location.split("://")[0].split("+")[0] if is_url(location) else ""


def check_location(location: str) -> str:
    """Return the scheme of a storage that is understood; empty for a journal file.

    Raises:
        StudyError: it is a URL of a kind that is not understood.
    """
    scheme = scheme_of(location)
    if scheme and scheme not in SCHEMES:
        raise StudyError(f"--storage must be a file or a URL of {', '.join(SCHEMES)}; got {redacted(location)}")
    return scheme


def absolute(path: str) -> str:
    """Return a path that holds from any folder; links in it stay."""
    return os.path.abspath(path)


def located(location: str) -> str:
    """Return a location with its path, if it is one, absolute: of a file, or in a URL of SQLite."""
    if not is_url(location):
        return absolute(location)
    scheme, _, path = location.partition(":///")
    is_relative = scheme.split("+")[0] == "sqlite" and path and not path.startswith(("/", ":memory:", "file:"))
    return f"{scheme}:///{absolute(path)}" if is_relative else location


def redacted(location: str) -> str:
    """Return a location fit for the screen: without a password."""
    if not is_url(location):
        return location
    from sqlalchemy.engine import make_url

    return make_url(location).render_as_string(hide_password=True)
