"""The versions that a result was made with."""

from __future__ import annotations

import importlib.metadata


def versions() -> dict[str, str]:
    """Return the versions of everything that determines a score or a study."""
    packages = ("headmask", "torch", "open_clip_torch", "optuna", "numpy", "pillow")
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
