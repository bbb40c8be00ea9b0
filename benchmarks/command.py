"""How a benchmark that is a command is run: bad input is one message and exit code 2, as in `headmask` itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer

from orchestrator.screen.border import ended


def run_command(function: Callable[..., Any], name: str) -> None:
    """Run a function as a command, with this process's arguments, and leave with its exit code."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(function)
    sys.exit(ended(lambda: app(prog_name=f"python -m {name}", standalone_mode=False)))
