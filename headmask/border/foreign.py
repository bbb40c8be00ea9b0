"""Exceptions of other libraries, as one line that fits into one of headmask's messages."""

from __future__ import annotations

import re

from headmask.border.passwords import hidden

MAX_REASON = 400
_NOISE = re.compile(
    r"\(Background on this error at: .*|Traceback \(most recent call last\):|During handling of the above exception.*"
    r"|The above exception was the direct cause.*|File \".*\", line \d+.*|[-=~^*]{3,}"
)
"""Lines that mean nothing to the reader of a message."""


def reason_of(error: BaseException, limit: int = MAX_REASON) -> str:
    """Return why another library refused something: its exception's message, as one line of at most `limit` characters.

    The first line of such a text is often a heading ("Error(s) in loading state_dict for CLIP:") and the reason comes
    after it; a full stop at its end is left out. An exception without a message, or with only a key, is named by its
    type. Passwords in addresses are hidden.
    """
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        return _cut(hidden(f"{error.strerror}{where}"), limit)
    text = hidden(_one_line(str(error)))
    if not text and (inner := error.__cause__ or error.__context__) is not None:
        return reason_of(inner, limit)
    if not text or isinstance(error, LookupError | NotImplementedError | AssertionError):
        text = f"{type(error).__name__}{f': {text}' if text else ''}"
    # The sentence goes on.
    return _cut(text if text.endswith("..") else text.removesuffix("."), limit)


def _one_line(text: str) -> str:
    lines = [" ".join(line.split()) for line in re.split(r"\r\n|\r|\n", text)]
    kept = [line for line in lines if line and not _NOISE.fullmatch(line)]
    joined = ""
    for line in kept:
        joined += (f"{' ' if joined.endswith((':', ',', '.', ';')) else '; '}" if joined else "") + line
    return joined


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 4].rstrip()} ..."
