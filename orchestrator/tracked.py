"""What a search logs to MLflow: its configuration, how the best value grew, its finalists, its verdict."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.config import flat_settings
from orchestrator.result import SearchResult
from orchestrator.search import Progress
from orchestrator.session import Session
from orchestrator.tracking import MlflowRun, Tracker
from orchestrator.verdict import Finalist, Verdict

SURE = 0.1
"""Largest probability of being the other way at which a gate counts as surely open or shut."""
ARTIFACTS = (
    "trials.parquet", "queries.parquet", "heatmap.png", "pareto.png", "mask.json", "result.json", "config.json",
)  # fmt: skip
SOMETIMES = ("gates.png", "report.html")
"""Files of a run folder that a search can do without."""


def params_of_run(session: Session) -> dict[str, Any]:
    """Return the configuration, flat, what is maximised and searched by, and the fingerprint."""
    return {
        **flat_settings(session.config.public()),
        "objective": str(session.objective),
        "guide": str(session.guide),
        "fingerprint": session.digest,
    }


def tags_of_run(session: Session) -> dict[str, str]:
    """Return what runs are found by."""
    return {
        "headmask.study": session.config.study_name,
        "headmask.model": str(session.model),
        "headmask.data": ", ".join(section.path for section in session.config.data),
        "headmask.strategy": session.config.search.strategy,
        "headmask.fingerprint": session.digest,
    }


class BestCurve:
    """The best value so far, tracked against masks and against seconds, at most every two seconds; losses, too."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._next = 0.0
        self._num_losses = 0

    def update(self, progress: Progress) -> None:
        """Log a point if one is due."""
        if time.monotonic() < self._next or progress.best is None or progress.best.value is None:
            return
        self._next = time.monotonic() + 2.0
        best, masks, seconds = progress.best.value, len(progress.records), int(progress.seconds)
        points = [("best_by_masks", best, masks), ("best_by_seconds", best, seconds)]
        if progress.rank_correlation is not None:
            points.append(("surrogate_rank_correlation", progress.rank_correlation, masks))
        points += self._losses(progress)
        self._tracker.log(lambda run: run.metrics(points))

    def finish(self, progress: Progress) -> None:
        """Log the losses that are left."""
        points = self._losses(progress)
        if points:
            self._tracker.log(lambda run: run.metrics(points))

    def _losses(self, progress: Progress) -> list[tuple[str, float, int]]:
        """Return the losses of training since the last time, and how many gates are surely open or shut."""
        if progress.gates is None or progress.gates.step == self._num_losses:
            return []
        before, self._num_losses = self._num_losses, progress.gates.step
        losses = enumerate(progress.gates.losses[before:], before + 1)
        shut_F = progress.gates.shut_F
        sure = float(((shut_F < SURE) | (shut_F > 1 - SURE)).mean())
        points = [("gate_loss", loss, step) for step, loss in losses if math.isfinite(loss)]
        return [*points, ("gates_shut", float(shut_F.sum()), self._num_losses), ("gates_sure", sure, self._num_losses)]


def track_verdict(tracker: Tracker, verdict: Verdict, result: SearchResult, folder: Path) -> None:
    """Log the finalists as child runs, the verdict and the files of a run folder, and end the run."""

    def conclude(run: MlflowRun) -> None:
        test = result.splits.test
        run.metrics(
            [
                (f"{split}.delta.{result.objective}", getattr(result.splits, split).delta[result.objective], 0)
                for split in ("search", "confirm", "test")
            ]
            + [
                ("test.interval_low", test.interval[0], 0),
                ("test.interval_high", test.interval[1], 0),
                ("test.p_value", test.p_value, 0),
                ("num_masks", result.num_masks, 0),
                ("image_forwards", result.image_forwards, 0),
            ]
            + [(f"search.{name}", value, 0) for name, value in _prospects(result).items()]
            + _surrogate(result)
        )
        run.tags(
            {
                "headmask.verdict": result.verdict,
                "headmask.selected": ",".join(result.selected) or "(none)",
                "headmask.stopped_by": result.stopped_by,
            }
        )
        for name in (*ARTIFACTS, *(name for name in SOMETIMES if (folder / name).is_file())):
            run.artifact(folder / name)
        run.end("FINISHED")

    for finalist in verdict.finalists:
        tracker.log(partial(_track_finalist, finalist, finalist.mask == verdict.selected))
    tracker.log(conclude)


def _prospects(result: SearchResult) -> dict[str, float]:
    """Return the noise of the search split and what more masks would bring there, as far as known."""
    found = result.prospects
    values = {} if found is None else {"noise": found.noise, "expected": found.expected}
    return {name: value for name, value in values.items() if value is not None}


def _surrogate(result: SearchResult) -> list[tuple[str, float, int]]:
    if result.surrogate is None or result.surrogate.rank_correlation is None:
        return []
    return [("surrogate_rank_correlation", result.surrogate.rank_correlation, result.num_masks)]


def _track_finalist(finalist: Finalist, is_selected: bool, run: MlflowRun) -> None:
    metrics = {
        f"{split}.{metric}": value
        for split, values in (("search", finalist.search.metrics), ("confirm", finalist.confirm.metrics))
        for metric, value in values.items()
    }
    text = str(finalist.mask)
    tags = {"headmask.mask": text or "(empty)", "headmask.is_selected": str(is_selected).lower()}
    run.child(text[:200] or "baseline", ".".join(map(str, finalist.mask.words)), metrics, tags)
