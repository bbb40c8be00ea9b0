"""`headmask-compare/1`: a comparison for programs, with a documented schema (`headmask schema compare` prints it)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Interval = tuple[float, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Difference(_Part):
    """Difference between a run's mask and the reference's, on one split."""

    metrics: dict[str, float] = Field(description="metric to difference, of metrics that both have")
    interval: Interval | None = Field(
        description="two-sided 95 % paired bootstrap interval of the objective's difference; null without what every "
        "query earns, and with too few independent groups of images"
    )


class SplitFigures(_Part):
    """Metrics on one split, each in [0, 1]."""

    baseline: dict[str, float] = Field(description="metric to value with nothing ablated")
    selected: dict[str, float] = Field(description="metric to value with the run's mask")
    difference: Difference | None = Field(description="to the reference; null where the two may not be compared")


class CurvePoint(_Part):
    """A point of a best-so-far curve."""

    masks: int = Field(description="scored so far")
    seconds: float = Field(description="that replicas scored so far, added up over replicas")
    value: float = Field(description="objective of the best mask so far, on the search split")


class RunFigures(_Part):
    """One of the runs."""

    letter: str = Field(description="what it is called in this comparison")
    name: str = Field(description="as it was named")
    kind: Literal["run folder", "study", "tracked run", "mask file", "scales file"]
    rank: int | None = Field(description="by the objective on confirm; null where it may not be compared there")
    model: str
    tower: str | None
    grid: str
    ablation: str | None
    objective: str | None
    heads: list[str] | None = Field(
        description="of its mask; of scales, those below one half; null for a study that has selected none yet"
    )
    scales: dict[str, float] | None = Field(default=None, description="head to scale, of a scales file; others are 1")
    layer_counts: list[int] | None = Field(description="heads of its mask by layer")
    is_reliable: bool | None = Field(description="whether it improves reliably on test, as its search said")
    interval: Interval | None = Field(description="of the objective's change on test against nothing ablated")
    p_value: float | None = Field(description="of that change, as its search said")
    p_adjusted: float | None = Field(description="the same, adjusted by Holm over the runs with the same test split")
    reference_p_value: float | None = Field(
        description="of the objective's difference on test to the reference: two-sided sign-flip permutation test"
    )
    reference_p_adjusted: float | None = Field(
        description="the same, adjusted by Holm over the runs with the same test split"
    )
    best_interval: Interval | None = Field(
        description="two-sided 95 % interval of the objective's difference on confirm to the run ranked first among "
        "those that improve reliably; null where it was not computed"
    )
    best_test_interval: Interval | None = Field(description="the same on test, where nothing is chosen")
    is_as_good: bool | None = Field(
        description="whether it is as good on confirm as that run: lower by half "
        "a standard error of the difference at most; null where that was not computed"
    )
    search: SplitFigures | None
    confirm: SplitFigures | None
    test: SplitFigures | None
    num_masks: int | None = Field(description="distinct masks scored on the search split")
    image_forwards: int | None
    seconds: float | None = Field(description="wall-clock time of the last run of its driver")
    curve: list[CurvePoint] = Field(description="where the best value grew, and the last point")
    lacks: str = Field(description="what cannot be said of it, and the way out; empty where nothing is missing")


class Recommendation(_Part):
    """The mask to ship."""

    letter: str | None = Field(description="of the run; null for none")
    heads: list[str] = Field(description="to ablate; empty for the model as it is")
    sentence: str


class Comparison(_Part):
    """Several masks side by side."""

    format: Literal["headmask-compare/1"] = "headmask-compare/1"
    objective: str | None = Field(description="of the reference")
    reference: str = Field(description="letter of the run that others are compared with")
    reference_by: Literal["named first", "best on confirm"]
    recommendation: Recommendation
    runs: list[RunFigures] = Field(description="best on confirm first; then those without a rank")
    jaccard: list[list[float | None]] = Field(
        description="heads that two masks share, over those that either has, by runs in order; 1 for two empty masks, "
        "null where heads are not the same ones"
    )
    heads: dict[str, list[str]] = Field(
        description="head to letters of the runs that ablate it, among those with the reference's weights and tower"
    )
    settings: dict[str, list[Any]] = Field(
        description="configuration that differs, by dotted key: its values by runs in order, null where not known; "
        "where results go is left out"
    )
    warnings: list[str] = Field(description="what differs in what decides a search, and what may not be compared")
