"""The commands on tracking: `headmask track sync` and `headmask track register`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.paths import path_of
from orchestrator.commands.tools import Json, print_json
from orchestrator.screen.terminal import Terminal

track_app = typer.Typer(help="What MLflow knows of a search: bring it up to date, register the model.")

RunFolder = Annotated[Path, typer.Argument(parser=path_of, help="Run folder of a search.")]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        help="MLflow server or store; the search's own by default, whatever MLFLOW_TRACKING_URI says. Another one gets "
        "everything."
    ),
]


@track_app.command(name="sync")
def sync(folder: RunFolder, tracking_uri: TrackingUri = None, as_json: Json = False) -> None:
    """Send everything about a search that a tracking server does not have yet; nothing is sent twice."""
    from orchestrator.track.tracker import sync as send

    synced = send(folder, tracking_uri)
    print_json(synced.as_json()) if as_json else Terminal().say(synced.sentence)
    if synced.refused:
        raise typer.Exit(1)


@track_app.command(name="register")
def register(
    folder: RunFolder,
    name: Annotated[str, typer.Option(metavar="NAME[@ALIAS]", help="Name of the registered model.")],
    alias: Annotated[str | None, typer.Option(help="Alias of the new version; challenger by default.")] = None,
    candidate: Annotated[
        bool, typer.Option("--candidate", help="Register the selected mask without a reliable improvement, too.")
    ] = False,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Register the selected mask of a search as folded weights with code that does not need headmask."""
    from dataclasses import asdict

    from orchestrator.settings.modelname import ModelName
    from orchestrator.track.registering import register as send

    model_name = ModelName.parse(name if alias is None else f"{name}@{alias}")
    console = Terminal(stderr=as_json)
    registered = send(folder, model_name, uri=tracking_uri, candidate=candidate, say=console.say)
    print_json(asdict(registered)) if as_json else console.say(registered.sentence)
