"""The command `headmask refine`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.ending import told_how_to_go_on
from orchestrator.commands.flags import GIVEN, Settings, takes
from orchestrator.commands.paths import path_of
from orchestrator.commands.search import Plan, Speed, show_plan
from orchestrator.commands.tools import Json
from orchestrator.screen.terminal import Terminal
from orchestrator.settings.options import REFINE, flags_of

if TYPE_CHECKING:
    from orchestrator.refine.refining import Order

MAX_STEPS = 100_000


@takes(REFINE)
def refine(
    run: Annotated[
        Path | None,
        typer.Argument(
            parser=path_of,
            help="Run folder of a finished search; without one, --model, --data and --out say what is refined.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_STEPS, help="Largest number of steps that may be chosen. Default: 256."),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Keep the mask's heads ablated, to be pruned, and scale only the others.")
    ] = False,
    plan: Plan = False,
    speed: Speed = None,
    settings: Settings = GIVEN,
    as_json: Json = False,
) -> None:
    """Train a factor per head, beginning from the mask of a search or from the model, and report it on unseen data."""
    from orchestrator.refine.refining import order_of

    order = order_of(run, flags_of(settings, REFINE), steps, keeps_mask=prune)
    if plan:
        from orchestrator.refine.plan import make_plan

        show_plan(make_plan(order, speed), as_json=as_json)
        return
    _run(order, as_json=as_json)


def _run(order: Order, *, as_json: bool) -> None:
    from orchestrator.refine.refining import refine as run_refinement
    from orchestrator.refine.terminal import show_refinement
    from orchestrator.run.display import make_display

    console = Terminal(stderr=as_json)
    display = make_display(console)
    with told_how_to_go_on(console, display, lambda: "What was computed is kept: the same command goes on"):
        result = run_refinement(order, display)
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        show_refinement(console, result)
