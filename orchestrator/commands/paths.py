"""Paths as the command line takes them: an empty text is no path, though Python takes it for the working folder."""

from __future__ import annotations

import os
from pathlib import Path

import typer


def path_of(text: str | os.PathLike[str]) -> Path:
    """Return a path that was given as text; the `parser` of an option.

    Raises:
        BadParameter: the text is empty.
    """
    if not os.fspath(text):
        raise typer.BadParameter("a path cannot be empty; got ''")
    return Path(text)


# What help and reference call the type of a value.
path_of.__name__ = "path"
