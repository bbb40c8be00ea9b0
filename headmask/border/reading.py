"""The one reader of files: anything wrong with a file is one message that names the file, the rule and the way out.

    names = read_json(path, "class names", DataError)

Text is checked where it enters: UTF-8, without null bytes and without halves of surrogate pairs, so that later code can
print it, hash it and write it.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from headmask.border.shown import shown
from headmask.errors import HeadmaskError

M = TypeVar("M", bound=BaseModel)
MAX_DIGITS = 400
"""Maximum number of digits of a number in JSON; no count, label or score has more."""
_KIND_OF_UNION = re.compile(r"(constrained-|function-|literal\[|(tuple|list|dict|union)\[)|(int|float|str|bool|none)$")
"""How pydantic names the kinds of a union in the location of a mistake."""
_AN_OBJECT = re.compile(r"a valid dictionary( or instance of \w+)?")
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def read_bytes(path: str | os.PathLike[str], what: str, error: type[HeadmaskError] = HeadmaskError) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file; links are followed.
        what: what the file should be, such as `mask file`, for messages.
        error: raised when it cannot be read.

    Raises:
        HeadmaskError: as `error`: there is no such file, it is a folder, a pipe or a device, or it cannot be read.
    """
    check_file(path, what, error)
    try:
        return Path(path).read_bytes()
    except OSError as reason:
        raise _cannot_read(path, what, error, reason) from None


def check_file(path: str | os.PathLike[str], what: str, error: type[HeadmaskError] = HeadmaskError) -> None:
    """Check that a path names a regular file, without opening it: opening a pipe would block.

    Raises:
        HeadmaskError: as `error`, with what was found instead.
    """
    if not os.fspath(path):
        raise error(f"the name of the {what} is empty")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise error(f"there is no {what} at {shown(path)}") from None
    # ValueError: a null byte, or what the file system cannot encode.
    except (OSError, ValueError) as reason:
        raise _cannot_read(path, what, error, reason) from None
    for is_kind, name in _KINDS.items():
        if is_kind(mode):
            raise error(f"{what} {shown(path)} is {name}; name a file")


def is_there(path: str | os.PathLike[str]) -> bool:
    """Return whether anything exists at a path; False if a name is too long or links form a circle.

    The methods of `pathlib` raise there before Python 3.14, as they do in a folder that may not be entered.
    """
    return os.path.exists(path)


def is_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a regular file exists at a path, as `is_there` does."""
    return os.path.isfile(path)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder exists at a path, as `is_there` does."""
    return os.path.isdir(path)


def _cannot_read(
    path: str | os.PathLike[str], what: str, error: type[HeadmaskError], reason: Exception
) -> HeadmaskError:
    return error(f"cannot read {what} {shown(path)}: {getattr(reason, 'strerror', None) or reason}")


def lfs_hint(head: bytes) -> str | None:
    """Return a hint for a file that begins like a Git LFS pointer; None for any other."""
    if not head.startswith(b"version https://git-lfs"):
        return None
    return "a pointer of Git LFS, not the file itself: run `git lfs pull` in its repository"


def read_text(path: str | os.PathLike[str], what: str, error: type[HeadmaskError] = HeadmaskError) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises:
        HeadmaskError: as `error`: see `read_bytes`, or the file is not UTF-8 or holds a null byte; the message has the
            line.
    """
    return decoded(read_bytes(path, what, error), f"{what} {shown(path)}", error)


def decoded(content: bytes, where: str, error: type[HeadmaskError] = HeadmaskError) -> str:
    """Return bytes as text, without a byte order mark.

    Raises:
        HeadmaskError: as `error`: the bytes are not UTF-8, or one is null; the message has the line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = content.count(b"\n", 0, reason.start) + 1
        hint = "; it looks like UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise error(
            f"{where} is not UTF-8 text: byte 0x{content[reason.start]:02x} in line {line}{hint}. Save it as UTF-8"
        ) from None
    if "\0" in text:
        raise error(
            f"{where} is not text: there is a null byte in line {text.count(chr(10), 0, text.index(chr(0))) + 1}"
        )
    return text


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text without their ends, which are \n, \r\n or \r and nothing else.

    `str.splitlines` also cuts at U+2028, U+0085 and form feeds, which captions contain.
    """
    lines = re.split(r"\r\n|\n|\r", text)
    return lines if lines[-1] else lines[:-1]


def check_text(text: str) -> str | None:
    """Return why a text cannot be used, or None: it has a null byte or half of a surrogate pair."""
    if "\0" in text:
        return "there is a null byte in it"
    try:
        text.encode()
    except UnicodeEncodeError as reason:
        return f"it has half of a surrogate pair, U+{ord(text[reason.start]):04X}"
    return None


def read_json(
    path: str | os.PathLike[str], what: str, error: type[HeadmaskError] = HeadmaskError, *, any_text: bool = False
) -> Any:
    """Return the content of a JSON file in UTF-8.

    Raises:
        HeadmaskError: as `error`: see `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, what, error), f"{what} {shown(path)}", error, any_text=any_text)


def parse_json(
    text: str | bytes, where: str, error: type[HeadmaskError] = HeadmaskError, *, any_text: bool = False
) -> Any:
    """Return the value of a JSON text.

    Args:
        text: JSON by RFC 8259: NaN and infinities are refused, and so are repeated keys in an object.
        where: name of the text in messages.
        error: raised when it is malformed.
        any_text: leave `check_text` to the caller, who can say which part has such a text.

    Raises:
        HeadmaskError: as `error`: it is not JSON, is nested too deep, has a number with too many digits, a key twice in
            one object, or a text that cannot be used.
    """
    text = decoded(text, where, error) if isinstance(text, bytes) else text
    try:
        content = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_number,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as reason:
        raise error(f"{where} is not JSON: {reason}") from None
    except RecursionError:
        raise error(f"{where} is nested too deep") from None
    except ValueError as reason:
        raise error(f"{where} is malformed: {reason}") from None
    for found in () if any_text else _texts(content):
        if why := check_text(found):
            raise error(f"{where} has a text that cannot be used, {shown(found[:60])}: {why}")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(repr(twice)[:60])} occurs twice in one object; rename or remove one")
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:40]} is too large for a number")
    return value


def _texts(content: Any) -> Iterator[str]:
    """Yield every text of a JSON value, keys included."""
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            yield from part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def read_model(
    path: str | os.PathLike[str], model: type[M], what: str, error: type[HeadmaskError] = HeadmaskError
) -> M:
    """Return a JSON file as a pydantic model.

    Raises:
        HeadmaskError: as `error`: see `read_json`; or it has other content, with every mistake listed.
    """
    return parse_model(read_json(path, what, error), model, f"{what} {shown(path)}", error)


def parse_model(content: Any, model: type[M], where: str, error: type[HeadmaskError] = HeadmaskError) -> M:
    """Return a JSON value as a pydantic model.

    Raises:
        HeadmaskError: as `error`: it has other content; every mistake is listed.
    """
    try:
        return model.model_validate(content)
    except ValidationError as reason:
        raise error("\n  ".join([f"{where} is malformed:", *reasons(reason)])) from None
    except HeadmaskError as reason:
        raise error(f"{where} is malformed:\n  {reason}") from None


def reasons(error: ValidationError) -> list[str]:
    """Return a line per mistake: where it is, the rule, and the value received."""
    rules: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for item in error.errors():
        # What pydantic adds to the place says which kind of several was tried: their rules are one mistake.
        place = ".".join(str(part) for part in item["loc"] if not _KIND_OF_UNION.match(str(part))) or "content"
        text = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        text = _AN_OBJECT.sub("an object", "is missing" if item["type"] == "missing" else text)
        rules.setdefault(place, []).append(text)
        if item["type"] != "missing" and "got" not in text:
            values[place] = item["input"]
    return [
        f"{shown(place)}: {shown(', or '.join(dict.fromkeys(texts)))}"
        + (f", got {shown(repr(values[place])[:80])}" if place in values else "")
        for place, texts in rules.items()
    ]
