"""The commands that search nothing: which models are supported, the schema of results, the speed of the machine."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from headmask.border.shown import counted
from orchestrator.screen.terminal import Terminal

bench_app = typer.Typer(help="Measure speed, as a ratio against a baseline in the same run.", no_args_is_help=True)

MAX_SHOWN = 60
"""Maximum number of characters shown of a wrong value."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")]


def finite(value: float | None) -> float | None:
    """Return the value of an option if it is finite; ranges let NaN pass."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("must be a finite number")
    return value


def cut(text: str) -> str:
    """Return a text shortened to a length that fits into a message."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def print_json(content: Any) -> None:
    """Print JSON, and nothing else, on standard output."""
    print(json.dumps(content, indent=2))


def models(
    unsupported: Annotated[
        bool, typer.Option("--unsupported", help="List only what is not supported, and why.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show for every open_clip architecture whether its towers are supported, and count them."""
    from headmask.models.catalogue import architectures
    from headmask.models.hf.architecture import KINDS
    from orchestrator.screen.waiting import counting

    console = Terminal(stderr=as_json)
    with counting(console, "architectures") as on_progress:
        found = []
        for number, architecture in enumerate(architectures(), 1):
            found.append(architecture)
            on_progress(number, 0)
    counts = {tower: sum(each.grid(tower) is not None for each in found) for tower in ("image", "text")}
    if as_json:
        rows = [
            {
                "name": each.name,
                "image_grid": str(each.image) if each.grid("image") else None,
                "image_refusal": None if each.grid("image") else str(each.image),
                "text_grid": str(each.text) if each.grid("text") else None,
                "text_refusal": None if each.grid("text") else str(each.text),
            }
            for each in found
        ]
        content = {"architectures": rows, "total": len(found), "image": counts["image"], "text": counts["text"]}
        print_json(content)
        return
    table = Table("architecture", "image tower", "text tower")
    for each in found:
        if not unsupported or not (each.grid("image") and each.grid("text")):
            cells = (each.image, each.text)
            table.add_row(each.name, *(str(cell) if not isinstance(cell, str) else f"no: {cell}" for cell in cells))
    console.print(table)
    console.say(
        f"{counts['image']} of {len(found)} image towers and {counts['text']} of {len(found)} text towers are "
        "supported (layers x heads).",
    )
    console.say(
        f"Models of Hugging Face's transformers are read from their folder (--pretrained FOLDER): {', '.join(KINDS)}."
    )


def studies(
    storage: Annotated[str, typer.Option(help="Journal file or database URL.")],
    as_json: Json = False,
) -> None:
    """List the studies in a storage with their state and progress, also while they run."""
    from dataclasses import asdict

    from orchestrator.settings.commandline import command_line
    from orchestrator.settings.location import redacted
    from orchestrator.study.catalogue import list_studies, studies_table

    found = list_studies(storage)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    console = Terminal()
    if not found:
        console.say(f"There are no studies in {redacted(storage)}.")
        return
    console.print(studies_table(found))
    if any(each.state == "stopped" for each in found):
        console.say(f"Continue one with: {command_line('headmask', 'resume', 'NAME', '--storage', redacted(storage))}")


def schema(
    what: Annotated[
        Literal["result", "compare", "refine"],
        typer.Argument(help="result.json, what `headmask compare --json` prints, or refine.json."),
    ] = "result",
) -> None:
    """Print the JSON schema of result.json, of a comparison, or of refine.json."""
    from orchestrator.compare.content import Comparison
    from orchestrator.outcome.schema import SearchResult
    from orchestrator.refine.content import RefineResult

    models: dict[str, Any] = {"result": SearchResult, "compare": Comparison, "refine": RefineResult}
    print_json(models[what].model_json_schema())


@bench_app.command()
def engine(
    model: Annotated[str, typer.Option(help="open_clip architecture; its weights are random.")] = "ViT-B-32",
    images: Annotated[int, typer.Option(min=3, max=100_000, help="Random images that every mask is computed on.")] = 16,
    workload: Annotated[
        Literal["scan", "population", "single"], typer.Option(help="All single heads, 256 bred masks, or one mask.")
    ] = "scan",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Precision of the engine.")
    ] = "float32",
    plain_precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        typer.Option(help="Precision of the plain way; the engine's by default."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Repetitions of both ways, alternating.")] = 3,
    sample: Annotated[
        int, typer.Option(min=1, max=100_000, help="Masks that the plain way is timed on in a round.")
    ] = 8,
    as_json: Json = False,
) -> None:
    """Time the scoring engine against one stock forward pass per mask."""
    from headmask.models.loading import quiet_open_clip
    from headmask.models.origin import check_architecture
    from orchestrator.run.bench import bench_engine

    check_architecture(model)
    console = Terminal(stderr=as_json)

    def on_round(number: int, plain_s: float, engine_s: float) -> None:
        text = f"round {number + 1}: plain {plain_s:.4g} s per mask, engine {engine_s:.4g} s, {plain_s / engine_s:.2f}x"
        console.say(text)

    with quiet_open_clip():
        found = bench_engine(
            model,
            images=images,
            workload=workload,
            precision=precision,
            plain_precision=plain_precision,
            rounds=rounds,
            sample=sample,
            on_round=on_round,
        )
    if as_json:
        print_json(found.as_json())
        return
    table = Table(
        title=f"{found.workload} of {counted(found.num_masks, 'mask')}, {counted(found.num_images, 'image')}, "
        f"{found.model}"
    )
    table.add_column("")
    table.add_column("plain", justify="right")
    table.add_column("engine", justify="right")
    table.add_row("precision", found.plain_precision, found.precision)
    table.add_row("seconds per mask", f"{found.plain_s_per_mask:.4g}", f"{found.engine_s_per_mask:.4g}")
    table.add_row("images at a time", str(found.plain_batch), str(found.image_chunk))
    console.print(table)
    console.say(
        f"{found.speedup:.2f}x as fast; {found.bound:.2f}x by counted multiply-adds, of which that is "
        f"{100 * found.share_of_bound:.0f} %. The engine runs at {100 * found.share_of_peak:.0f} % of the "
        f"{found.peak_gflops:,.0f} GFLOP/s of a plain matrix product here; peak memory "
        f"{found.peak_memory_bytes / 2**30:.2f} GiB; embeddings differ by at most {found.max_abs_difference:.1e}.\n"
        f"{found.hardware}; plain way on {found.plain_masks_sampled} of the masks; median of {found.rounds} rounds.",
    )
