"""What a result says: its parts, and the mask file, from a session and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headmask.border.libraries import versions
from headmask.mask import HeadMask
from headmask.maskfile import DataReference, Grid, MaskFile, SplitReference, SplitScores
from orchestrator.outcome.schema import (
    RELIABLE,
    UNRELIABLE,
    FrontPoint,
    Guarded,
    RandomMasks,
    ScalesResult,
    SingleHead,
    Size,
    SplitResult,
    Splits,
    SurrogateResult,
    TestResult,
)
from orchestrator.settings.objective import Goal
from orchestrator.statistics import pareto
from orchestrator.statistics.clusters import Clusters
from orchestrator.statistics.paired import Evidence
from orchestrator.statistics.pareto import Point

if TYPE_CHECKING:
    from orchestrator.search.progress import Progress
    from orchestrator.search.session import Session
    from orchestrator.search.surrogate import Surrogate
    from orchestrator.study.records import TrialRecord
    from orchestrator.verdict.decide import Verdict
    from workers.scoring.messages import MaskScore


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
