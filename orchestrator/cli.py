"""The command line. Heavy imports happen inside the commands, so that `headmask --help` answers at once."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headmask.border.foreign import reason_of
from headmask.border.home import give_home
from headmask.border.writing import check_run_folder
from headmask.errors import HeadmaskError, PoolError, ReplicasLostError
from orchestrator.commands.compare import compare
from orchestrator.commands.data import (
    CaptionColumn,
    ClassNames,
    GroupColumn,
    ImageColumn,
    LabelColumn,
    PixelsOption,
    SplitColumn,
    Task,
    Templates,
    data_app,
)
from orchestrator.commands.explain import explain
from orchestrator.commands.masks import Model, Preprocess, Pretrained, evaluate, export
from orchestrator.commands.paths import path_of
from orchestrator.commands.report import report
from orchestrator.commands.tools import Json, bench_app, cut, finite, models, print_json, schema, studies
from orchestrator.commands.track import TrackingUri, track_app
from orchestrator.screen.border import EXIT_INTERRUPTED, ended
from orchestrator.screen.terminal import PrintableLog, Terminal, patient
from orchestrator.settings.commandline import way_on

if TYPE_CHECKING:
    from orchestrator.outcome.schema import SearchResult
    from orchestrator.settings.config import SearchConfig

app = typer.Typer(
    help="Find the attention heads that hurt a CLIP model, prove it on unseen data, and fold them away.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(track_app, name="track")
app.add_typer(bench_app, name="bench")

Out = Annotated[str | None, typer.Option(metavar="PATH", help="Run folder: study, mask, results, pictures.")]
Masks = Annotated[int | None, typer.Option(help="Budget: distinct masks to score on the search split.")]
Seconds = Annotated[float | None, typer.Option(help="Budget: ends after the block in which these run out; 0 lifts it.")]
ImageForwards = Annotated[int | None, typer.Option(help="Budget: plain forward passes of one image; 0 lifts it.")]
Patience = Annotated[int | None, typer.Option(help="Budget: blocks in a row without a better mask; 0 lifts it.")]
Replicas = Annotated[
    str | None, typer.Option(metavar="auto|N", help="Ray replicas; as many as there is room for by default.")
]
GpusPerReplica = Annotated[
    float | None, typer.Option(help="1, a part of 1, or 0 for CPUs; 1 where there are GPUs by default.")
]
Shards = Annotated[
    str | None,
    typer.Option(metavar="auto|N", help="Replicas that share the images out; by default what is predicted to pay."),
]
MixedDevices = Annotated[
    bool | None, typer.Option("--mixed-devices", help="Let devices of different kinds score one study.")
]
PoolKind = Annotated[
    Literal["ray", "inline"] | None, typer.Option(help="Where masks are scored: on Ray, or in this process.")
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join; Ray starts on this machine by default.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(parser=path_of, help="Run folder.")] = Path("runs/demo"),
    masks: Annotated[int, typer.Option(help="Masks to score.")] = 400,
    pool: PoolKind = None,
    replicas: Replicas = None,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on the built-in model and data. No download."""
    from orchestrator.demo import DEMO_CHUNK, STORY, DemoPaths, check_demo, epilogue, unpack_demo
    from orchestrator.run.outputs import is_run
    from orchestrator.settings.config import flags_of, read_config

    paths = DemoPaths.in_folder(out)
    options = {"out": out, "masks": masks, "pool": pool, "replicas": replicas, "fold": True}
    # A fixed chunk, where a search would choose one by the device: everyone's demo is the same to the last digit.
    options |= {"model": f"local-dir:{paths.model}", "data": paths.data, "image_chunk": DEMO_CHUNK}
    settings = read_config(None, flags_of(options))
    check_run_folder(out, is_run)
    check_demo(out)
    if not as_json:
        Terminal().print(STORY)
    unpack_demo(out)
    result = _run_search(settings, as_json=as_json)
    if not as_json:
        Terminal().print(epilogue(result, out))


@app.command()
def search(
    config: Annotated[
        Path | None,
        typer.Argument(parser=path_of, help="TOML file; flags override it.", show_default=False),
    ] = None,
    model: Model = None,
    pretrained: Pretrained = None,
    preprocess: Preprocess = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Parquet file of `headmask data build`; several are searched on together.")
    ] = None,
    out: Out = None,
    masks: Masks = None,
    seconds: Seconds = None,
    image_forwards: ImageForwards = None,
    patience: Patience = None,
    tower: Annotated[str | None, typer.Option(help="Whose heads are searched: image (default) or text.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="Metric to improve, or a mix: mean_recall, top1, 0.7*t2i_r1 + 0.3*i2t_r1, ...")
    ] = None,
    guide: Annotated[str | None, typer.Option(help="Metric to search by; probability in retrieval by default.")] = None,
    combine: Annotated[
        str | None, typer.Option(help="Of several data sets, improve the mean (default) or the worst.")
    ] = None,
    max_loss: Annotated[
        list[str] | None,
        typer.Option(help="NAME=POINTS: a data set that limits the search, by the points that it may lose."),
    ] = None,
    ablation: Annotated[str | None, typer.Option(help="What replaces a head: zero, mean, uniform or cls.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the search: float32, bfloat16, float16, auto.")] = None,
    pixels: PixelsOption = None,
    strategy: Annotated[
        str | None, typer.Option(help="mixture (default), pairwise, genetic, gates or scan; slower: tpe, nsga2.")
    ] = None,
    shortlist: Annotated[int | None, typer.Option(help="Heads that tpe and nsga2 search among; 48 by default.")] = None,
    gate_share: Annotated[
        float | None, typer.Option(help="Part of the mixture's masks that come from gates; 0 by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the strategy.")] = None,
    layers: Annotated[str | None, typer.Option(help="Layers whose heads may be ablated, such as 4,5,6.")] = None,
    protect: Annotated[str | None, typer.Option(help="Heads that are never ablated, such as L11H3,L0H1.")] = None,
    max_heads: Annotated[int | None, typer.Option(help="Most heads in a mask.")] = None,
    surrogate: Annotated[
        bool | None,
        typer.Option("--surrogate/--no-surrogate", help="Predict masks by what the scan leaves (default), or not."),
    ] = None,
    surrogate_gib: Annotated[float | None, typer.Option(help="Most memory for that; 4 by default.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of one replica; a constant of the study.")] = None,
    image_chunk: Annotated[
        str | None, typer.Option(metavar="N|measure", help="Images computed together; by device and model by default.")
    ] = None,
    task: Task = None,
    templates: Templates = None,
    class_names: ClassNames = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    split_column: SplitColumn = None,
    draw_splits: Annotated[
        bool | None, typer.Option("--draw-splits", help="Draw the splits, ignoring a column.")
    ] = None,
    split_seed: Annotated[int | None, typer.Option(help="Of drawn splits.")] = None,
    pool: PoolKind = None,
    replicas: Replicas = None,
    gpus_per_replica: GpusPerReplica = None,
    shards: Shards = None,
    mixed_devices: MixedDevices = None,
    address: Address = None,
    study: Annotated[str | None, typer.Option(help="Name of the study; the run folder's by default.")] = None,
    storage: Annotated[str | None, typer.Option(help="Journal file or database URL of the study.")] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="MLflow server or store; by default MLFLOW_TRACKING_URI, or mlflow.db beside the run folder."
        ),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="MLflow experiment.")] = None,
    fold: Annotated[
        bool | None, typer.Option("--fold", help="Fold a reliable mask into a model folder as well.")
    ] = None,
    register: Annotated[
        str | None,
        typer.Option(metavar="NAME[@ALIAS]", help="Register the model of a reliable mask in MLflow, folded."),
    ] = None,
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Search even where the baseline is at chance level.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done and what it costs, and stop.")] = False,
    speed: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            max=1e9,
            callback=finite,
            help="For --plan: images a second of a replica; measured here by default.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Search for a mask that helps, and report it on data that selection never saw."""
    from orchestrator.settings.config import OPTIONS, flags_of, read_config

    options = {name: value for name, value in locals().items() if name in OPTIONS}
    options["layers"] = None if layers is None else _numbers(layers, "--layers")
    options["protect"] = None if protect is None else _heads(protect)
    options["gate"] = False if no_gate else None
    options["max_loss"] = _limits(max_loss) if max_loss else None
    settings = read_config(config, flags_of(options))
    if plan:
        from orchestrator.run.plan import make_plan

        _show(make_plan(settings, speed), as_json=as_json)
        return
    _run_search(settings, as_json=as_json)


@app.command()
def resume(
    study: Annotated[str, typer.Argument(help="Run folder; or the name of a study, with --storage.")],
    masks: Masks = None,
    seconds: Seconds = None,
    image_forwards: ImageForwards = None,
    patience: Patience = None,
    storage: Annotated[str | None, typer.Option(help="Journal file or database URL that holds the study.")] = None,
    out: Out = None,
    pool: PoolKind = None,
    replicas: Replicas = None,
    gpus_per_replica: GpusPerReplica = None,
    shards: Shards = None,
    mixed_devices: MixedDevices = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Continue a study exactly where it stopped, or further with a larger budget."""
    from orchestrator.settings.config import OPTIONS, flags_of
    from orchestrator.study.reopening import stored_config

    options = {name: value for name, value in locals().items() if name in OPTIONS and name not in ("study", "storage")}
    _run_search(stored_config(study, storage, flags_of(options)), as_json=as_json, resuming=True)


app.command(name="eval")(evaluate)
app.command()(explain)
app.command()(export)
app.command()(report)
app.command()(compare)
app.command()(schema)
app.command()(models)
app.command(name="studies")(studies)


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
    sys.exit(ended(lambda: app(arguments, prog_name="headmask", standalone_mode=False), debug=debug))


def _run_search(config: SearchConfig, *, as_json: bool, resuming: bool = False) -> SearchResult:
    from orchestrator.run import runner
    from orchestrator.run.display import make_display
    from orchestrator.search.scoring import Interrupted

    console = Terminal(stderr=as_json)
    display = make_display(console)
    try:
        outcome = runner.resume(config, display) if resuming else runner.start(config, display)
    except (Interrupted, KeyboardInterrupt):
        display.stop()
        console.say(f"Interrupted{_how_to_go_on(config)}")
        sys.exit(EXIT_INTERRUPTED)
    except ReplicasLostError as error:
        raise ReplicasLostError(f"{error}{_how_to_go_on(config)}") from None
    except PoolError as error:
        # Before the first mask, it is the input that has to be changed.
        is_begun = not resuming and (config.folder / "config.json").exists()
        raise PoolError(f"{error}{_how_to_go_on(config) if is_begun else ''}") from None
    except OSError as error:
        # A full disk, a folder that may not be written.
        raise HeadmaskError(f"{reason_of(error)}{_how_to_go_on(config)}") from None
    finally:
        display.stop()
    if as_json:
        print(outcome.result.model_dump_json(indent=2))
    else:
        from orchestrator.outcome.tables import show_result

        show_result(console, outcome.result)
    if outcome.exit_code:
        sys.exit(outcome.exit_code)
    return outcome.result


def _how_to_go_on(config: SearchConfig) -> str:
    """Return the end of a sentence about a search that ended early."""
    if (config.folder / "config.json").exists():
        return f". What was scored is saved; continue with: {way_on(config)}"
    return ". No mask was scored yet; start it again by the same command"


def _show(content: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(content)
        return
    console = Terminal()
    for key, value in content.items():
        if value is None:
            continue
        value = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
        console.say(f"{key.replace('_', ' ')}: {value}")


def _limits(texts: list[str]) -> dict[str, float]:
    limits = {}
    for text in texts:
        name, _, points = text.rpartition("=")
        try:
            limits[name] = float(points)
        except ValueError:
            raise HeadmaskError(f"--max-loss must be NAME=POINTS, such as coco=0.5; got {cut(text)!r}") from None
    return limits


def _heads(text: str) -> list[str]:
    if not (heads := text.replace(",", " ").split()):
        raise HeadmaskError(f"--protect must be heads separated by commas, such as L11H3,L0H1; got {cut(text)!r}")
    return heads


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise HeadmaskError(f"{option} must be numbers separated by commas; got {cut(text)!r}") from None


if __name__ == "__main__":
    main()
