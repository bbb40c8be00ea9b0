"""The command line. Heavy imports happen inside the commands, so that `headmask --help` answers at once."""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Annotated, Any

import typer

from headmask.border.home import give_home
from orchestrator.commands.compare import compare
from orchestrator.commands.data import data_app
from orchestrator.commands.explain import explain
from orchestrator.commands.masks import evaluate, export
from orchestrator.commands.refine import refine
from orchestrator.commands.report import report
from orchestrator.commands.search import demo, resume, search
from orchestrator.commands.tools import bench_app, models, schema, studies
from orchestrator.commands.track import track_app
from orchestrator.commands.versions import versions
from orchestrator.screen.border import ended
from orchestrator.screen.terminal import PrintableLog, patient

app = typer.Typer(
    help="Find the attention heads that hurt a CLIP model, prove it on unseen data, and fold them away.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(track_app, name="track")
app.add_typer(bench_app, name="bench")

app.command()(demo)
app.command()(search)
app.command()(resume)
app.command(name="eval")(evaluate)
app.command()(refine)
app.command()(explain)
app.command()(export)
app.command()(report)
app.command()(compare)
app.command()(schema)
app.command()(models)
app.command(name="studies")(studies)
app.command()(versions)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"headmask {version('headmask')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and stop.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks of errors; may stand anywhere.")] = False,
) -> None:
    """Find the attention heads that hurt a CLIP model, prove it on unseen data, and fold them away."""


@cache
def command() -> Any:
    """Return the command line. Building it takes a while, and programs and tests may run it more than once."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line; every way in which a command ends is an exit code and at most one message."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableLog())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    give_home()
    for name in ("stdout", "stderr"):
        # None where there is none, something else where a caller captures it.
        if (stream := getattr(sys, name)) is not None and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, patient(stream))
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    sys.exit(ended(lambda: command()(arguments, prog_name="headmask", standalone_mode=False), debug=debug))


if __name__ == "__main__":
    main()
