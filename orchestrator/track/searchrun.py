"""What a search logs to MLflow: its configuration, its data, the growth of the best value, finalists, the verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headmask.border.shown import counted
from headmask.mask import HeadMask
from headmask.scales import LOW
from orchestrator.outcome.schema import SearchResult
from orchestrator.outcome.tables import sentences
from orchestrator.search.progress import Listener, Progress
from orchestrator.search.session import Session
from orchestrator.settings.config import flat_settings
from orchestrator.track.mlflowrun import SELECTED_NAME, SELECTED_TAG
from orchestrator.track.operations import (
    Artifact,
    Child,
    Deselect,
    Inputs,
    Metrics,
    Params,
    Status,
    Tags,
    TrackedSplit,
    now_ms,
)
from orchestrator.track.tracker import Tracker
from orchestrator.verdict.decide import Finalist, Verdict

ARTIFACTS = (
    "report.html",
    "result.json",
    "mask.json",
    "candidate.json",
    "config.json",
    "trials.parquet",
    "queries.parquet",
    "heatmap.png",
    "pareto.png",
    "scales.png",
)
"""Files of a run folder that are tracked, if they exist."""
DIGITS = 16
"""Digits of a split's digest: MLflow keeps at most 36, and its pages show them all."""
LONGEST_NAME = 60
"""Maximum length of a child run's name."""


def track_session(tracker: Tracker, session: Session) -> None:
    """Log what is searched: parameters, tags, data."""
    tracker.log(Params(params={key: str(value) for key, value in params_of_run(session).items()}))
    tracker.log(Tags(tags=tags_of_run(session)))
    tracker.log(Inputs(splits=list(_tracked_splits(session))))


def params_of_run(session: Session) -> dict[str, Any]:
    """Return the configuration by dotted keys without unset values, the objective, the guide and the fingerprint."""
    flat = flat_settings(session.config.public())
    return {
        **{key: value for key, value in flat.items() if value is not None},
        "objective": str(session.objective),
        "guide": str(session.guide),
        "fingerprint": session.digest,
    }


def tags_of_run(session: Session) -> dict[str, str]:
    """Return the tags by which runs are found, and a description until there is a verdict."""
    config, reference = session.config, session.model.reference
    data = ", ".join(session.config.data_sets)
    return {
        "headmask.kind": "search",
        "headmask.study": config.study_name,
        "headmask.model": reference.name,
        "headmask.pretrained": reference.pretrained or "(of the model)",
        "headmask.tower": config.search.tower,
        "headmask.ablation": config.search.ablation,
        "headmask.data": data,
        "headmask.task": ", ".join(dict.fromkeys(split.targets.task for split in session.splits["search"])),
        "headmask.objective": str(session.objective),
        "headmask.strategy": config.search.strategy,
        "headmask.fingerprint": session.digest,
        "mlflow.note.content": f"Searches the heads of the {config.search.tower} tower of `{session.model}` on {data}.",
    }


def _tracked_splits(session: Session) -> Iterator[TrackedSplit]:
    """Yield the splits of all data sets; their digests cover pixels, texts and targets."""
    for context, splits in session.splits.items():
        for (name, section), split in zip(session.config.data_sets.items(), splits, strict=True):
            profile: dict[str, int | str] = {
                "task": split.targets.task,
                "num_images": len(split.pixels),
                "num_texts": len(split.texts),
            }
            path = str(Path(section.path).resolve())
            yield TrackedSplit(name=name, digest=split.digest[:DIGITS], context=context, path=path, profile=profile)


class BestCurve(Listener):
    """The best value so far, tracked against masks and against seconds, at most every two seconds; losses, too."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._next = 0.0
        self._num_losses = 0

    def on_progress(self, progress: Progress) -> None:
        """Log a point if one is due."""
        if time.monotonic() < self._next or progress.best is None or progress.best.value is None:
            return
        self._next = time.monotonic() + 2.0
        best, masks, seconds = progress.best.value, len(progress.records), int(progress.seconds)
        points = [("best_by_masks", best, masks), ("best_by_seconds", best, seconds)]
        if progress.rank_correlation is not None:
            points.append(("surrogate_rank_correlation", progress.rank_correlation, masks))
        self._tracker.log(Metrics(points=points + self._losses(progress)))

    def finish(self, progress: Progress) -> None:
        """Log the losses that are left."""
        points = self._losses(progress)
        if points:
            self._tracker.log(Metrics(points=points))

    def _losses(self, progress: Progress) -> list[tuple[str, float, int]]:
        """Return the losses of training since the last time, and how many scales are low."""
        if progress.scales is None or progress.scales.step == self._num_losses:
            return []
        before, self._num_losses = self._num_losses, progress.scales.step
        losses = enumerate(progress.scales.losses[before:], before + 1)
        num_low = float((progress.scales.averaged(progress.scales.step) < LOW).sum())
        points = [("scale_loss", loss, step) for step, loss in losses if math.isfinite(loss)]
        return [*points, ("scales_low", num_low, self._num_losses)]


def track_verdict(tracker: Tracker, verdict: Verdict, result: SearchResult, folder: Path) -> None:
    """Log the finalists as child runs, the verdict, the end, and the files of a run folder.

    Files come last: a server that takes none, such as one without room, has all the rest.
    """
    # The selected one last, before it the best: MLflow lists the youngest run first.
    others = [finalist for finalist in reversed(verdict.finalists) if finalist.mask != verdict.selected]
    for time_ms, finalist in enumerate([*others, verdict.finalist(verdict.selected)], now_ms()):
        tracker.log(_child(finalist, result, time_ms, is_selected=finalist.mask == verdict.selected))
    tracker.log(Deselect(words=_words(verdict.selected)))
    points = [(name, value, 0) for name, value in _metrics(result)]
    if result.surrogate is not None and result.surrogate.rank_correlation is not None:
        points.append(("surrogate_rank_correlation", result.surrogate.rank_correlation, result.num_masks))
    tracker.log(Metrics(points=points))
    tags = {
        "headmask.verdict": result.verdict,
        "headmask.selected": ",".join(result.selected) or "(none)",
        "headmask.stopped_by": result.stopped_by,
        "mlflow.note.content": description(result),
    }
    tracker.log(Tags(tags=tags))
    tracker.log(Status(status="FINISHED"))
    for name in ARTIFACTS:
        if (folder / name).is_file():
            tracker.log(Artifact(path=name))


def _metrics(result: SearchResult) -> Iterator[tuple[str, float]]:
    """Yield the metrics of the selected mask, by the names that child runs have, and what the verdict rests on."""
    for split in ("search", "confirm", "test"):
        part = getattr(result.splits, split)
        # All of search and confirm is with the selected mask's own run.
        names = part.selected if split == "test" else [result.objective]
        yield from ((f"{split}/{name}", part.selected[name]) for name in names)
        yield f"{split}/delta.{result.objective}", part.delta[result.objective]
    test, prospects = result.splits.test, result.prospects
    if test.interval is not None:
        yield "test/interval_low", test.interval[0]
        yield "test/interval_high", test.interval[1]
    if test.p_value is not None:
        yield "test/p_value", test.p_value
    for split in ("search", "confirm", "test"):
        if clusters := getattr(result.splits, split).clusters:
            yield f"{split}/num_clusters", sum(each.number for each in clusters)
            yield f"{split}/largest_cluster", max(each.largest for each in clusters)
    yield "num_heads", len(result.selected)
    yield "num_masks", result.num_masks
    yield "image_forwards", result.image_forwards
    if prospects is not None:
        if prospects.noise is not None:
            yield "search/noise", prospects.noise
        if prospects.expected is not None:
            yield "search/expected", prospects.expected


def _child(finalist: Finalist, result: SearchResult, time_ms: int, *, is_selected: bool) -> Child:
    splits = (("search", finalist.search.metrics), ("confirm", finalist.confirm.metrics))
    metrics = {f"{split}/{name}": value for split, values in splits for name, value in values.items()}
    text = str(finalist.mask)
    tags = {
        "headmask.kind": "finalist",
        "headmask.study": result.study,
        "headmask.mask": text or "(empty)",
        SELECTED_TAG: str(is_selected).lower(),
    }
    name = text if len(text) <= LONGEST_NAME else f"{counted(len(finalist.mask), 'head')}, {text[: LONGEST_NAME - 12]}…"
    return Child(
        time_ms=time_ms,
        words=_words(finalist.mask),
        name=f"{SELECTED_NAME if is_selected else ''}{name or 'baseline'}",
        metrics={**metrics, "num_heads": len(finalist.mask)},
        tags=tags,
    )


def _words(mask: HeadMask) -> str:
    return ".".join(map(str, mask.words))


def description(result: SearchResult) -> str:
    """Return the outcome as Markdown, for people who look at the run."""
    first, *more = sentences(result)
    claim, _, rest = first.partition(":")
    rows = [
        f"| {split} | {part.num_images:,} | {100 * part.baseline[result.objective]:.2f} | "
        f"{100 * part.selected[result.objective]:.2f} | {100 * part.delta[result.objective]:+.2f} |"
        for split, part in ((name, getattr(result.splits, name)) for name in ("search", "confirm", "test"))
    ]
    table = [f"| {result.objective}, points | images | baseline | selected | change |", "|---|--:|--:|--:|--:|", *rows]
    # The last one names files of the machine that searched.
    listed = [f"- {sentence}" for sentence in more[:-1]]
    heads = f"Fold the heads of `mask.json` away: `headmask export --mask mask.json --out {result.study}.safetensors`"
    return "\n".join([f"**{claim}**:{rest}", "", *table, "", *listed, "", *([heads] if result.recommended else [])])
