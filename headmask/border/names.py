"""The packages that headmask installs, and what in a user's folders has one of their names.

Python and Ray look into the current folder first, so a `workers.py` there would be imported in place of ours.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from headmask.border.shown import shown
from headmask.errors import HeadmaskError

NAMES = ("headmask", "workers", "strategies", "orchestrator")
_ROOT = Path(__file__).resolve().parents[2]
"""The folder of all four."""


def hiding(folders: Iterable[str]) -> Path | None:
    """Return the file or folder that would be imported in place of a package of ours if these were looked into first.

    Args:
        folders: a module search path; an empty name is the current folder, as in `sys.path`.
    """
    path = [folder or os.curdir for folder in folders]
    return next((place for name in NAMES if (place := _other(name, PathFinder.find_spec(name, path)))), None)


def check_names() -> None:
    """Check that the names of our packages lead to ours in this process.

    Raises:
        HeadmaskError: a file or folder of the user's is imported instead.
    """
    for name in NAMES:
        if place := _other(name, _spec(name)):
            raise HeadmaskError(
                f"{shown(place)} has the name of a package of headmask's, {name}, and Python finds it first: rename it "
                "or start in another folder, then restart Python"
            )


def check_python_path() -> None:
    """Check that PYTHONPATH, which Ray's processes have from this one, does not hide our packages from them.

    Raises:
        HeadmaskError: it does.
    """
    if (path := os.environ.get("PYTHONPATH")) and (place := hiding(path.split(os.pathsep))):
        raise HeadmaskError(
            f"{shown(place)} has the name of a package of headmask's, and PYTHONPATH makes Ray's processes find it "
            "first: rename it, or take its folder out of PYTHONPATH"
        )


def load_own() -> None:
    """Import our packages by their place where their names lead elsewhere."""
    for name in NAMES:
        if _other(name, _spec(name)) is None:
            continue
        folder = _ROOT / name
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def _spec(name: str) -> ModuleSpec | None:
    module = sys.modules.get(name)
    return importlib.util.find_spec(name) if module is None else module.__spec__


def _other(name: str, spec: ModuleSpec | None) -> Path | None:
    """Return the file or folder of a module unless it is our package."""
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    if spec.origin is None and str(_ROOT) in sys.path:
        return None  # A folder without `__init__.py` gives way to any package that is on the path.
    place = Path(folders[0] if folders else spec.origin or name)
    return None if place.resolve() == _ROOT / name else place.absolute()
