"""One malformed input: a command, what it is given, and the one message that it must answer with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """A command that must be refused.

    Args:
        name: says what is wrong, in words; unique in its file.
        args: of `headmask`, run in an empty folder. `{model}`, `{data}`, `{mask}` and `{run}` stand for a tiny model
            folder, a data set, a mask file and a finished run folder, which must stay as they are.
        message: a regular expression found in the message.
        code: of the exit: 2 for bad input, 75 where trying again may help.
        make: makes the malformed files in the empty folder.
        leaves: names that the command may leave or change there, such as a log.
    """

    name: str
    args: list[str]
    message: str
    code: int = 2
    make: Callable[[Path], object] | None = None
    leaves: tuple[str, ...] = ()
