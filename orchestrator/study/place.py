"""A run folder during its search: whether it is still where the search was told to write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headmask.border.shown import shown
from headmask.errors import StudyError
from orchestrator.settings.commandline import resume_command

_GONE = " (deleted)"
"""What Linux appends to the name of an open file that has been deleted."""


class RunPlace:
    """Holds a run folder open, so that it can be found after it was moved.

    Args:
        folder: the run folder, which is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Let the folder go."""
        os.close(self._descriptor)

    def check(self) -> None:
        """Check that the folder is still in its place.

        Raises:
            StudyError: it was moved or removed, or another one is in its place.
        """
        held = os.fstat(self._descriptor)
        try:
            found = os.stat(self.folder)
        except OSError:
            pass
        else:
            if os.path.samestat(held, found):
                return
        where = self._where()
        if where is None:
            raise StudyError(
                f"the run folder {shown(self.folder)} was removed while its search ran, so the search has stopped; the "
                "test split was not looked at. Start it again with another --out"
            )
        raise StudyError(
            f"the run folder {shown(self.folder)} was moved to {shown(where)} while its search ran, so the search has "
            "stopped; nothing more of the test split was looked at. What was scored is saved; continue with: "
            f"{resume_command(where)}"
        )

    def _where(self) -> str | None:
        """Return the current path of the folder; None if it has none or that is unknown."""
        try:
            where = os.readlink(f"/proc/self/fd/{self._descriptor}")
        except OSError:
            return None
        if where.endswith(_GONE) or not os.path.isdir(where):
            return None
        here = os.path.relpath(where)
        return where if here.startswith(os.pardir) else here


@contextmanager
def held(folder: Path) -> Iterator[RunPlace]:
    """Hold a run folder until the end of the block."""
    place = RunPlace(folder)
    try:
        yield place
    finally:
        place.close()
