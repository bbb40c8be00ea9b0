"""The commands that search: `headmask demo`, `headmask search` and `headmask resume`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headmask.border.writing import check_run_folder
from headmask.errors import PoolError, ReplicasLostError
from orchestrator.commands.ending import told_how_to_go_on
from orchestrator.commands.flags import Settings, takes
from orchestrator.commands.paths import path_of
from orchestrator.commands.tools import Json, finite, print_json
from orchestrator.screen.terminal import Terminal
from orchestrator.settings.commandline import way_on
from orchestrator.settings.options import RESUME, SEARCH, flags_of

if TYPE_CHECKING:
    from orchestrator.outcome.schema import SearchResult
    from orchestrator.settings.config import SearchConfig

Plan = Annotated[bool, typer.Option("--plan", help="Say what would be done and what it costs, and stop.")]
Speed = Annotated[
    float | None,
    typer.Option(
        min=1e-3,
        max=1e9,
        callback=finite,
        help="Images per second of one replica, for --plan; by default, it is measured here.",
    ),
]


@takes({name: SEARCH[name] for name in ("pool", "replicas")})
def demo(
    settings: Settings,
    out: Annotated[Path, typer.Option(parser=path_of, help="Run folder.")] = Path("runs/demo"),
    masks: Annotated[int, typer.Option(help="Number of masks to score.")] = 400,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on the built-in model and data. No download."""
    from orchestrator.demo import DEMO_CONSTANTS, STORY, DemoPaths, check_demo, epilogue, unpack_demo
    from orchestrator.run.outputs import is_run
    from orchestrator.settings.config import read_config

    paths = DemoPaths.in_folder(out)
    options = {**settings, "out": out, "masks": masks, "fold": True}
    options |= {"model": f"local-dir:{paths.model}", "data": paths.data, **DEMO_CONSTANTS}
    config = read_config(None, flags_of(options))
    check_run_folder(out, is_run)
    check_demo(out)
    if not as_json:
        Terminal().print(STORY)
    unpack_demo(out)
    result = _run_search(config, as_json=as_json)
    if not as_json:
        Terminal().print(epilogue(result, out))


@takes(SEARCH, defaults=True)
def search(
    settings: Settings,
    config: Annotated[
        Path | None,
        typer.Argument(parser=path_of, help="TOML file of settings; flags override it.", show_default=False),
    ] = None,
    plan: Plan = False,
    speed: Speed = None,
    as_json: Json = False,
) -> None:
    """Search for a mask that helps, and report it on data that selection never saw."""
    from orchestrator.settings.config import read_config

    read = read_config(config, flags_of(settings))
    if plan:
        from orchestrator.run.plan import make_plan

        show_plan(make_plan(read, speed), as_json=as_json)
        return
    _run_search(read, as_json=as_json)


@takes(RESUME)
def resume(
    study: Annotated[str, typer.Argument(help="Run folder; or the name of a study, with --storage.")],
    settings: Settings,
    storage: Annotated[str | None, typer.Option(help="Journal file or database URL that holds the study.")] = None,
    as_json: Json = False,
) -> None:
    """Continue a study exactly where it stopped, or further with a larger budget."""
    from orchestrator.study.reopening import stored_config

    _run_search(stored_config(study, storage, flags_of(settings)), as_json=as_json, resuming=True)


def _run_search(config: SearchConfig, *, as_json: bool, resuming: bool = False) -> SearchResult:
    from orchestrator.run import begin
    from orchestrator.run.display import make_display

    console = Terminal(stderr=as_json)
    display = make_display(console)
    with told_how_to_go_on(console, display, lambda: _how_to_go_on(config)):
        try:
            outcome = begin.resume(config, display) if resuming else begin.start(config, display)
        except ReplicasLostError:
            raise
        except PoolError as error:
            # Before the first mask, it is the input that has to be changed.
            is_begun = not resuming and (config.folder / "config.json").exists()
            raise PoolError(f"{error}. {_how_to_go_on(config)}" if is_begun else str(error)) from None
    if as_json:
        print(outcome.result.model_dump_json(indent=2))
    else:
        from orchestrator.outcome.tables import show_result

        show_result(console, outcome.result)
    if outcome.exit_code:
        sys.exit(outcome.exit_code)
    return outcome.result


def _how_to_go_on(config: SearchConfig) -> str:
    """Return what is kept of a search that ended early, and how it goes on."""
    if (config.folder / "config.json").exists():
        return way_on(config)
    return "No mask was scored yet; start it again by the same command"


def show_plan(content: dict[str, Any], *, as_json: bool) -> None:
    """Print a plan, a line per entry."""
    if as_json:
        print_json(content)
        return
    console = Terminal()
    for key, value in content.items():
        if value is None:
            continue
        value = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
        console.say(f"{key.replace('_', ' ')}: {value}")
