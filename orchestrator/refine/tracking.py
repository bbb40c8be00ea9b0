"""What a refinement tracks in MLflow: a child of its search's run, or a run of its own without a search."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from headmask.border.shown import counted
from headmask.errors import HeadmaskError
from orchestrator.refine.content import RefineResult
from orchestrator.refine.terminal import sentences
from orchestrator.search.session import Session
from orchestrator.settings.commandline import command_line
from orchestrator.settings.location import redacted
from orchestrator.settings.trackinguri import tracked_at
from orchestrator.track.operations import Artifact, Begin, Child, Metrics, Operation, Params, Status, Tags
from orchestrator.track.searchrun import params_of_run, tags_of_run
from orchestrator.track.spool import NAME, Spool
from orchestrator.track.tracker import sync

ARTIFACTS = ("scales.json", "candidate-scales.json", "refine.json", "refined.png", "refine.html")
"""Files of a refinement that are tracked, if they exist."""


def track_refinement(session: Session, result: RefineResult, run: Path | None, say: Callable[[str], None]) -> None:
    """Track a refinement; what a server does not take now waits in the folder for `headmask track sync`.

    Args:
        session: the session of the refinement.
        result: its result.
        run: run folder of the search that was refined, if there is one.
        say: told where it is tracked, or why it is not.
    """
    out = session.config.folder
    folder = out if run is None else run
    if run is not None and not (run / NAME).is_file():
        say(f"There is no {NAME} in {run}, so the refinement is not tracked")
        return
    uri = tracked_at(folder, session.config.output.tracking_uri, session.config.storage)[0] if run is None else None
    # Files elsewhere are not those of the search's run.
    files = [name for name in ARTIFACTS if (out / name).is_file()] if folder.resolve() == out.resolve() else []
    try:
        with Spool(folder) as spool:
            for operation in _operations(session, result, uri):
                spool.append(operation)
            for name in files:
                spool.append(Artifact(path=name))
        say(sync(folder, uri).sentence)
    except HeadmaskError as error:
        command = command_line("headmask", "track", "sync", folder)
        say(f"The refinement is not tracked yet: {error}. Do it later with: {command}")


def _operations(session: Session, result: RefineResult, uri: str | None) -> Iterator[Begin | Operation]:
    metrics, key = dict(_metrics(result)), _key(result)
    tags = {
        "headmask.kind": "refinement",
        "headmask.verdict": result.verdict,
        "headmask.selected": result.selected_name,
        "mlflow.note.content": "\n\n".join(sentences(result)),
    }
    if result.study is None:
        yield Begin(
            key=key,
            experiment=session.config.output.experiment,
            run_name=session.config.folder.resolve().name,
            uri=None if uri is None else redacted(uri),
        )
        yield Params(params={name: str(value) for name, value in params_of_run(session).items()})
        yield Metrics(points=[(name, value, 0) for name, value in metrics.items()])
        yield Tags(tags={**tags_of_run(session), **tags})
        yield Status(status="FINISHED")
    else:
        name = f"refined: {counted(len(result.selected), 'head')} scaled"
        yield Child(words=f"scales.{key}", name=name, metrics=metrics, tags={**tags, "headmask.study": result.study})


def _key(result: RefineResult) -> str:
    """Return a key that is the same for the same refinement, done again."""
    settings = {name: result.settings[name] for name in ("model", "data", "search")}
    about = result.study, result.mask, result.keeps_mask, settings
    return hashlib.sha256(repr(about).encode()).hexdigest()[:32]


def _metrics(result: RefineResult) -> Iterator[tuple[str, float]]:
    for split, part in dict(result.splits).items():
        yield from ((f"{split}/{name}", value) for name, value in part.selected.items())
        yield f"{split}/delta.{result.objective}", part.delta[result.objective]
    test = result.splits.test
    if test.interval is not None:
        yield "test/interval_low", test.interval[0]
        yield "test/interval_high", test.interval[1]
    if test.p_value is not None:
        yield "test/p_value", test.p_value
    if result.over_mask is not None:
        yield f"test/over_mask.{result.objective}", result.over_mask.delta
    yield "num_heads", float(len(result.selected))
    yield "image_forwards", float(result.image_forwards)
