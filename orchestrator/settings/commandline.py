"""Command lines as messages show them, ready to be copied: names with spaces or brackets are quoted."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

from headmask.border.shown import shown
from orchestrator.settings.location import redacted

if TYPE_CHECKING:
    from orchestrator.settings.config import SearchConfig


def command_line(*parts: str | os.PathLike[str]) -> str:
    """Return a command with its arguments, quoted for a shell, such as `headmask resume 'runs/my run'`.

    Placeholders, which are names in capitals, are left as they are.
    """
    return " ".join(_quoted(os.fspath(part)) for part in parts)


def _quoted(part: str) -> str:
    if part == shown(part):
        return shlex.quote(part)
    # A shell's notation for control characters, and for bytes of a name that are not valid text.
    escaped = shown(part.replace("\\", "\\\\").replace("'", "\\'"))
    return "$'" + re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", escaped) + "'"


def resume_command(folder: str | os.PathLike[str]) -> str:
    """Return the command that continues the study of a run folder."""
    return command_line("headmask", "resume", _as_argument(folder))


def way_on(config: SearchConfig) -> str:
    """Return the sentence that says what is kept of a study and what continues it, without its full stop.

    That is a command on its folder, or on its database where the URL holds a password.
    """
    storage, command = config.output.storage, resume_command(config.folder)
    if storage is not None and redacted(storage) != storage:
        command = command_line("headmask", "resume", config.study_name, "--storage", "URL", "--out", config.folder)
    return f"What was scored is saved; continue with: {command}"


def report_command(folder: str | os.PathLike[str]) -> str:
    """Return the command that writes the report on a run folder."""
    return command_line("headmask", "report", _as_argument(folder))


def _as_argument(path: str | os.PathLike[str]) -> str:
    """Return a path in a form that no command mistakes for an option."""
    text = os.fspath(path)
    return f"./{text}" if text.startswith("-") else text
