"""Telling servers that refuse something for good from servers that are away: waiting helps only with these."""

from __future__ import annotations

import re

from headmask.border import foreign
from headmask.border.passwords import hidden
from headmask.errors import StudyError

NO_ANSWER = "it did not answer"
REFUSALS = (
    "BAD_REQUEST",
    "ENDPOINT_NOT_FOUND",
    "INVALID_PARAMETER_VALUE",
    "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
)
"""MLflow's codes for an entry that a server never accepts; others may be accepted."""
REPAIRS = (
    (
        r"must be in the 'active' state",
        "its run or experiment was deleted: restore it, or let `headmask track sync` make another run",
    ),
    (
        r"out-of-date database schema|Can't locate revision",
        "the database was made by another version of MLflow: use that one, or `mlflow db upgrade URI` after a backup",
    ),
    (
        r"file is not a database|malformed|no such (table|column)|duplicate column"
        r"|(table|relation|column) \S+ (already exists|does not exist)",
        "the database is damaged: move it away, and a new one is made; `headmask track sync` fills it",
    ),
    (
        r"readonly database|unable to open database file|Permission denied",
        "the file may not be written: change its mode",
    ),
    (
        r"password authentication failed|no password supplied|Access denied|no pg_hba\.conf entry"
        r"|role \S+ does not exist|UNAUTHENTICATED|PERMISSION_DENIED|error code 40[13]\b|not authenticated",
        "it refuses this user: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or PGPASSWORD for PostgreSQL",
    ),
    (r"database \S+ does not exist|Unknown database", "make the database first"),
    (r"CERTIFICATE_VERIFY_FAILED|SSLError|WRONG_VERSION_NUMBER", "its certificate is not accepted: see its address"),
    (
        r"error code 404\b|ENDPOINT_NOT_FOUND|No API found|not in a valid JSON format",
        "what answers there is not an MLflow server: see its address",
    ),
)
"""Errors of a server or database that waiting cannot fix, and what to do about each."""


class TrackingRefusedError(StudyError):
    """A tracking server or database cannot take a search until it is repaired."""


def refusal_of(error: BaseException) -> str | None:
    """Return why nothing can be tracked until something is repaired, and how; None for errors that may pass."""
    if isinstance(error, TrackingRefusedError):
        return str(error)
    if isinstance(error, ImportError):
        return f"a driver is missing ({foreign.reason_of(error)}): install it"
    text = f"{getattr(error, 'error_code', '')} {error}"
    for pattern, repair in REPAIRS:
        if re.search(pattern, text):
            return f"{reason_of(error)}; {repair}"
    return None


def is_refused(error: Exception) -> bool:
    """Return whether sending an entry again is pointless, while others may be accepted."""
    code = getattr(error, "error_code", None)
    # An old server lacks single endpoints; what else keeps it from taking anything is no fault of the entry's.
    if code != "ENDPOINT_NOT_FOUND" and refusal_of(error) is not None:
        return False
    return code in REFUSALS or isinstance(error, FileNotFoundError)


def is_full(error: Exception) -> bool:
    """Return whether a disk is full, here or at the server."""
    return "disk is full" in str(error) or "No space left" in str(error)


def reason_of(error: BaseException, *locations: str | None) -> str:
    """Return why something could not be sent, without passwords; briefly if nothing answered."""
    text = foreign.reason_of(error)
    nobody = ("Max retries exceeded", "timeout exception", "Connection refused", "Connection aborted", "timed out")
    if type(error).__module__.startswith("requests") or any(each in text for each in nobody):
        return NO_ANSWER
    return hidden(text, *locations)
