"""`result.json`: a search's outcome for programs, with a documented schema (`headmask schema` prints it)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from headmask.border.kinds import RESULT, Kind
from headmask.border.libraries import versions
from headmask.border.reading import is_folder, is_there, read_model
from headmask.border.shown import shown
from headmask.errors import StudyError
from headmask.mask import Head, HeadMask
from headmask.maskfile import DataReference, Grid, MaskFile, SplitReference, SplitScores, write_json
from orchestrator.settings.budget import StopReason
from orchestrator.settings.commandline import resume_command
from orchestrator.settings.objective import Goal, Objective
from orchestrator.statistics import pareto
from orchestrator.statistics.clusters import Clusters
from orchestrator.statistics.paired import Evidence
from orchestrator.statistics.pareto import Point
from orchestrator.study.integrity import checksum
from orchestrator.study.runfolder import CONFIG
from workers.data.remarks import ImageRemarks

if TYPE_CHECKING:
    from orchestrator.search.progress import Progress
    from orchestrator.search.session import Session
    from orchestrator.search.surrogate import Surrogate
    from orchestrator.study.records import TrialRecord
    from orchestrator.verdict.decide import Verdict
    from workers.scoring.messages import MaskScore

FILE = "result.json"
RELIABLE: Literal["reliable improvement"] = "reliable improvement"
UNRELIABLE: Literal["no reliable improvement"] = "no reliable improvement"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SplitResult(_Part):
    """Metrics on one split, each in [0, 1]."""

    num_images: int
    num_captions: int = Field(description="captions; for classification, prompts")
    baseline: dict[str, float] = Field(description="metric to value with nothing ablated")
    selected: dict[str, float] = Field(description="metric to value with the selected mask")
    delta: dict[str, float] = Field(description="selected minus baseline")
    clusters: list[Clusters] = Field(
        default_factory=list, description="what is resampled together, by data set; empty in files of older versions"
    )


class TestResult(SplitResult):
    """Metrics on the test split, with their uncertainty."""

    interval: tuple[float, float] | None = Field(
        description="two-sided 95 % bootstrap interval of the objective's delta; null with too few clusters"
    )
    p_value: float | None = Field(
        description="two-sided sign-flip permutation test of the objective's delta; null with too few clusters"
    )
    num_differing: int | None = Field(
        default=None, description="clusters whose results the mask changes; null in files of older versions"
    )


class Splits(_Part):
    """The three splits. Gains on the search split are optimistic: the mask was searched there."""

    search: SplitResult
    confirm: SplitResult
    test: TestResult


class SingleHead(_Part):
    """The best single head by the search split."""

    head: str
    search: float
    confirm: float


class Guarded(_Part):
    """A data set that may lose no more than a limit, on the test split."""

    data: str
    objective: str
    max_loss: float
    delta: float
    interval: tuple[float, float] | None = Field(
        description="two-sided 95 % bootstrap interval of delta; null with too few clusters"
    )
    holds: bool = Field(
        description="whether the interval lies above minus max_loss, and enough clusters change or there are many"
    )
    num_differing: int | None = Field(
        default=None, description="clusters whose results the mask changes; null in files of older versions"
    )


class RandomMasks(_Part):
    """Context, not evidence: random masks with the selected mask's number of heads in every layer, on confirm."""

    num_masks: int
    percentile: float | None = Field(description="share of them that score below the selected mask, in percent")


class FrontPoint(_Part):
    """A mask that no other mask equals in quality and beats in size."""

    heads: list[str]
    search: float = Field(description="objective on search, at the search's precision")
    confirm: float | None = Field(description="objective on confirm, float32; null where it was not re-scored there")
    flops_saved: float | None = Field(
        description="share of the tower's multiply-adds that pruning the heads spares; null where they cannot be pruned"
    )


class Size(_Part):
    """Quality against size, among the masks that were scored. Search-split values are optimistic."""

    front: list[FrontPoint] = Field(description="best masks with few heads: from the baseline to the best mask")
    knee: list[str] | None = Field(
        description="heads of the point of front furthest above the line between its ends; null where none lies above"
    )
    savings: list[FrontPoint] = Field(description="best masks with many heads: from the best mask to the largest")
    flops_saved: float | None = Field(description="of the selected mask")


class Prospects(_Part):
    """What further search could bring on the search split, and how large noise is there."""

    best: list[str] = Field(description="heads of the best mask on search that ablates any")
    delta: float = Field(description="its objective minus the baseline's on search, both in float32")
    standard_error: float | None = Field(
        description="of delta: paired bootstrap of images with all their captions; null with too few clusters"
    )
    growth: list[float] = Field(
        description="growth of the best value in the last doubling of the masks after the scan, and in the one before; "
        "empty with less than four blocks of them"
    )
    num_more: int = Field(description="as many masks again as were scored, or as many as are left")
    expected: float | None = Field(
        description="growth of the best value to be expected of num_more masks; null where growth is empty"
    )

    @property
    def noise(self) -> float | None:
        """The size that differences on the search split must exceed to mean anything: 1.96 standard errors of delta."""
        return None if self.standard_error is None else 1.96 * self.standard_error


class SurrogateResult(_Part):
    """How well masks were predicted from single heads."""

    rank_correlation: float | None = Field(
        description="Spearman's, of predicted and exact search values over masks of several heads; null if undefined"
    )
    num_screened: int = Field(description="masks predicted in this run of the driver")


class ScalesResult(_Part):
    """Where training by back-propagation ended, one scale per head that may be ablated."""

    steps: int
    losses: list[float | None] = Field(description="contrastive loss or cross-entropy of every step, in nats")
    scales: dict[str, float] = Field(description="head to its scale: 1 as in the model, 0 ablated, at most 1.5")
    agreement: float | None = Field(
        description="Spearman's rank correlation of how far scales fell with the scan's changes; null if undefined"
    )


class PixelsResult(_Part):
    """How images became RGB, and remarks on them."""

    rule: Literal["stock", "composited"]
    data: dict[str, ImageRemarks] = Field(description="by name of the data set")

    @property
    def sentences(self) -> list[str]:
        """Remarks for the user; none for ordinary images."""
        return [text for name, each in self.data.items() for text in each.sentences(self.rule, name)]


class Sealed(_Part):
    """A result with a checksum of all the rest."""

    KIND: ClassVar[Kind]

    checksum: str = Field(default="", description="of all the rest; empty in files of older versions")

    @property
    def is_as_written(self) -> bool:
        """Whether the result is unchanged since it was written; results of older versions have no checksum."""
        return self.checksum in ("", self._checksum())

    def _checksum(self) -> str:
        return checksum(self.model_dump(mode="json", exclude={"checksum"}))

    def sealed(self) -> Self:
        """Return the result with its checksum."""
        return self.model_copy(update={"checksum": self._checksum()})

    def write(self, path: Path) -> None:
        """Write the result as JSON with its checksum, atomically."""
        content = self.sealed().model_dump(mode="json")
        write_json(path, {**content, "checksum": content.pop("checksum")}, self.KIND)


class SearchResult(Sealed):
    """The result of a search."""

    KIND = RESULT

    @model_validator(mode="before")
    @classmethod
    def _without_gates(cls, content: Any) -> Any:
        """Leave out what results of 0.1 say of gates; and their checksum, which covers that, if it is right."""
        if not isinstance(content, dict) or "gates" not in content:
            return content
        covered = {key: value for key, value in content.items() if key != "checksum"}
        left = {"gates", "checksum"} if content.get("checksum") == checksum(covered) else {"gates"}
        return {key: value for key, value in content.items() if key not in left}

    format: Literal["headmask-result/1"] = "headmask-result/1"
    verdict: Literal["reliable improvement", "no reliable improvement"]
    objective: str
    guide: str = Field(description="what masks were searched by; the objective decides on confirm")
    selected: list[str] = Field(description="heads of the smallest mask that is as good as the best one on confirm")
    recommended: list[str] = Field(
        description="heads of mask.json: the selected ones, or none without a reliable improvement"
    )
    splits: Splits
    best_single: SingleHead | None
    random_masks: RandomMasks
    size: Size
    prospects: Prospects | None = Field(description="null where no mask but the baseline could be scored")
    guarded: list[Guarded] = Field(description="data sets on which little may be lost")
    surrogate: SurrogateResult | None = Field(description="null for a search without")
    scales: ScalesResult | None = Field(default=None, description="null for a search that trained none")
    num_masks: int = Field(description="distinct masks scored on the search split")
    num_failed: int
    stopped_by: StopReason = Field(description="what ended the search: a budget, or that no mask was left")
    image_forwards: int = Field(
        description="plain forward passes of one image (or text) that the masks are predicted to take"
    )
    seconds: float = Field(description="wall-clock time over all runs of the driver, from when replicas are up")
    study: str
    storage: str
    fingerprint: str = Field(description="digest of searched")
    searched: dict[str, Any] = Field(
        default_factory=dict, description="all that decides the study; the budget does not"
    )
    test_looks: int = Field(description="with how many masks this test split was looked at, as far as is known here")
    pixels: PixelsResult | None = Field(default=None, description="null in results of before there was a choice")
    mlflow_run_id: str | None
    mask_file: str
    versions: dict[str, str] = Field(description="that the study was made with, in order where there was more than one")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        for name, split in self.splits:
            for side in (split.baseline, split.selected, split.delta):
                if self.objective not in side:
                    raise ValueError(f"splits.{name} has no {self.objective}, which is the objective")
        for head in (*self.selected, *self.recommended):
            Head.parse(head)
        Objective.parse(self.objective)
        return self


def split_results(session: Session, verdict: Verdict) -> Splits:
    """Return the three splits' metrics of the baseline and the selected mask."""
    before, after = verdict.finalist(verdict.baseline), verdict.finalist(verdict.selected)
    both = (verdict.test[mask].metrics for mask in (verdict.baseline, verdict.selected))
    test = split_figures(session, "test", *both)
    return Splits(
        search=SplitResult(**split_figures(session, "search", before.search.metrics, after.search.metrics)),
        confirm=SplitResult(**split_figures(session, "confirm", before.confirm.metrics, after.confirm.metrics)),
        test=TestResult(
            **test,
            interval=verdict.evidence.interval,
            p_value=verdict.evidence.p_value,
            num_differing=verdict.evidence.num_differing,
        ),
    )


def split_figures(
    session: Session, name: str, baseline: dict[str, float], selected: dict[str, float]
) -> dict[str, Any]:
    """Return the fields of a split's result, from the metrics of the baseline and of what was selected."""
    parts = session.splits[name]
    baseline, selected = map(session.objective.named, (baseline, selected))
    return {
        "num_images": sum(len(split.pixels) for split in parts),
        "num_captions": sum(len(split.texts) for split in parts),
        "baseline": baseline,
        "selected": selected,
        "delta": {metric: selected[metric] - baseline[metric] for metric in baseline},
        "clusters": [
            Clusters.of(goal.data, split.clusters_N) for goal, split in zip(session.objective.goals, parts, strict=True)
        ],
    }


def best_single(session: Session, verdict: Verdict) -> SingleHead | None:
    """Return the best single head's scores."""
    if verdict.best_single is None:
        return None
    finalist = verdict.finalist(verdict.best_single)
    return SingleHead(
        head=str(verdict.best_single),
        search=session.objective.gain(finalist.search.metrics),
        confirm=session.objective.gain(finalist.confirm.metrics),
    )


def guarded(
    goals: Iterable[tuple[Goal, Evidence]], before: Mapping[str, float], after: Mapping[str, float]
) -> list[Guarded]:
    """Return the results of the data sets with a limit of loss, from the test metrics of both sides."""
    return [
        Guarded(
            data=goal.data,
            objective=str(goal.mix),
            max_loss=goal.max_loss or 0.0,
            delta=goal.value(after) - goal.value(before),
            interval=evidence.interval,
            holds=goal.holds(evidence),
            num_differing=evidence.num_differing,
        )
        for goal, evidence in goals
    ]


def surrogate_result(surrogate: Surrogate | None) -> SurrogateResult | None:
    """Return how well masks were predicted."""
    if surrogate is None:
        return None
    return SurrogateResult(rank_correlation=surrogate.rank_correlation, num_screened=surrogate.num_screened)


def scales_result(session: Session, searched: Progress) -> ScalesResult | None:
    """Return the final scales of a search, and how well they agree with its scan; None if it trained none."""
    if searched.scales is None or not searched.scales.step:
        return None
    from scipy.stats import spearmanr  # The import takes a second, which readers of results are spared.

    heads = session.limits.free_heads(session.grid)
    scales = dict(zip(heads, searched.scales.averaged(searched.scales.step).tolist(), strict=True))
    values = {
        record.mask.heads[0]: record.value
        for record in searched.records
        if len(record.mask) == 1 and record.value is not None
    }
    sides = [-scales[head] for head in values], list(values.values())
    is_defined = all(len(set(side)) > 1 for side in sides)
    return ScalesResult(
        steps=searched.scales.step,
        losses=[loss if math.isfinite(loss) else None for loss in searched.scales.losses],
        scales={str(head): scale for head, scale in scales.items()},
        agreement=float(spearmanr(*sides).statistic) if is_defined else None,
    )


def random_masks(session: Session, verdict: Verdict) -> RandomMasks:
    """Return where the selected mask stands among random ones."""
    values = verdict.random_values
    confirm = [verdict.finalist(mask).confirm.metrics for mask in (verdict.selected, verdict.baseline)]
    own = session.objective.value(*confirm)
    share = 100 * sum(value < own for value in values) / len(values) if values else None
    return RandomMasks(num_masks=len(values), percentile=share)


def size(session: Session, verdict: Verdict, records: Sequence[TrialRecord]) -> Size:
    """Return the quality of masks by size."""
    values = session.gains(records)
    confirm = {each.mask: each.confirm.metrics for each in verdict.finalists if each.confirm.metrics}

    def described(point: Point) -> FrontPoint:
        return FrontPoint(
            heads=list(map(str, point.mask.heads)),
            search=point.value,
            confirm=session.objective.gain(confirm[point.mask]) if point.mask in confirm else None,
            flops_saved=session.pruned_share(point.mask),
        )

    front, top = pareto.front(values), pareto.knee(pareto.front(values))
    return Size(
        front=list(map(described, front)),
        knee=None if top is None else list(map(str, top.mask.heads)),
        savings=list(map(described, pareto.savings(values))),
        flops_saved=session.pruned_share(verdict.selected),
    )


def mask_file(
    session: Session,
    mask: HeadMask,
    verdict: Verdict,
    *,
    study: str,
    run_id: str | None,
    scales: ScalesResult | None = None,
) -> MaskFile:
    """Return the mask file of the selected or the empty mask, with its scores."""
    finalist, baseline = verdict.finalist(mask), verdict.finalist(verdict.baseline)
    pairs: dict[str, tuple[MaskScore | Any, MaskScore | Any]] = {
        "search": (baseline.search, finalist.search),
        "confirm": (baseline.confirm, finalist.confirm),
        "test": (verdict.test[verdict.baseline], verdict.test[mask]),
    }
    found = verdict.evidence
    # Nothing is ablated without a verdict, which is no estimate.
    interval, p_value = (found.interval, found.p_value) if mask == verdict.selected else ((0.0, 0.0), 1.0)
    means_LHd = session.constants.means_LHd if session.constants else None
    return MaskFile(
        model=session.model.reference,
        tower=session.config.search.tower,
        grid=Grid(layers=session.grid.layers, heads=session.grid.heads),
        ablation=session.config.search.ablation,
        heads=tuple(map(str, mask.heads)),
        means=None if means_LHd is None else {str(head): means_LHd[head].tolist() for head in mask.heads},
        pixels=session.config.search.pixels,
        objective=str(session.objective),
        scores={
            name: SplitScores(
                baseline=session.objective.named(before.metrics),
                selected=session.objective.named(after.metrics),
                interval=interval if name == "test" else None,
                p_value=p_value if name == "test" else None,
            )
            for name, (before, after) in pairs.items()
        },
        verdict=RELIABLE if verdict.is_reliable else UNRELIABLE,
        data=tuple(data_reference(session, index) for index in range(len(session.objective.goals))),
        study=study,
        run=run_id,
        scales=None if scales is None else {str(head): scales.scales[str(head)] for head in mask.heads},
        versions=versions(),
    )


def data_reference(session: Session, index: int) -> DataReference:
    """Return the mask file's reference to one data set."""
    splits = {name: parts[index] for name, parts in session.splits.items()}
    return DataReference(
        name=session.objective.goals[index].data,
        splits={
            name: SplitReference(digest=split.digest, num_images=len(split.pixels), num_captions=len(split.texts))
            for name, split in splits.items()
        },
    )


R = TypeVar("R", bound=SearchResult)


def read_result(folder: Path, kind: type[R]) -> R:
    """Return the result of a finished search from its run folder.

    Args:
        folder: the run folder.
        kind: `SearchResult`, or a subclass.

    Raises:
        StudyError: there is none, or it was changed after it was written.
    """
    path = folder / FILE
    if not is_folder(folder):
        raise StudyError(f"there is no run folder at {shown(folder)}")
    if not is_there(path):
        raise StudyError(
            f"{shown(folder)} has no {FILE}: its search has not ended; `{resume_command(folder)}` ends it"
            if is_there(folder / CONFIG)
            else f"{shown(folder)} is not a run folder: it has no {FILE}, and no {CONFIG} of a search that goes on"
        )
    try:
        result = read_model(path, kind, "result of a search", StudyError)
    except StudyError as error:
        raise StudyError(f"{error}\n{_written_again(folder)}") from None
    if not result.is_as_written:
        raise StudyError(f"{shown(path)} is not what headmask wrote. {_written_again(folder)}")
    return result


def _written_again(folder: Path) -> str:
    return f"Bring the file back from a copy, or write it again from the study with `{resume_command(folder)}`"
