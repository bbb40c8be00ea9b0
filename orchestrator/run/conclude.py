"""The outputs of a finished search: the run folder, the tracking run, and its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headmask.apply.exporting import export
from headmask.border.libraries import versions
from headmask.mask import HeadMask
from headmask.maskfile import MaskFile
from orchestrator.outcome import results
from orchestrator.outcome.pictures import write_heat_map, write_pareto, write_scales
from orchestrator.outcome.schema import RELIABLE, UNRELIABLE, PixelsResult, Prospects, ScalesResult, SearchResult
from orchestrator.outcome.tables import CANDIDATE, write_trials
from orchestrator.report.page import FILE, write_report
from orchestrator.run.display import Display
from orchestrator.search.progress import Progress
from orchestrator.search.session import Session
from orchestrator.search.surrogate import Surrogate
from orchestrator.settings.commandline import report_command
from orchestrator.settings.config import SearchConfig
from orchestrator.settings.location import redacted
from orchestrator.study.looks import count_looks
from orchestrator.study.records import TrialRecord
from orchestrator.study.store import StudyStore
from orchestrator.track.searchrun import track_verdict
from orchestrator.track.tracker import Tracker
from orchestrator.verdict.decide import Verdict
from orchestrator.verdict.queries import write_queries


@dataclass(frozen=True)
class Outcome:
    """A finished search."""

    session: Session
    verdict: Verdict
    result: SearchResult
    is_tracked: bool = True
    """Whether MLflow has taken everything, except what waits for a server that is away."""
    is_registered: bool = True
    """Whether the model is in MLflow's registry, if that was requested and the mask is reliable."""

    @property
    def exit_code(self) -> int:
        """0, or 1 when something failed on the way."""
        return 0 if not self.result.num_failed and self.is_tracked and self.is_registered else 1


def conclude(
    session: Session,
    store: StudyStore,
    tracker: Tracker,
    searched: Progress,
    verdict: Verdict,
    prospects: Prospects | None,
    surrogate: Surrogate | None,
    display: Display,
    seconds: float,
) -> Outcome:
    """Return the result of a search, with the run folder and the tracking run written.

    Args:
        session: model and data of the search.
        store: the study, which records the selected mask.
        tracker: sends the outcome to MLflow.
        searched: the progress of the search at its end.
        verdict: the findings.
        prospects: what further search might bring, if known.
        surrogate: the surrogate, if there was one.
        display: receives messages about slow steps.
        seconds: wall-clock time of all runs of the search.
    """
    config, folder = session.config, session.config.folder
    scales = results.scales_result(session, searched)
    _write_tables(session, searched.records, verdict)
    _draw(session, searched.records, verdict, scales)
    run_id = tracker.wait_for_run()
    mask = _write_masks(session, verdict, scales, store.name, run_id)
    store.set_attr(
        "selected",
        {
            "proposal": verdict.finalist(verdict.selected).search.proposal,
            "mask": str(verdict.selected),
            "words": list(verdict.selected.words),
        },
    )
    result = _result(session, store, searched, verdict, prospects, surrogate, scales, run_id, seconds)
    if config.output.fold and verdict.is_reliable:
        _fold(session, mask, display)
    result.write(folder / "result.json")
    store.set_attr("finished", len(searched.records))
    _report(config, display)
    track_verdict(tracker, verdict, result, folder)
    return Outcome(session, verdict, result)


def _write_tables(session: Session, records: Sequence[TrialRecord], verdict: Verdict) -> None:
    """Write the trials, and what every query of the test split gains and loses."""
    folder = session.config.folder
    write_trials(records, folder / "trials.parquet")
    write_queries(session, verdict, folder / "queries.parquet")


def _draw(session: Session, records: Sequence[TrialRecord], verdict: Verdict, scales: ScalesResult | None) -> None:
    """Write the pictures: single heads, gains by size, and scales where any were trained."""
    folder, objective, gain = session.config.folder, str(session.objective), session.objective.gain
    gains = {record.mask: gain(record.metrics) for record in records if record.metrics}
    write_heat_map(records, verdict.selected, objective, folder / "heatmap.png", lambda record: gains.get(record.mask))
    confirm = {each.mask: gain(each.confirm.metrics) for each in verdict.finalists if each.confirm.metrics}
    per_head = session.pruned_share(HeadMask.from_heads(session.grid, [(0, 0)]))
    write_pareto(session.gains(records), confirm, verdict.selected, objective, folder / "pareto.png", per_head)
    if scales is not None:
        write_scales(scales.scales, scales.losses, verdict.selected, folder / "scales.png")


def _write_masks(
    session: Session, verdict: Verdict, scales: ScalesResult | None, study: str, run_id: str | None
) -> MaskFile:
    """Write the recommended mask, and the selected one where it is another; return the recommended one."""

    def written(mask: HeadMask, name: str) -> MaskFile:
        content = results.mask_file(session, mask, verdict, study=study, run_id=run_id, scales=scales)
        content.write(session.config.folder / name)
        return content

    recommended = written(verdict.recommended, "mask.json")
    if not verdict.is_reliable:
        written(verdict.selected, CANDIDATE)
    return recommended


def _result(
    session: Session,
    store: StudyStore,
    searched: Progress,
    verdict: Verdict,
    prospects: Prospects | None,
    surrogate: Surrogate | None,
    scales: ScalesResult | None,
    run_id: str | None,
    seconds: float,
) -> SearchResult:
    config, records = session.config, searched.records
    return SearchResult(
        verdict=RELIABLE if verdict.is_reliable else UNRELIABLE,
        objective=str(session.objective),
        guide=str(session.guide),
        selected=list(map(str, verdict.selected.heads)),
        recommended=list(map(str, verdict.recommended.heads)),
        splits=results.split_results(session, verdict),
        best_single=results.best_single(session, verdict),
        random_masks=results.random_masks(session, verdict),
        num_masks=len(records),
        num_failed=sum(record.failure is not None for record in records),
        size=results.size(session, verdict, records),
        prospects=prospects,
        stopped_by=searched.reason,
        image_forwards=round(searched.image_forwards),
        seconds=round(seconds, 3),
        study=store.name,
        storage=redacted(config.storage),
        fingerprint=session.digest,
        searched=session.fingerprint,
        guarded=results.guarded(
            verdict.guarded, verdict.test[verdict.baseline].metrics, verdict.test[verdict.selected].metrics
        ),
        surrogate=results.surrogate_result(surrogate),
        scales=scales,
        test_looks=count_looks(config.storage, store, session.test_digests, config.folder),
        pixels=PixelsResult(rule=config.search.pixels, data=session.remarks),
        mlflow_run_id=run_id,
        mask_file=str(config.folder / "mask.json"),
        versions=store.attr("versions") or versions(),
    ).sealed()


def _fold(session: Session, mask: MaskFile, display: Display) -> None:
    """Export the model with the mask in its weights."""
    folder = session.config.folder / "folded"
    display.say("Folding the mask into a plain checkpoint")
    proof = export(session.model, mask, folder, overwrite=True)
    display.say(
        f"{folder} loads in stock {proof.format}; its embeddings differ from the masked model's by at most "
        f"{proof.max_difference:.1e}"
    )


def _report(config: SearchConfig, display: Display) -> None:
    """Write the report; if that fails, the search still counts as done."""
    try:
        write_report(config, config.folder / FILE)
    # Whatever it is: every result is there already.
    except Exception as error:
        display.say(
            f"The report could not be written ({error or type(error).__name__}); everything else is there. "
            f"`{report_command(config.folder)}` tries again"
        )
