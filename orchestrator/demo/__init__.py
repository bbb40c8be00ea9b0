"""The built-in model and data that `headmask demo` uses, with nothing to download."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Self

from headmask.border.kinds import Kind
from headmask.border.writing import check_outputs, written

if TYPE_CHECKING:
    from orchestrator.outcome.schema import SearchResult

STORY = (
    "The demo's model is a small CLIP that learned from 24,000 drawn scenes such as \"a small red circle left "
    "of a large blue square\". In 95 % of them the background's texture gave away the first shape, so part of "
    "the model learned to look there. On the demo's data the backgrounds are random: what those attention "
    "heads say is misleading now. The search ablates heads, scores what is left on the search split, picks a "
    "mask on the confirm split, and reports it on the test split once."
)

_EPILOGUE = (
    "In other words: of 100 captions, {before:.0f} used to find their image first among {images:,}, now {after:.0f} "
    "do, and no weight was trained. {folder}/heatmap.png shows what each head does alone; {folder}/folded is an "
    "ordinary open_clip model with the mask in its weights."
)

DEMO_CHUNK = 64
"""Images computed together in the demo."""
DEMO_CONSTANTS = {"image_chunk": DEMO_CHUNK, "precision": "float32"}
"""Settings that a search would choose by the device: with them, everyone's demo is the same to the last digit."""
_CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_DATA, _DESCRIPTIONS = "scenes.parquet", "descriptions.txt"


@dataclass(frozen=True)
class DemoPaths:
    """The demo's files, unpacked."""

    model: Path
    """A folder that `open_clip.create_model("local-dir:FOLDER")` loads."""
    data: Path
    """An image-caption Parquet file with search, confirm and test splits."""
    descriptions: Path
    """Texts of the words that the model knows, for `headmask explain --descriptions`."""

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        """Return the paths of the files in a folder, whether or not they exist."""
        return cls(folder / "model", folder / _DATA, folder / _DESCRIPTIONS)


def epilogue(result: SearchResult, folder: Path) -> str:
    """Return the demo's findings in words that need no knowledge of metrics; empty without an improvement."""
    if result.verdict != "reliable improvement":
        return ""
    test = result.splits.test
    before, after = (100 * side["t2i_r1"] for side in (test.baseline, test.selected))
    return _EPILOGUE.format(before=before, after=after, images=test.num_images, folder=folder)


def check_demo(folder: Path) -> None:
    """Check that the demo's files can be written into a folder, or are already there.

    Raises:
        OutputError: other files with these names exist, or nothing can be written there.
    """
    check_outputs({path: kind for path, (kind, _) in _contents(folder).items()})


def unpack_demo(folder: Path) -> DemoPaths:
    """Return the paths of the demo's model and data, written into a folder unless they are there.

    Raises:
        OutputError: other files with these names exist, or nothing can be written there.
    """
    for path, (kind, content) in _contents(folder).items():
        if not kind.made(path):
            with written(path, kind) as scratch:
                scratch.write_bytes(content())
    return DemoPaths.in_folder(folder)


def _contents(folder: Path) -> dict[Path, tuple[Kind, Callable[[], bytes]]]:
    """Return the kinds of the demo's files by path, with functions that make their content."""

    def asset(name: str) -> bytes:
        return files(__name__).joinpath("assets", name).read_bytes()

    contents: dict[Path, Callable[[], bytes]] = {
        folder / "model" / _CONFIG: lambda: asset(_CONFIG),
        folder / "model" / _WEIGHTS: lambda: lzma.decompress(asset(f"{_WEIGHTS}.xz")),
        folder / _DATA: lambda: asset(_DATA),
        folder / _DESCRIPTIONS: lambda: "".join(f"{text}\n" for text in scene_descriptions()).encode(),
    }

    def kind_of(content: Callable[[], bytes]) -> Kind:
        return Kind("the demo's own file", lambda path: path.read_bytes() == content())

    return {path: (kind_of(content), content) for path, content in contents.items()}


def scene_descriptions() -> list[str]:
    """Return descriptions of the parts of scenes, in the words of their captions."""
    from orchestrator.demo.scenes import COLOURS, KINDS, RELATIONS, SIZES

    shapes = [f"a {kind}" for kind in KINDS]
    coloured = [f"a {colour} {kind}" for colour in COLOURS for kind in KINDS]
    sized = [f"a {size} {kind}" for size in SIZES for kind in KINDS]
    placed = [f"a {kind} {way}" for way in (*RELATIONS, *RELATIONS.values()) for kind in KINDS]
    alone = [*(f"a {colour}" for colour in COLOURS), *(f"a {size}" for size in SIZES)]
    return [*shapes, *alone, *coloured, *sized, *placed]
