"""The command that shows which versions are installed, and which were tested, for reports of problems."""

from __future__ import annotations

import json
import platform
import re
from importlib.resources import files
from typing import Annotated

import typer
from rich.table import Table

from headmask.border.libraries import version_of
from orchestrator.screen.terminal import Terminal

TESTED = "tested.json"
"""The oldest and the newest version of each library that the tests ran on; `docs/generate.py` writes it."""


def versions(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")
    ] = False,
) -> None:
    """Show the installed versions of all libraries and the versions that were tested; add it to reports of problems."""
    tested: dict[str, list[str]] = json.loads(files("orchestrator.commands").joinpath(TESTED).read_text())
    found = {
        name: {"installed": _installed(name), "oldest_tested": oldest, "newest_tested": newest}
        for name, (oldest, newest) in tested.items()
    }
    if as_json:
        print(json.dumps({"headmask": version_of("headmask"), "platform": platform.platform(), "versions": found}))
        return
    table = Table("", "installed", "tested", "")
    for name, (oldest, newest) in tested.items():
        installed = found[name]["installed"]
        table.add_row(name, installed or "no", f"{oldest} to {newest}", _remark(installed, oldest, newest))
    terminal = Terminal()
    terminal.print(table)
    terminal.say(f"headmask {version_of('headmask')} on {platform.platform()}")


def _installed(name: str) -> str | None:
    return platform.python_version() if name == "python" else version_of(name)


def _remark(installed: str | None, oldest: str, newest: str) -> str:
    if installed is None:
        return ""
    if _key(installed)[: len(_key(oldest))] < _key(oldest):
        return "older than tested"
    return "newer than tested" if _key(installed)[: len(_key(newest))] > _key(newest) else ""


def _key(version: str) -> list[int]:
    """Return the first three numbers of a version."""
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
