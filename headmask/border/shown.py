"""How foreign text is shown: names of files, captions, messages of other libraries."""

from __future__ import annotations

import unicodedata

_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_JOINERS = frozenset("\u200c\u200d")
"""Invisible characters that are part of ordinary words and emoji."""


def shown(value: object) -> str:
    r"""Return a text as one printable line: what a terminal would interpret or hide is escaped, as in `a\x1b[31mb`.

    Control characters, line ends, escape sequences, halves of surrogate pairs and marks that turn the direction of
    writing are written as Python escapes; letters of any script stay. On a rich console print the result with
    `markup=False`, or as `rich.text.Text` in a table.
    """
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) if _is_hidden(letter) else letter for letter in text)


def shown_lines(value: object) -> str:
    """Return a text of several lines, each written as by `shown`."""
    return "\n".join(map(shown, str(value).split("\n")))


def _is_hidden(letter: str) -> bool:
    return unicodedata.category(letter) in _HIDDEN and letter not in _JOINERS


def _escaped(letter: str) -> str:
    return ascii(letter)[1:-1]


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun in the right form: `1 head`, `1,000 heads`.

    Args:
        count: how many.
        noun: singular form.
        plural: plural form; the noun with an `s` by default.
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
