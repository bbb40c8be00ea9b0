"""The commands on mask files and scales files: `headmask eval` and `headmask export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headmask.border.kinds import MASK
from headmask.border.shown import counted
from headmask.errors import ConfigError
from orchestrator.commands.data import Overwrite
from orchestrator.commands.flags import GIVEN, SCORING, Settings, for_model, for_reading, takes
from orchestrator.commands.paths import path_of
from orchestrator.commands.tools import Json, print_json
from orchestrator.screen.terminal import Terminal
from orchestrator.settings.options import MODEL

if TYPE_CHECKING:
    from headmask.maskfile import HeadFile

MAX_THREADS = 1_024
Split = Annotated[str | None, typer.Option(help="search, confirm or test; the whole file by default.")]
Objective = Annotated[str | None, typer.Option(help="Metric or mix; the mask's by default.")]
Threads = Annotated[int, typer.Option(min=1, max=MAX_THREADS, help="CPU threads.")]
SCALES_HELP = "Scales file, as a refinement writes it"
LATENCY_S = 4.0
"""Seconds that an export spends on measuring latency."""


@takes(SCORING)
def evaluate(
    data: Annotated[list[str], typer.Option(help="Parquet file of `headmask data build`; several make a table.")],
    mask: Annotated[
        list[Path] | None,
        typer.Option(parser=path_of, help="Mask file, as a search writes it; several make a table."),
    ] = None,
    scales: Annotated[
        list[Path] | None, typer.Option(parser=path_of, help=f"{SCALES_HELP}; several make a table.")
    ] = None,
    settings: Settings = GIVEN,
    split: Split = None,
    objective: Objective = None,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Score masks or scales against the baseline, with intervals; several masks or data sets make a table."""
    from orchestrator.settings.config import parse_data
    from orchestrator.verdict.evaluate import evaluate_masks

    reading = {**for_reading(settings), **({} if objective is None else {"objective": objective})}
    sections = parse_data([{"path": path, **reading} for path in data])
    console = Terminal(stderr=as_json)
    rows = evaluate_masks(
        named_files([*(mask or []), *(scales or [])]),
        sections,
        split=split,
        threads=threads,
        say=console.say,
        **for_model(settings),
    )
    found = [evaluation for row in rows for evaluation in row]
    if as_json:
        alone = len(found) == 1
        print_json(found[0].as_json() if alone else {"evaluations": [each.as_json() for each in found]})
        return
    from orchestrator.outcome.tables import empty_mask_sentence, metrics_table, transfer_table
    from orchestrator.statistics.paired import MIN_CLUSTERS
    from orchestrator.study.looks import looked

    if len(found) == 1:
        done = "masked" if found[0].mask.NAME == MASK else found[0].mask.DONE
        console.print(metrics_table(found[0].title, found[0].baseline, found[0].masked, done))
        console.say(found[0].sentence)
    else:
        console.print(transfer_table(rows))
        for line in dict.fromkeys(each.too_few for each in found if each.too_few):
            console.say(f"{line}; an interval needs at least {MIN_CLUSTERS}.")
    for text in dict.fromkeys(text for each in found for text in each.remarks):
        console.say(text)
    for row in rows:
        if not row[0].mask.heads:
            console.say(empty_mask_sentence(row[0].mask_path, row[0].mask))
    looks = max((each.test_looks or 0 for each in found), default=0)
    if looks:
        console.say(looked(looks))


@takes(MODEL)
def export(
    out: Annotated[
        Path,
        typer.Option(
            parser=path_of,
            help="NAME.safetensors for a checkpoint file, another name for a model folder.",
        ),
    ],
    mask: Annotated[Path | None, typer.Option(parser=path_of, help="Mask file, as a search writes it.")] = None,
    scales: Annotated[Path | None, typer.Option(parser=path_of, help=f"{SCALES_HELP}.")] = None,
    settings: Settings = GIVEN,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the ablated heads; headmask.load_pruned loads the folder.")
    ] = False,
    form: Annotated[
        Literal["open_clip", "transformers", "onnx"] | None,
        typer.Option(
            "--format",
            help="Library that loads the result, or onnx for ONNX Runtime; by default, the library that the model came "
            "from.",
        ),
    ] = None,
    latency: Annotated[bool, typer.Option(help="Measure latency before and after, for a few seconds.")] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fold a mask or scales into a plain checkpoint, or prune heads, and prove that it equals the changed model."""
    from dataclasses import asdict

    from headmask.apply.exporting import check_target
    from headmask.apply.exporting import export as export_and_prove
    from headmask.apply.masked import load_for
    from headmask.scalesfile import read_head_file

    (path,) = named_files([each for each in (mask, scales) if each is not None], most=1)
    content = read_head_file(path)
    model, pretrained = settings.get("model"), settings.get("pretrained")
    given = content.model.model_copy(update={"name": model or content.model.name, "pretrained": pretrained})
    check_target(out, prune=prune, format=form, overwrite=overwrite, inputs=[path, *content.model.paths, *given.paths])
    loaded = load_for(content, model, pretrained, settings.get("preprocess"))
    latency_s = LATENCY_S if latency else 0.0
    proof = export_and_prove(loaded, content, out, prune=prune, format=form, latency_s=latency_s, overwrite=overwrite)
    console = Terminal(stderr=as_json)
    for note in loaded.notes:
        console.say(note)
    if as_json:
        print_json({"checkpoint": str(out), "pruned": prune, **asdict(proof)})
        return
    from orchestrator.outcome.tables import empty_mask_sentence, footprint_table

    onnx = "ONNX Runtime" if proof.format == "onnx" else None
    loader = onnx or ("headmask" if prune else f"stock {proof.format}")
    console.say(
        f"{out}: {_exported(content, prune=prune)}. Loaded by "
        f"{loader}, its embeddings differ from the "
        f"{'masked' if content.NAME == MASK else content.DONE} model's by at most "
        f"{proof.max_difference:.1e} (allowed {proof.tolerance:.0e}).",
    )
    if not content.heads:
        console.say(empty_mask_sentence(path, content))
    console.print(footprint_table(proof))
    console.say(f"Load it with: {proof.how_to_load}")


def named_files(paths: list[Path], most: int | None = None) -> list[Path]:
    """Return the mask files and scales files that a command line names.

    Raises:
        ConfigError: it names none, or too many.
    """
    if not paths:
        raise ConfigError("name a mask file with --mask, or a scales file with --scales")
    if most is not None and len(paths) > most:
        raise ConfigError("name either a mask file with --mask, or a scales file with --scales; got both")
    return paths


def _exported(content: HeadFile, *, prune: bool) -> str:
    """Return what became of the heads."""
    if content.NAME == MASK:
        return f"{counted(len(content.heads), 'head')} {'pruned' if prune else 'folded away'}"
    done = f", {counted(len(content.mask), 'head')} pruned" if prune else ", folded into the weights"
    return f"{content.summary}{done}"
