"""Paths on the command line: an empty text is refused, though Python takes it for the working folder."""

from __future__ import annotations

import os
from pathlib import Path

import typer


def path_of(text: str | os.PathLike[str]) -> Path:
    """Return a path from text; the `parser` of an option.

    Raises:
        BadParameter: the text is empty.
    """
    if not os.fspath(text):
        raise typer.BadParameter("a path cannot be empty; got ''")
    return Path(text)


# What help and reference call the type of a value.
path_of.__name__ = "path"
