"""The outputs of a search, and whether they may be written: checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headmask.border.kinds import (
    JOURNAL,
    MASK_FILE,
    MODEL_FOLDER,
    PACKAGE,
    PAGE,
    PICTURE,
    QUERIES,
    RESULT,
    RUN_CONFIG,
    SPOOL,
    TRIALS,
    FolderKind,
    Kind,
    json_of,
)
from headmask.border.writing import check_outputs, check_run_folder
from headmask.maskfile import ModelReference
from orchestrator.settings.config import SearchConfig
from orchestrator.settings.location import file_of, kind_of

OLDER = "older"
"""Name of the folder in a run folder for files of an older version."""
_FILES: dict[str, Kind] = {
    "config.json": RUN_CONFIG,
    "tracking.jsonl": SPOOL,
    "trials.parquet": TRIALS,
    "queries.parquet": QUERIES,
    "heatmap.png": PICTURE,
    "pareto.png": PICTURE,
    "scales.png": PICTURE,
    "mask.json": MASK_FILE,
    "candidate.json": MASK_FILE,
    "result.json": RESULT,
    "report.html": PAGE,
}
"""Files of a run folder when the search is done."""


def check_run(config: SearchConfig) -> None:
    """Check that everything that a search is going to write may be written.

    Raises:
        OutputError: some may not; the message lists them all.
    """
    folder = config.folder
    check_run_folder(folder, is_run)
    outputs: dict[Path, Kind | FolderKind] = {folder / name: kind for name, kind in _FILES.items()}
    if (storage := file_of(config.storage)) is not None:
        outputs[storage] = kind_of(config.storage)
    if config.output.fold:
        outputs[folder / "folded"] = MODEL_FOLDER
    if config.output.register_as:
        outputs[folder / "registered"] = PACKAGE
    for name in _older(folder):
        outputs.pop(folder / name, None)
    check_outputs(outputs, inputs=inputs_of(config))


def set_aside_older(folder: Path) -> list[str]:
    """Return the names of an older version's unsigned files, which are moved into `older` in the run folder.

    Current files record that headmask made them, and nothing else is replaced.
    """
    names = _older(folder)
    for name in names:
        (folder / OLDER).mkdir(exist_ok=True)
        (folder / name).rename(folder / OLDER / name)
    return names


def _older(folder: Path) -> list[str]:
    """Return the files of an older version in a run folder: its configuration has no pixel rule, its files no mark."""
    if not RUN_CONFIG.made(folder / "config.json") or "pixels" in json_of(folder / "config.json")["search"]:
        return []
    names = [name for name, kind in _FILES.items() if (folder / name).is_file() and not kind.made(folder / name)]
    return [*names, "folded"] if (folder / "folded").is_dir() and MODEL_FOLDER.others(folder / "folded") else names


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run folder."""
    return RUN_CONFIG.made(folder / "config.json") or JOURNAL.made(folder / "study.journal")


def inputs_of(config: SearchConfig) -> Iterator[str]:
    """Yield the paths of the files that a search reads, which nothing that it writes may replace."""
    reference = ModelReference(name=config.model.name, pretrained=config.model.pretrained, weights_sha256="0" * 64)
    yield from reference.paths
    for section in config.data:
        yield from filter(None, (section.path, section.class_names, section.templates))
