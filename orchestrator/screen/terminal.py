"""Where everything is printed: names and texts of others as they are, whatever a terminal would make of them."""

from __future__ import annotations

import io
import logging
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from headmask.border.shown import shown_lines


class Terminal(Console):
    """A console on which no text is markup, emoji code or escape sequence, in lines as in tables.

    Args:
        stderr: print on standard error, as commands do whose standard output is JSON.
        width: columns; those of the terminal by default.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)

    def say(self, text: str) -> None:
        """Print a text without breaking its lines."""
        self.print(text, soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text ready to be laid out; every string that is printed comes through here."""
        return super().render_str(shown_lines(text), **options)


class PrintableLog(logging.Formatter):
    """Writes messages of loggers as everything else is printed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a message without what a terminal would obey."""
        return shown_lines(super().format(record))


class _Outlet(io.FileIO):
    """A file that takes what is written to it also when its reader has gone, as in `headmask models | head -1`."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            return memoryview(content).nbytes


def patient(stream: TextIO) -> TextIO:
    """Return a standard stream as commands write to it: no letter and no reader that is missing ends them.

    A search is worth more than its display: it goes on in silence when whoever read it has gone. Letters that the
    terminal's encoding lacks are written as escapes.
    """
    outlet = io.BufferedWriter(_Outlet(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(outlet, stream.encoding, "backslashreplace", line_buffering=stream.isatty())
