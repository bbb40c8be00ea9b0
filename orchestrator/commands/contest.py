"""`headmask bench strategies` and `headmask bench driver`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headmask.border.shown import counted
from orchestrator.commands.paths import path_of
from orchestrator.commands.tools import Json, finite, print_json
from orchestrator.screen.terminal import Terminal


def strategies(
    landscape: Annotated[list[str] | None, typer.Option(help="By name; all but random-144 by default.")] = None,
    contestant: Annotated[list[str] | None, typer.Option(help="By name; a choice of them by default.")] = None,
    full: Annotated[bool, typer.Option("--full", help="More seeds and masks: takes far longer.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, max=10_000, help="Seeds on every landscape.")] = None,
    first_seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="The seeds are this one and those after it.")
    ] = 0,
    evaluations: Annotated[int | None, typer.Option(min=1, max=10_000_000, help="Distinct masks of every run.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Runs at a time; one per core by default.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(parser=path_of, help="PNG of the median regret by number of masks.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare our strategies with others, at equal numbers of distinct masks."""
    from orchestrator.contest.contest import hold
    from orchestrator.contest.plan import plan
    from orchestrator.contest.plot import write_plot
    from orchestrator.contest.summary import standing
    from orchestrator.contest.tables import standing_tables
    from orchestrator.screen.waiting import counting

    cells = plan(landscape, contestant, full=full, num_seeds=seeds, first_seed=first_seed, budget=evaluations)
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


def driver(
    replicas: Annotated[int, typer.Option(min=1, max=100_000, help="Simulated replicas.")] = 64,
    evaluation_ms: Annotated[
        float, typer.Option(min=0.0, max=1e9, callback=finite, help="What a mask takes one of them.")
    ] = 50.0,
    trials: Annotated[int, typer.Option(min=500, max=10_000_000, help="Masks of every run.")] = 10_000,
    block_size: Annotated[int, typer.Option(min=1, max=100_000, help="Most masks in a block.")] = 1_024,
    as_json: Json = False,
) -> None:
    """Time the driver with a journal, tracking and the default strategy; only the replicas are simulated."""
    from orchestrator.bench_driver import bench_driver

    console = Terminal(stderr=as_json)
    found = bench_driver(
        replicas=replicas,
        evaluation_ms=evaluation_ms,
        trials=trials,
        block_size=block_size,
        say=console.say,
    )
    if as_json:
        print_json(found.as_json())
        return
    console.say(
        f"{found.masks_per_s:,.0f} masks/s and {found.driver_ms_per_mask:.2f} ms of the driver per mask where "
        f"evaluations are free; {counted(found.replicas, 'replica')} of {found.evaluation_ms:g} ms are busy "
        f"{100 * found.replica_efficiency:.0f} % of the time; {found.bytes_per_trial / 1024:.1f} KiB per trial; "
        f"resuming {counted(found.trials, 'mask')} takes {found.resume_s:.1f} s.\n"
        f"{found.strategy} on {found.grid} heads, blocks of up to {found.block_size:,}; {found.hardware}.",
    )
