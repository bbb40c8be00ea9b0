"""Where everything is printed: foreign names and texts appear literally."""

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
        """Return a text ready for layout; every printed string passes through here."""
        return super().render_str(shown_lines(text), **options)


class PrintableLog(logging.Formatter):
    """Writes log messages like everything else that is printed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a message without anything that a terminal would interpret."""
        return shown_lines(super().format(record))


class _Outlet(io.FileIO):
    """A file that accepts writes even after its reader has gone, as in `headmask models | head -1`."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            return memoryview(content).nbytes


def patient(stream: TextIO) -> TextIO:
    """Return a standard stream that neither missing letters nor a missing reader can break.

    A search is worth more than its display: it continues silently after its reader has gone. Letters missing in the
    terminal's encoding are written as escapes.
    """
    outlet = io.BufferedWriter(_Outlet(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(outlet, stream.encoding, "backslashreplace", line_buffering=stream.isatty())
