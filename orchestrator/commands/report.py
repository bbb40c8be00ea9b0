"""The command `headmask report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.paths import path_of
from orchestrator.commands.tools import Json, print_json
from orchestrator.screen.terminal import Terminal


def report(
    study: Annotated[str, typer.Argument(help="Run folder; or the name of a study, with --storage.")],
    storage: Annotated[str | None, typer.Option(help="Journal file or database URL that holds the study.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=path_of, help="Page to write; report.html in the run folder by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an HTML page on a study: what was searched, what was found, and how sure that is."""
    from headmask.border.kinds import PAGE
    from headmask.border.writing import check_output
    from orchestrator.report.page import FILE, write_report
    from orchestrator.study.reopening import stored_config

    config = stored_config(study, storage)
    path = out or config.folder / FILE
    check_output(path, PAGE)
    write_report(config, path)
    if as_json:
        print_json({"report": str(path)})
        return
    Terminal().say(f"The report is in {path}")
