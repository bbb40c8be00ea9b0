"""What the names of models in folders and repositories begin with."""

from __future__ import annotations

import os
from pathlib import Path

from headmask.border.reading import check_text, is_file

FOLDER, TRANSFORMERS, HUB = "local-dir:", "hf-dir:", "hf-hub:"
"""A folder of open_clip, one of Hugging Face's transformers, and a repository of the Hugging Face Hub with either."""
IN_FOLDERS = (FOLDER, TRANSFORMERS)


def folder_of(name: str) -> str | None:
    """Return the folder in a model's name; None if the name has none."""
    return next((name.removeprefix(scheme) for scheme in IN_FOLDERS if name.startswith(scheme)), None)


def is_transformers(folder: str) -> bool:
    """Return whether a folder holds a model of transformers, and none of open_clip."""
    if not folder or check_text(folder):
        return False
    path = Path(os.path.expanduser(folder))
    return is_file(path / "config.json") and not is_file(path / "open_clip_config.json")


def named(name: str | None, pretrained: str | None) -> tuple[str | None, str | None]:
    """Return a model's name and `pretrained`; a folder of transformers given as weights alone is a whole model."""
    if name is None and pretrained is not None and is_transformers(pretrained):
        return f"{TRANSFORMERS}{pretrained}", None
    return name, pretrained
