"""`refine.json`: a refinement's outcome for programs, with a documented schema (`headmask schema refine` prints it)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from headmask.border.kinds import REFINEMENT
from headmask.border.libraries import versions
from headmask.border.reading import is_there, read_model
from headmask.border.shown import shown
from headmask.errors import StudyError
from headmask.maskfile import Grid, MaskFile, SplitScores
from headmask.scales import HeadScales
from headmask.scalesfile import ScalesFile
from orchestrator.outcome.results import data_reference, guarded, split_figures
from orchestrator.outcome.schema import RELIABLE, UNRELIABLE, Guarded, Sealed, SplitResult, Splits, TestResult
from orchestrator.refine.choosing import Choice
from orchestrator.refine.training import HeldOut, Trained
from orchestrator.search.session import Session
from workers.scoring.messages import MaskScore

FILE = "refine.json"
"""The file of a refinement's result; `scales.json` beside it has the recommended scales."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HeldOutResult(_Part):
    """What a way of training is worth on held-out parts of the search split."""

    start: Literal["model", "mask"] = Field(description="where training began")
    pull: float = Field(description="weight of the pull toward 1, in nats")
    values: dict[int, float | None] = Field(
        description="the guide by number of steps; null where it could not be scored"
    )
    steps: int = Field(description="the number with the best value")


class CandidateResult(_Part):
    """Scales that were compared on confirm."""

    name: str
    departure: float = Field(description="sum over heads of |scale - 1|; of a mask, its number of heads")
    num_changed: int = Field(description="heads whose scale is not 1")
    confirm: float | None = Field(description="objective on confirm; null where it could not be scored")


class OverMask(_Part):
    """The selected scales against the mask that was refined, on test."""

    delta: float = Field(description="the objective with the scales minus that with the mask")
    interval: tuple[float, float] | None = Field(
        description="two-sided 95 % bootstrap interval of delta; null with too few clusters"
    )
    p_value: float | None = Field(description="two-sided sign-flip permutation test; null with too few clusters")
    num_differing: int = Field(description="clusters with different results")
    metrics: dict[str, float] = Field(description="metrics of the mask on test")


class RefineResult(Sealed):
    """The result of a refinement."""

    KIND = REFINEMENT

    format: Literal["headmask-refine/1"] = "headmask-refine/1"
    verdict: Literal["reliable improvement", "no reliable improvement"]
    objective: str
    guide: str = Field(description="what held-out parts are scored by; the objective decides on confirm")
    grid: str
    mask: list[str] | None = Field(description="heads of the mask that was refined; null without one")
    keeps_mask: bool = Field(description="whether these heads stay ablated, and the others alone are scaled")
    selected: dict[str, float] = Field(description="head to scale, of the scales selected on confirm; others are 1")
    selected_name: str = Field(description="which of the candidates they are")
    recommended: dict[str, float] = Field(
        description="those of scales.json: the selected ones, or none without a reliable improvement"
    )
    splits: Splits
    over_mask: OverMask | None = Field(description="null without a mask")
    guarded: list[Guarded]
    held_out: list[HeldOutResult]
    trained: dict[str, list[float | None]] = Field(
        description="where training on the whole split began, to the loss of every step in nats"
    )
    candidates: list[CandidateResult]
    image_forwards: int = Field(description="plain forward passes of one image (or text) that all of this takes")
    seconds: float = Field(description="wall-clock time of this run, from when replicas are up")
    test_looks: int = Field(
        description="with how many masks and scales this test split was looked at, as far as is known here"
    )
    study: str | None = Field(description="the search that was refined; null without one")
    mlflow_run_id: str | None
    scales_file: str
    settings: dict[str, Any] = Field(description="model, data and settings, as config.json has them")
    versions: dict[str, str]


def refine_result(
    session: Session,
    choice: Choice,
    held_out: list[HeldOut],
    trained: list[Trained],
    **known: Any,
) -> RefineResult:
    """Return the result of a refinement.

    Args:
        session: the session of the refinement.
        choice: what was chosen.
        held_out: what ways of training were worth.
        trained: what was trained on the whole split.
        known: the other fields.
    """
    before, after = choice.test[choice.baseline].metrics, choice.test[choice.selected.scales].metrics
    return RefineResult(
        verdict=RELIABLE if choice.is_reliable else UNRELIABLE,
        objective=str(session.objective),
        guide=str(session.guide),
        grid=str(session.grid),
        mask=None if choice.mask is None else list(map(str, choice.mask.ablated.heads)),
        selected=choice.selected.scales.texts,
        selected_name=choice.selected.name,
        recommended=choice.recommended.texts,
        over_mask=_over_mask(session, choice),
        guarded=guarded(choice.guarded, before, after),
        held_out=[
            HeldOutResult(
                start=each.recipe.start,
                pull=each.recipe.pull,
                values={steps: value if math.isfinite(value) else None for steps, value in each.values.items()},
                steps=each.steps,
            )
            for each in held_out
        ],
        trained={
            each.recipe.start: [loss if math.isfinite(loss) else None for loss in each.losses] for each in trained
        },
        candidates=[
            CandidateResult(
                name=each.name,
                departure=each.scales.departure,
                num_changed=len(each.scales),
                confirm=_objective(session, choice.confirm[each.scales]),
            )
            for each in choice.candidates
        ],
        versions=versions(),
        **known,
    ).sealed()


def split_results(session: Session, choice: Choice, search: tuple[MaskScore, MaskScore]) -> Splits:
    """Return the three splits' metrics of the model and of the selected scales.

    Args:
        session: the session of the refinement.
        choice: what was chosen.
        search: scores of the two on search.
    """
    sides = choice.baseline, choice.selected.scales

    def figures(name: str, scores: tuple[MaskScore, ...]) -> dict[str, Any]:
        return split_figures(session, name, *(score.metrics for score in scores))

    return Splits(
        search=SplitResult(**figures("search", search)),
        confirm=SplitResult(**figures("confirm", tuple(choice.confirm[each] for each in sides))),
        test=TestResult(
            **figures("test", tuple(choice.test[each] for each in sides)),
            interval=choice.evidence.interval,
            p_value=choice.evidence.p_value,
            num_differing=choice.evidence.num_differing,
        ),
    )


def _over_mask(session: Session, choice: Choice) -> OverMask | None:
    if choice.mask is None or choice.over_mask is None:
        return None
    mask, selected = (
        session.objective.named(choice.test[each].metrics) for each in (choice.mask, choice.selected.scales)
    )
    name = str(session.objective)
    return OverMask(
        delta=selected[name] - mask[name],
        interval=choice.over_mask.interval,
        p_value=choice.over_mask.p_value,
        num_differing=choice.over_mask.num_differing,
        metrics=mask,
    )


def _objective(session: Session, score: MaskScore) -> float | None:
    return None if score.failure else session.objective.named(score.metrics)[str(session.objective)]


def scales_file(session: Session, scales: HeadScales, result: RefineResult, mask: MaskFile | None) -> ScalesFile:
    """Return the scales file of the selected scales, or of those that change nothing, with its scores."""
    is_selected = scales.texts == result.selected
    means_LHd = session.constants.means_LHd if session.constants else None
    test = result.splits.test
    return ScalesFile(
        model=session.model.reference,
        tower=session.config.search.tower,
        grid=Grid(layers=session.grid.layers, heads=session.grid.heads),
        ablation=session.config.search.ablation,
        heads=scales.texts,
        means=None if means_LHd is None else {str(head): means_LHd[head].tolist() for head in scales.heads},
        refined=None if mask is None else mask.heads,
        pixels=session.config.search.pixels,
        objective=result.objective,
        verdict=result.verdict,
        scores={
            name: SplitScores(
                baseline=part.baseline,
                selected=part.selected if is_selected else part.baseline,
                # Nothing is changed without a verdict, which is no estimate.
                interval=None if name != "test" else test.interval if is_selected else (0.0, 0.0),
                p_value=None if name != "test" else test.p_value if is_selected else 1.0,
            )
            for name, part in dict(result.splits).items()
        },
        data=tuple(data_reference(session, index) for index in range(len(session.objective.goals))),
        study=result.study,
        run=result.mlflow_run_id,
        versions=result.versions,
    )


def read_refinement(folder: Path) -> RefineResult:
    """Return the result of a finished refinement from its folder.

    Raises:
        StudyError: there is none, or it was changed after it was written.
    """
    path = folder / FILE
    if not is_there(path):
        raise StudyError(f"{shown(folder)} has no {FILE}: no refinement has ended there")
    result = read_model(path, RefineResult, "result of a refinement", StudyError)
    if not result.is_as_written:
        raise StudyError(f"{shown(path)} is not what headmask wrote; write it again with `headmask refine`")
    return result
