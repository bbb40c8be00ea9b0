"""The outermost border: every way in which a command ends, as an exit code and at most one message."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

from headmask.border.libraries import usage_message
from headmask.border.shown import shown_lines
from headmask.errors import HeadmaskError, ReplicasLostError

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_UNFORESEEN, EXIT_TRY_AGAIN, EXIT_INTERRUPTED = 1, 2, 70, 75, 130
MAX_LINE = 4000
"""Maximum number of characters of a message's line: a library's message may contain a whole file."""
_FOR_USERS = frozenset(
    (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    )
)
"""Errors that no code can fix: permissions, full disks, quotas, names that a file system does not allow."""


def ended(run: Callable[[], Any], *, debug: bool = False) -> int:
    """Run a command, print why it failed if it did, and return its exit code.

    Args:
        run: the command, including the parsing of its line.
        debug: print tracebacks, too.

    Returns:
        0 done; 1 finished, but something failed, which was said; 2 bad input; 70 a fault of ours, with the file that
        holds the traceback; 75 try again later; 130 interrupted.
    """
    try:
        returned = run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_FAILED if end.code else 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _said(error)
    # What typer returns of a command that was ended early, such as by Ctrl-C.
    return returned if isinstance(returned, int) else 0


def _said(error: Exception) -> int:
    """Print why a command failed, and return its exit code."""
    if isinstance(error, HeadmaskError):
        _say(str(error))
        return EXIT_TRY_AGAIN if isinstance(error, ReplicasLostError) else EXIT_BAD_INPUT
    if type(error).__module__.split(".")[0] in ("click", "typer"):
        return _usage(error)
    if isinstance(error, OSError) and error.errno in _FOR_USERS:
        _say(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        return EXIT_BAD_INPUT
    _say(f"unexpected error: {_named(error)}. {_kept()}")
    return EXIT_UNFORESEEN


def _usage(error: Any) -> int:
    """Print what is wrong with a command line and how to list its options, or the help if it is empty."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
    else:
        where = f". `{context.command_path} --help` lists the options" if context is not None else ""
        # What a parser of ours refuses is said in its own words.
        message = usage_message(error.format_message())
        _say(message.replace(": Value error, ", ": ").rstrip(".") + where)
    return EXIT_BAD_INPUT


def _named(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _kept() -> str:
    """Keep the traceback of the current error in a file, and return its path."""
    try:
        descriptor, path = tempfile.mkstemp(prefix="headmask-error-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(traceback.format_exc())
    except OSError:
        return "Its traceback could not be written to a file; --debug prints it"
    return f"Its traceback is in {path}: please report it; --debug prints it here"


def _say(text: str) -> None:
    print(shown_lines("headmask: " + "\n".join(map(_shortened, text.split("\n")))), file=sys.stderr, flush=True)


def _shortened(line: str) -> str:
    """Return a line without the middle of a long one: the rule is at its beginning, or the way out at its end."""
    half = MAX_LINE // 2
    return line if len(line) <= MAX_LINE else f"{line[:half]} ... {line[-half:]}"
