"""What a search writes, and whether it may: asked before anything is loaded, not when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headmask.kinds import (
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
)
from headmask.maskfile import ModelReference
from headmask.writing import check_outputs, check_run_folder
from orchestrator.config import SearchConfig
from orchestrator.location import file_of, kind_of

_FILES: dict[str, Kind] = {
    "config.json": RUN_CONFIG,
    "tracking.jsonl": SPOOL,
    "trials.parquet": TRIALS,
    "queries.parquet": QUERIES,
    "heatmap.png": PICTURE,
    "pareto.png": PICTURE,
    "gates.png": PICTURE,
    "mask.json": MASK_FILE,
    "candidate.json": MASK_FILE,
    "result.json": RESULT,
    "report.html": PAGE,
}
"""What a run folder holds in the end."""


def check_run(config: SearchConfig) -> None:
    """Check that everything that a search is going to write may be written.

    Raises:
        OutputError: one or several may not; the message has them all.
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
    check_outputs(outputs, inputs=_inputs(config))


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run."""
    return RUN_CONFIG.made(folder / "config.json") or JOURNAL.made(folder / "study.journal")


def _inputs(config: SearchConfig) -> Iterator[str]:
    reference = ModelReference(name=config.model.name, pretrained=config.model.pretrained, weights_sha256="0" * 64)
    yield from reference.paths
    for section in config.data:
        yield from filter(None, (section.path, section.class_names, section.templates))
