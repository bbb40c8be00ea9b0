"""`headmask compare`: which mask to ship, and why."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from headmask.border.kinds import PAGE
from headmask.border.writing import check_output
from headmask.errors import HeadmaskError
from orchestrator.commands.paths import path_of
from orchestrator.commands.tools import Json
from orchestrator.screen.terminal import Terminal
from orchestrator.settings.trackinguri import OPTION, VARIABLE

TOP = 10


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run folders, mask files, studies of --storage, ids of runs of --tracking-uri."),
    ] = None,
    storage: Annotated[str | None, typer.Option(help="Journal file or database URL that holds named studies.")] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow server or store that holds named runs; that of MLFLOW_TRACKING_URI by default."),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Compare the searches of an MLflow experiment.")] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=2, max=10_000, help=f"Number of searches of --experiment, by gain on confirm; {TOP} by default."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=path_of, help="Write one self-contained HTML page as well.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare masks: scores with paired intervals, shared heads, differing settings, and which one to ship."""
    from orchestrator.compare.comparison import compare as compared
    from orchestrator.compare.sources import Sources

    # What the variable says is checked only where it is needed.
    uri, what = (tracking_uri, OPTION) if tracking_uri is not None else (os.environ.get(VARIABLE), VARIABLE)
    _check(runs, experiment, top, uri)
    if out is not None:
        check_output(out, PAGE, inputs=runs or ())
    with ExitStack() as held:
        server = None
        if uri:
            from orchestrator.compare.server import connected

            server = held.enter_context(connected(uri, what))
            if tracking_uri is not None:
                server.check()
        if experiment is not None and server is not None:
            found = compared(server.experiment(experiment, top or TOP), "best on confirm")
        else:
            found = compared(Sources(storage, server).find(runs or []))
    if out is not None:
        from orchestrator.compare.page import write_comparison

        write_comparison(found, out)
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    from orchestrator.compare.terminal import show

    console = Terminal()
    show(console, found)
    if out is not None:
        console.say(f"Page: {out}")


def _check(runs: list[str] | None, experiment: str | None, top: int | None, uri: str | None) -> None:
    if experiment is None and not runs:
        raise HeadmaskError("name what to compare: run folders, mask files, studies or runs; or an --experiment")
    if experiment is None and top is not None:
        raise HeadmaskError("--top chooses among the searches of an --experiment; without one, name what to compare")
    if experiment is not None and runs:
        raise HeadmaskError(f"--experiment chooses what is compared; leave {', '.join(runs)} out, or --experiment")
    if experiment is not None and not uri:
        raise HeadmaskError(
            "--experiment needs --tracking-uri URL, or MLFLOW_TRACKING_URI, such as sqlite:///runs/mlflow.db"
        )
