"""The command `headmask explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.data import Overwrite
from orchestrator.commands.flags import GIVEN, SCORING, Settings, for_model, for_reading, takes
from orchestrator.commands.masks import SCALES_HELP, Objective, Split, Threads, named_files
from orchestrator.commands.paths import path_of
from orchestrator.commands.tools import Json
from orchestrator.screen.terminal import Terminal


@takes(SCORING)
def explain(
    data: Annotated[str, typer.Option(help="Parquet file of `headmask data build`.")],
    out: Annotated[Path, typer.Option(parser=path_of, help="Folder for explain.json and a picture per head.")],
    mask: Annotated[Path | None, typer.Option(parser=path_of, help="Mask file, as a search writes it.")] = None,
    scales: Annotated[Path | None, typer.Option(parser=path_of, help=f"{SCALES_HELP}.")] = None,
    settings: Settings = GIVEN,
    heads: Annotated[
        str | None,
        typer.Option(
            help="Heads to explain, such as L3H7,L5H0; those of the mask by default, or the 12 that scales change most."
        ),
    ] = None,
    descriptions: Annotated[
        Path | None,
        typer.Option(parser=path_of, help="Texts to describe heads by, one per line; a bundled list by default."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=1_000, help="Maximum number of images shown for a head.")] = 8,
    split: Split = None,
    objective: Objective = None,
    threads: Threads = 1,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Show what heads do: texts that describe them, the images that they hurt most, and where they look in these."""
    from orchestrator.explain.explanation import explanation_sentences, explanation_table
    from orchestrator.explain.heads import explain_heads
    from orchestrator.settings.config import parse_data

    reading = {**for_reading(settings), **({} if objective is None else {"objective": objective})}
    console = Terminal(stderr=as_json)
    (section,) = parse_data([{"path": data, **reading}])
    if mask is not None and scales is not None:
        named_files([mask, scales], most=1)
    found = explain_heads(
        section,
        out,
        mask=mask if scales is None else scales,
        heads=heads,
        split=split,
        descriptions=descriptions,
        num_images=images,
        threads=threads,
        overwrite=overwrite,
        say=console.say,
        **for_model(settings),
    )
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    if found.heads:
        console.print(explanation_table(found))
    for line in explanation_sentences(found):
        console.say(line)
    written = "Pictures and explain.json are" if any(head.picture for head in found.heads) else "explain.json is"
    console.say(f"{written} in {out}")
