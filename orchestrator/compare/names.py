"""Names of runs for places with little room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from orchestrator.compare.content import RunFigures


def short_names(runs: Sequence[RunFigures]) -> dict[str, str]:
    """Return the names of runs by letter, without the folder that all paths share."""
    paths = [Path(run.name) for run in runs if run.kind in ("run folder", "mask file", "scales file")]
    common = Path(os.path.commonpath([path.absolute().parent for path in paths])) if paths else Path()
    return {
        run.letter: str(Path(run.name).absolute().relative_to(common))
        if run.kind in ("run folder", "mask file", "scales file")
        else run.name
        for run in runs
    }
