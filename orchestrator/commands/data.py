"""The commands on data: build a data set, show its contents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.commands.flags import Settings, for_reading, takes
from orchestrator.commands.paths import path_of
from orchestrator.commands.tools import Json, print_json
from orchestrator.settings.options import READING, SEARCH

if TYPE_CHECKING:
    from workers.data.columns import Columns
    from workers.data.sources import Source

data_app = typer.Typer(help="Build data sets, and show what is in them.", no_args_is_help=True)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
PixelRule = Literal["stock", "composited"]
SourceName = Literal[
    "folder",
    "coco",
    "karpathy",
    "flickr30k",
    "coco-cn",
    "flickr30k-cna",
    "parquet",
    "webdataset",
    "imagefolder",
    "cola",
]


MAX_LISTED = 20
_FOLDER = ("--images", "--captions")
_COLUMNS = ("--image-column", "--caption-column", "--label-column", "--group-column", "--split-column")
_OPTIONS_OF: dict[str, tuple[str, ...]] = {
    "folder": (*_FOLDER, "--class-names", *_COLUMNS),
    "parquet": ("--files", "--class-names", *_COLUMNS),
    "webdataset": ("--files", "--class-names"),
    "imagefolder": ("--images", "--class-names"),
    **dict.fromkeys(("coco", "karpathy", "flickr30k", "coco-cn", "flickr30k-cna", "cola"), _FOLDER),
}
"""Options that tell each source what to read."""


COLUMNS = {name: option for name, option in READING.items() if name.endswith("_column")}
CLASS_NAMES = {"class_names": READING["class_names"]}


@data_app.command()
@takes({**CLASS_NAMES, **COLUMNS})
def build(
    out: Annotated[Path, typer.Option(parser=path_of, help="Parquet file to write.")],
    settings: Settings,
    source: Annotated[SourceName, typer.Option("--from", help="Layout of what you have.")] = "folder",
    images: Annotated[Path | None, typer.Option(parser=path_of, help="Folder of images.")] = None,
    captions: Annotated[
        list[Path] | None,
        typer.Option(
            parser=path_of,
            help="File of captions or labels; for coco-cn and flickr30k-cna, the folder of captions.",
        ),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(help="For parquet and webdataset: files, globs, folders; hf://, s3:// and gs:// addresses."),
    ] = None,
    splits: Annotated[
        str | None, typer.Option(help="Which splits become which: search=train+restval,confirm=val,test=test.")
    ] = None,
    on_bad_row: Annotated[Literal["fail", "skip"], typer.Option(help="What a bad row does.")] = "fail",
    duplicates: Annotated[
        Literal["fail", "drop", "move", "keep"],
        typer.Option(help="An image in several splits: refuse; leave it in the last one; move all to the first; keep."),
    ] = "fail",
    pixels: Annotated[
        PixelRule, typer.Option(metavar="stock|composited", help="How images become RGB to be compared across splits.")
    ] = "stock",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a Parquet data set from what you have on disk. Run again, an interrupted build continues."""
    from headmask.border.kinds import DATA_SET
    from headmask.border.shown import counted
    from headmask.border.writing import check_output
    from headmask.errors import ConfigError
    from orchestrator.screen.terminal import Terminal
    from orchestrator.screen.waiting import counting
    from workers.data.build import build as build_dataset
    from workers.data.columns import Columns
    from workers.data.splits import SplitMap

    columns = Columns(**{name.removesuffix("_column"): settings.get(name) for name in COLUMNS})
    names = Path(settings["class_names"]) if "class_names" in settings else None
    inputs = [images, *(captions or []), names]
    check_output(out, DATA_SET, inputs=inputs, overwrite=overwrite)
    opened = _source(source, images, captions or [], files or [], columns, names)
    if names is not None and not opened.kind.class_names:
        raise ConfigError(f"--class-names is for labels, and these images are for {opened.kind.task} by their captions")
    console = Terminal(stderr=as_json)
    with counting(console, "images") as on_progress:
        report = build_dataset(
            opened,
            out,
            splits=None if splits is None else SplitMap.parse(splits),
            on_bad_row=on_bad_row,
            duplicates=duplicates,
            pixels=pixels,
            overwrite=overwrite,
            inputs=inputs,
            on_progress=on_progress,
        )
    if as_json:
        rows = [str(row) for row in report.bad_rows]
        print_json({**vars(report), "path": str(report.path), "bad_rows": rows})
        return
    counts = [counted(report.num_images, "image")]
    counts += [counted(report.num_captions, "caption")] if report.num_captions else []
    lines = [f"{out}: {', '.join(counts)}"]
    lines += [", ".join(f"{name}: {count}" for name, count in sorted(report.splits.items()))] if report.splits else []
    lines += [f"{report.num_resumed} of them were there from an earlier build"] if report.num_resumed else []
    lines += [f"left out: {row}" for row in report.bad_rows[:MAX_LISTED]]
    if len(report.bad_rows) > MAX_LISTED:
        lines.append(f"and {len(report.bad_rows) - MAX_LISTED} more; --json lists them all")
    lines += list(report.duplicates)
    if report.num_unnamed:
        lines.append(f"no caption or label, left out: {counted(report.num_unnamed, 'image file')} in {images}")
    if report.ignored:
        lines.append("ignored: " + ", ".join(f"{count} {ending}" for ending, count in sorted(report.ignored.items())))
    if report.skipped:
        lines.append("left aside: " + ", ".join(counted(count, what) for what, count in sorted(report.skipped.items())))
    if report.empty_classes:
        listed = ", ".join(report.empty_classes[:MAX_LISTED]) + " ..." * (len(report.empty_classes) > MAX_LISTED)
        lines.append(f"classes without an image, which are names to choose from all the same: {listed}")
    missing = [name for name in ("search", "confirm", "test") if report.splits and name not in report.splits]
    if missing:
        lines.append(f"There is no {' and no '.join(missing)} split: a search needs --draw-splits, or --splits here.")
    for line in lines:
        console.say(line)


def _source(
    name: SourceName, images: Path | None, captions: list[Path], files: list[str], columns: Columns, names: Path | None
) -> Source:
    """Return the source that the options name.

    Raises:
        ConfigError: an option is missing, or does not belong to this source.
    """
    from headmask.errors import ConfigError
    from workers.data.sources import captions as caption_files
    from workers.data.sources.imagefolder import imagefolder
    from workers.data.sources.pairs import cola
    from workers.data.sources.parquet import ParquetSource
    from workers.data.sources.shards import ShardSource
    from workers.data.sources.tables import folder

    given = {
        "--images": images is not None,
        "--captions": bool(captions),
        "--files": bool(files),
        "--class-names": names is not None,
        **{f"--{what}-column": value is not None for what, value in vars(columns).items()},
    }
    others = [option for option, is_given in given.items() if is_given and option not in _OPTIONS_OF[name]]
    if others:
        raise ConfigError(f"--from {name} takes {', '.join(_OPTIONS_OF[name])}; got {', '.join(others)}")
    if name in ("parquet", "webdataset"):
        if not files:
            raise ConfigError(f"--from {name} needs --files: paths, globs, folders or addresses")
        return ParquetSource(files, columns, names) if name == "parquet" else ShardSource(files, names)
    if images is None or (not captions and name != "imagefolder"):
        raise ConfigError(f"--from {name} needs --images" + (" and --captions" if name != "imagefolder" else ""))
    if name == "imagefolder":
        return imagefolder(images, names)
    if name in ("folder", "cola"):
        if len(captions) > 1:
            raise ConfigError(f"--from {name} takes one --captions; got {len(captions)}")
        return folder(images, captions[0], columns, names) if name == "folder" else cola(images, captions[0])
    sources: dict[str, Any] = {
        "coco": caption_files.coco,
        "karpathy": caption_files.karpathy,
        "flickr30k": caption_files.flickr30k,
        "coco-cn": caption_files.coco_cn,
        "flickr30k-cna": caption_files.flickr30k_cna,
    }
    opened: Source = sources[name](images, captions)
    return opened


@data_app.command()
@takes({**{name: option for name, option in READING.items() if name != "templates"}, "pixels": SEARCH["pixels"]})
def show(
    file: Annotated[Path, typer.Argument(parser=path_of, help="Parquet file of a data set.")],
    settings: Settings,
    sheet: Annotated[
        Path | None,
        typer.Option(parser=path_of, help="Contact sheet of a few samples; FILE.samples.png by default."),
    ] = None,
    no_sheet: Annotated[bool, typer.Option("--no-sheet", help="Draw no contact sheet.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer tells which captions are cut; CLIP's by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a data set contains and what is wrong with it, and draw a few samples."""
    from headmask.border.kinds import PICTURE
    from headmask.border.writing import check_output
    from headmask.pixels.images import STOCK
    from orchestrator.commands.show import draw_sheet, look_at
    from orchestrator.screen.terminal import Terminal
    from orchestrator.screen.waiting import counting
    from orchestrator.settings.config import parse_data
    from workers.data.loading import check_data

    (section,) = parse_data([{"path": str(file), **for_reading(settings)}])
    reading = section.reading()
    check_data(file, reading)
    sheet = None if no_sheet else sheet or file.with_name(f"{file.stem}.samples.png")
    if sheet is not None:
        check_output(sheet, PICTURE, inputs=[file])
    console = Terminal(stderr=as_json)
    with counting(console, "images") as on_progress:
        found = look_at(file, reading, model=model, pixels=settings.get("pixels", STOCK), on_progress=on_progress)
    drawn = None if sheet is None else draw_sheet(found, sheet)
    if as_json:
        print_json({**found.as_json(), "contact_sheet": None if drawn is None else str(drawn)})
        return
    console.print(found.table())
    for line in found.sentences():
        console.say(line)
    for warning in found.warnings:
        console.say(f"warning: {warning}")
    if drawn is not None:
        console.say(f"A few samples: {drawn}")
