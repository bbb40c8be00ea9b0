"""What other libraries' exceptions say, in one line that fits into a message of ours."""

from __future__ import annotations

import re

from headmask.border.passwords import hidden

MAX_REASON = 400
_NOISE = re.compile(
    r"\(Background on this error at: .*|Traceback \(most recent call last\):|During handling of the above exception.*"
    r"|The above exception was the direct cause.*|File \".*\", line \d+.*|[-=~^*]{3,}"
)
"""Lines that explain nothing to who reads the message."""


def reason_of(error: BaseException, limit: int = MAX_REASON) -> str:
    """Return why another library refused something: what its exception says, as one line of `limit` letters at most.

    The first line of such a text is often a heading ("Error(s) in loading state_dict for CLIP:") and the reason comes
    after it; a full stop at its end is left out. An exception that says nothing is named by its type, and so is one
    that says no more than a key. Passwords are hidden in the addresses that it names.
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
