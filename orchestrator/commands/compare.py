"""`headmask compare`: which mask to ship, and why."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from headmask.errors import HeadmaskError
from orchestrator.commands.tools import Json
from orchestrator.terminal import Terminal

TOP = 10


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run folders, mask files, studies of --storage, ids of runs of --tracking-uri."),
    ] = None,
    storage: Annotated[str | None, typer.Option(help="Journal file or database URL that holds named studies.")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow server or store that holds named runs.")
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Compare the searches of an MLflow experiment.")] = None,
    top: Annotated[
        int | None, typer.Option(min=2, help=f"Of --experiment, those that gained most on confirm; {TOP} by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page as well.")] = None,
    as_json: Json = False,
) -> None:
    """Compare masks: scores with paired intervals, shared heads, settings that differ, and which one to ship."""
    from orchestrator.compare.comparison import compare as compared
    from orchestrator.compare.sources import Sources

    _check(runs, experiment, top, tracking_uri)
    with ExitStack() as held:
        server = None
        if tracking_uri is not None:
            from orchestrator.compare.tracked import connected

            server = held.enter_context(connected(tracking_uri))
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


def _check(runs: list[str] | None, experiment: str | None, top: int | None, tracking_uri: str | None) -> None:
    if experiment is None and not runs:
        raise HeadmaskError("name what to compare: run folders, mask files, studies or runs; or an --experiment")
    if experiment is None and top is not None:
        raise HeadmaskError("--top chooses among the searches of an --experiment; without one, name what to compare")
    if experiment is not None and runs:
        raise HeadmaskError(f"--experiment chooses what is compared; leave {', '.join(runs)} out, or --experiment")
    if experiment is not None and tracking_uri is None:
        raise HeadmaskError("--experiment needs --tracking-uri URL, such as sqlite:///runs/mlflow.db")
