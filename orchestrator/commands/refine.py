"""The command `headmask refine`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headmask.border.foreign import reason_of
from headmask.errors import HeadmaskError, ReplicasLostError
from orchestrator.commands.flags import GIVEN, Settings, takes
from orchestrator.commands.paths import path_of
from orchestrator.commands.search import Plan, Speed, show_plan
from orchestrator.commands.tools import Json
from orchestrator.screen.border import EXIT_INTERRUPTED
from orchestrator.screen.terminal import Terminal
from orchestrator.settings.options import REFINE, flags_of

if TYPE_CHECKING:
    from orchestrator.refine.refining import Order

MAX_STEPS = 100_000
_SAME = "What was computed is kept: the same command goes on"


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
    from orchestrator.search.scoring import Interrupted

    console = Terminal(stderr=as_json)
    display = make_display(console)
    try:
        result = run_refinement(order, display)
    except (Interrupted, KeyboardInterrupt):
        display.stop()
        console.say(f"Interrupted. {_SAME}")
        sys.exit(EXIT_INTERRUPTED)
    except ReplicasLostError as error:
        raise ReplicasLostError(f"{error}. {_SAME}") from None
    except OSError as error:
        raise HeadmaskError(f"{reason_of(error)}. {_SAME}") from None
    finally:
        display.stop()
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        show_refinement(console, result)
