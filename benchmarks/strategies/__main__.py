"""`python -m benchmarks.strategies`: the contest as a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import run_command
from benchmarks.strategies.contest import hold
from benchmarks.strategies.meter import Unit
from benchmarks.strategies.plan import plan
from benchmarks.strategies.plot import write_plot
from benchmarks.strategies.summary import standing
from benchmarks.strategies.tables import standing_tables
from orchestrator.commands.paths import path_of
from orchestrator.commands.tools import Json, print_json
from orchestrator.screen.terminal import Terminal
from orchestrator.screen.waiting import counting


def strategies(
    landscape: Annotated[
        list[str] | None, typer.Option(help="By name; all but those of random weights by default.")
    ] = None,
    contestant: Annotated[list[str] | None, typer.Option(help="By name; a choice of them by default.")] = None,
    full: Annotated[bool, typer.Option("--full", help="More seeds and masks: takes far longer.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, max=10_000, help="Seeds on every landscape.")] = None,
    first_seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="The seeds are this one and those after it.")
    ] = 0,
    evaluations: Annotated[int | None, typer.Option(min=1, max=10_000_000, help="Budget of every run.")] = None,
    unit: Annotated[
        Unit,
        typer.Option(
            help="What a budget counts: distinct masks, or image forwards as masks take them that share nothing. "
            "Training counts in both."
        ),
    ] = "masks",
    width: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=1_000_000, help="Count rounds of so many masks, none of which knows a result of its round."
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Runs at a time; one per core by default.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(parser=path_of, help="PNG of the median regret by number of masks.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare our strategies with others, at equal numbers of distinct masks, image forwards or rounds."""
    cells = plan(
        landscape,
        contestant,
        full=full,
        num_seeds=seeds,
        first_seed=first_seed,
        budget=evaluations,
        unit=unit,
        widths=width,
    )
    with counting(Terminal(stderr=True), "contest") as on_progress:
        runs = hold(cells, processes=processes, on_progress=lambda what, done, total: on_progress(done, total))
    found = standing(runs)
    if plot is not None:
        write_plot(runs, plot)
    if as_json:
        print_json(found.as_json())
        return
    console = Terminal()
    for table in standing_tables(found):
        console.print(table)


if __name__ == "__main__":
    run_command(strategies, "benchmarks.strategies")
