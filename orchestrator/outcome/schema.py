"""`result.json`: a search's outcome for programs, with a documented schema (`headmask schema` prints it)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from headmask.border.kinds import RESULT, Kind
from headmask.border.reading import is_folder, is_there, read_model
from headmask.border.shown import shown
from headmask.errors import StudyError
from headmask.mask import Head
from headmask.maskfile import write_json
from orchestrator.settings.budget import StopReason
from orchestrator.settings.commandline import resume_command
from orchestrator.settings.objective import Objective
from orchestrator.statistics.clusters import Clusters
from orchestrator.study.integrity import checksum
from orchestrator.study.runfolder import CONFIG
from workers.data.remarks import ImageRemarks

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
    guide: str = Field(
        description="what masks were searched by, and what decided on confirm between masks of about the same objective"
    )
    selected: list[str] = Field(
        description="heads of the mask selected on confirm: of those close to the best one by the objective, the "
        "smallest that is as good by the guide"
    )
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
