"""The MLflow server or store that tracks a search: one rule for all commands.

A new search is tracked where `--tracking-uri` or its configuration file says, otherwise where the variable
`MLFLOW_TRACKING_URI` says, otherwise in `mlflow.db` beside its run folder. One that was tracked before stays where it
is unless `--tracking-uri` is given.
"""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from urllib.parse import urlsplit

from headmask.border.kinds import TRACKING_DATABASE
from headmask.border.passwords import HIDDEN, redacted
from headmask.border.writing import check_output
from headmask.errors import ConfigError, did_you_mean
from orchestrator.settings.location import MAX_PORT, check_database, check_driver, file_of, scheme_of, sqlite_file

VARIABLE = "MLFLOW_TRACKING_URI"
OPTION = "--tracking-uri"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")
EXAMPLES = "http://HOST:5000 or sqlite:///runs/mlflow.db"


def check_tracking_uri(uri: str, what: str = OPTION) -> str:
    """Return the address of an MLflow server or store.

    Args:
        uri: the address.
        what: the option or variable whose value it is.

    Raises:
        ConfigError: it cannot be such an address; the message says why, and contains no password.
    """
    scheme = scheme_of(uri)
    if uri == "databricks":
        return uri
    if not scheme or scheme == "file":
        raise ConfigError(f"{what} must be the address of an MLflow server or database, {_no_address(uri)}")
    if scheme in DATABASES:
        check_database(uri, what)
    elif scheme in ("http", "https"):
        _check_web(uri, what)
    elif scheme not in SERVERS and scheme not in _plugins():
        known = (*SERVERS, *DATABASES)
        raise ConfigError(
            f"{what}: MLflow has no servers of the kind {scheme}://{did_you_mean(scheme.lower(), known)}; it has "
            f"{', '.join(known)}; got {redacted(uri)}"
        )
    return uri


def _no_address(uri: str) -> str:
    if not uri.strip():
        return f"such as {EXAMPLES}; got an empty text"
    if uri.startswith("file:") or "/" in uri or os.path.isdir(uri):
        return (
            f"and MLflow keeps no runs in folders of files any more; name one such as {EXAMPLES}; got {redacted(uri)}"
        )
    return f"such as {EXAMPLES}; got {redacted(uri)!r}"


def _check_web(uri: str, what: str) -> None:
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        raise ConfigError(
            f"{what} must be {scheme_of(uri)}://HOST:PORT, and the port must be a number up to {MAX_PORT:,}; "
            f"got {redacted(uri)}"
        ) from None
    if not parts.hostname or any(letter.isspace() or ord(letter) < 32 for letter in uri) or port == 0:
        raise ConfigError(f"{what}: a host must follow {parts.scheme}://, such as {EXAMPLES}; got {redacted(uri)!r}")


def _plugins() -> set[str]:
    """Return the kinds of servers that installed MLflow plugins add."""
    return {each.name for each in importlib.metadata.entry_points(group="mlflow.tracking_store")}


def uri_of_environment() -> str | None:
    """Return the address in `MLFLOW_TRACKING_URI`; None if it is unset or empty.

    Raises:
        ConfigError: it is not an address.
    """
    uri = os.environ.get(VARIABLE)
    return check_tracking_uri(uri, VARIABLE) if uri else None


def beside(folder: Path) -> str:
    """Return the address of the database beside a run folder.

    Raises:
        ConfigError: the folder's name cannot be part of a database address.
    """
    from sqlalchemy.engine import make_url

    path = folder.resolve().parent / "mlflow.db"
    uri = f"sqlite:///{path}"
    if make_url(uri).database != str(path):
        raise ConfigError(
            f"MLflow cannot keep its database in {path.parent}, because a ? or % in a folder's name means something "
            f"else in a URL: choose another --out, or name a server or database with {OPTION}"
        )
    return uri


def tracked_at(folder: Path, given: str | None, storage: str) -> tuple[str | None, str]:
    """Return where a new search is tracked (None for the database beside its folder), and the same in words.

    Args:
        folder: the run folder.
        given: the address in `--tracking-uri` or the configuration file.
        storage: the storage of the study.

    Raises:
        ConfigError: `MLFLOW_TRACKING_URI` is not an address, a driver is missing, or the database is that of the study.
        OutputError: the file of a database cannot be written, or is something else.
    """
    uri = given or uri_of_environment()
    if uri is None:
        return None, f"{beside(folder)} (beside the run folder)"
    what = OPTION if given else VARIABLE
    if scheme_of(uri) in DATABASES:
        check_driver(uri, what)
    if (path := sqlite_file(uri)) is not None:
        if path == file_of(storage):
            raise ConfigError(f"{what} and --storage must not be the same file; got {redacted(uri)} for both")
        check_output(path, TRACKING_DATABASE)
    return uri, redacted(uri) if given else f"{redacted(uri)} (by {VARIABLE})"


def with_password(uri: str | None) -> str | None:
    """Return where a search was tracked; if the variable has the same address, with its password, which is not kept."""
    if uri is not None and HIDDEN in uri:
        known = os.environ.get(VARIABLE, "")
        return known if redacted(known) == uri else uri
    return uri
