"""Where caches are kept, also for users without a home: containers run under user ids that no password file lists."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from headmask.border.foreign import reason_of
from headmask.errors import HeadmaskError

CACHE = "HEADMASK_CACHE"
HUB = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
"""Variables that tell the Hugging Face Hub's library where its cache is."""


def cache_folder() -> Path:
    """Return the cache folder: `$HEADMASK_CACHE`, or `.cache/headmask` at home or in a private temporary folder.

    Raises:
        HeadmaskError: there is no home, and the temporary folder cannot be had.
    """
    if named := os.environ.get(CACHE):
        return Path(named)
    return (_home() or _private()) / ".cache" / "headmask"


def hub_cache() -> str | None:
    """Return where open_clip keeps its downloads; None for its own choice, which is below the home.

    Raises:
        HeadmaskError: as `cache_folder`.
    """
    if _home() is not None or any(os.environ.get(name) for name in HUB):
        return None
    return str(_private() / ".cache" / "huggingface" / "hub")


def give_home() -> None:
    """Give other libraries a home if there is none: without one, they fail or print long warnings."""
    if _home() is None:
        # Where there is no temporary folder either, whoever needs one says so.
        with contextlib.suppress(HeadmaskError):
            os.environ["HOME"] = str(_private())


def _home() -> Path | None:
    """Return the user's home; None if there is none, if it does not exist, or if it is `/`, as in containers."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    is_root = hasattr(os, "getuid") and os.getuid() == 0
    return home if home.is_absolute() and (is_root or home != Path(home.anchor)) and home.is_dir() else None


def _private() -> Path:
    """Return a folder that only this user can have made or can read."""
    try:
        folder = Path(tempfile.gettempdir(), f"headmask-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise HeadmaskError(
            f"there is no home folder for caches, nor a temporary one ({reason_of(error)}): name a folder in {CACHE}"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HeadmaskError(f"{folder} is not a folder that is yours alone: remove it, or name another in {CACHE}")
    return folder
