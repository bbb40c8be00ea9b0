"""Commands as they stand in pages, manifests and scripts, read by the parsers of the programs that they call."""

import shlex

import typer

from orchestrator.cli import app


def parse_headmask(command: str) -> None:
    """Parse a `headmask` command as the command line would, without running it."""
    _, name, *arguments = shlex.split(command, comments=True)
    parser = typer.main.get_command(app).commands[name]
    if hasattr(parser, "commands"):
        parser, arguments = parser.commands[arguments[0]], arguments[1:]
    parser.make_context(name, arguments)
