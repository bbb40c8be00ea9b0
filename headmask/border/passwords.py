"""Keeping passwords out of everything that is printed, stored or logged."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
MIN_LENGTH = 3
"""Shorter passwords are hidden in addresses only: elsewhere they could be parts of words."""

_SCHEME = re.compile(r"([A-Za-z][\w+.-]*:/{0,3})(.*)", re.DOTALL)
_PARAMETER = re.compile(r"(?i)([?&;][^=&;#]*(?:pass|pwd|secret|token|api_?key|credential)[^=&;#]*=|[?&;]pw=)([^&;#]*)")
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://[^\s\"'<>]+")


def redacted(location: str) -> str:
    """Return an address without the passwords before its host or in its parameters; a file's path unchanged."""
    return _split(location)[0]


def hidden(text: str, *locations: str | None) -> str:
    """Return a text without the passwords of the addresses in it, or of other given addresses, in any spelling.

    Args:
        text: any text, such as the message of another library.
        locations: addresses whose passwords may occur by themselves.
    """
    for location in locations:
        if location:
            shown, passwords = _split(location)
            text = text.replace(location, shown)
            for password in sorted(_spellings(passwords), key=len, reverse=True):
                text = text.replace(password, HIDDEN)
    return _ADDRESS.sub(lambda found: redacted(found[0]), text)


def _split(location: str) -> tuple[str, list[str]]:
    """Return an address without its passwords, and the passwords."""
    found = _SCHEME.fullmatch(location)
    if found is None:
        return location, []
    scheme, rest = found.groups()
    passwords = []
    end = _end_of_user(rest, is_web=scheme.lower().startswith("http"))
    if end is not None:
        user, colon, password = rest[:end].partition(":")
        if colon:
            passwords.append(password)
            rest = f"{user}:{HIDDEN if password else ''}{rest[end:]}"
        elif scheme.lower().startswith("http"):
            # A token may stand for user and password.
            passwords.append(user)
            rest = HIDDEN + rest[end:]

    def hide(parameter: re.Match[str]) -> str:
        passwords.append(parameter[2])
        return parameter[1] + (HIDDEN if parameter[2] else "")

    return scheme + _PARAMETER.sub(hide, rest), [each for each in passwords if each and each != HIDDEN]


def _end_of_user(rest: str, *, is_web: bool) -> int | None:
    """Return where user and password end, at an @; None if there are none.

    A password may hold an @, a / or a ?, though it should not; a path of the web may hold an @, too.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        # What follows another @ is a password only where no host with a path can be meant.
        return authority.rindex("@") if is_web else max(authority.rindex("@"), _last_at(rest))
    host, colon, port = authority.partition(":")
    may_be_host = not colon or not host or port.isdecimal() or not port
    end = _last_at(rest)
    return None if end < 0 or (is_web and may_be_host) or not colon else end


def _last_at(rest: str) -> int:
    """Return the position of the last @ before a database's parameters; -1 if there is none."""
    return re.split(r"[?&]\w+=", rest, maxsplit=1)[0].rfind("@")


def _spellings(passwords: list[str]) -> set[str]:
    """Return the ways in which passwords may be written: as given, decoded, encoded again."""
    plain = {way(each) for each in passwords for way in (str, unquote, unquote_plus)}
    found = plain | {way(each) for each in plain for way in (quote, quote_plus, lambda text: quote(text, safe=""))}
    return {each for each in found if len(each) >= MIN_LENGTH}
