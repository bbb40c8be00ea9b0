"""From a finished search to a verdict: finalists on confirm, the selected mask and the baseline on test, once.

Of the masks whose objective on confirm is close to the best one's, selected is the smallest that is as good by the
guide; selection never sees the test split. A reliable improvement is claimed if and only if the lower end of the
two-sided 95 % interval of the test delta is above zero, a permutation test agrees, and enough clusters change
(`Evidence.improves`); otherwise the empty mask is recommended.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from headmask.border.shown import counted
from headmask.errors import StudyError
from headmask.mask import HeadMask
from orchestrator.search.scoring import score_all
from orchestrator.search.session import Session
from orchestrator.settings.objective import Goal, Objective
from orchestrator.statistics.paired import Evidence, Outcomes, evidence, paired_standard_error
from orchestrator.statistics.selection import Judged, finalists, matched_random_masks, select
from orchestrator.study.records import TrialRecord
from orchestrator.verdict.outcomes import outcomes_of
from workers.pool.protocol import Pool
from workers.scoring.messages import MaskScore, Stage

K = TypeVar("K", bound=Hashable)
DRAWS = 10_000
ERROR_DRAWS = 200
"""Draws for standard errors on confirm, which decide among masks that are nearly equal: 5 % off in two of three."""
CONFIRM = Stage("confirm", "float32", ranks=True)
TEST = Stage("test", "float32", ranks=True)


@dataclass(frozen=True)
class Finalist:
    """A mask that was re-scored on confirm."""

    mask: HeadMask
    search: TrialRecord
    confirm: MaskScore


@dataclass(frozen=True)
class Verdict:
    """The findings of a search, with their uncertainty."""

    selected: HeadMask
    baseline: HeadMask
    finalists: tuple[Finalist, ...]
    """Finalists, best on confirm first."""
    best_single: HeadMask | None
    """The best single head by the search split, if any single head was scored."""
    test: dict[HeadMask, MaskScore]
    """Test scores of the baseline and the selected mask, with ranks."""
    evidence: Evidence
    """Uncertainty of the objective's test delta."""
    guarded: tuple[tuple[Goal, Evidence], ...]
    """Every guarded goal with the uncertainty of its test delta."""
    random_values: tuple[float, ...]
    """Objective on confirm of random masks with the selected mask's number of heads in every layer."""

    @property
    def is_reliable(self) -> bool:
        """Whether a reliable improvement is claimed, and that no guarded goal loses more than it may."""
        return self.evidence.improves and all(goal.holds(evidence) for goal, evidence in self.guarded)

    @property
    def recommended(self) -> HeadMask:
        """The selected mask if it improves reliably, otherwise the empty mask."""
        return self.selected if self.is_reliable else self.baseline

    def finalist(self, mask: HeadMask) -> Finalist:
        """Return the finalist of a mask."""
        return next(finalist for finalist in self.finalists if finalist.mask == mask)


def decide(
    session: Session,
    records: Sequence[TrialRecord],
    pool: Pool,
    *,
    on_stage: Callable[[str], None] = lambda _: None,
    before_test: Callable[[HeadMask], None] = lambda _: None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Verdict:
    """Return the verdict on a search's records.

    Args:
        session: session of the search.
        records: all trials.
        pool: scores the finalists.
        on_stage: called with what is going on.
        before_test: called with the mask that the test split is about to be looked at with.
        is_stopping: asked between batches; True raises `Interrupted`.

    Raises:
        StudyError: the baseline could not be scored, so nothing can be compared.
    """
    baseline = HeadMask.empty(session.grid)
    by_mask = {record.mask: record for record in records}
    _check_baseline(by_mask.get(baseline))
    values = np.array([np.nan if record.value is None else record.value for record in records])
    chosen = finalists([record.mask for record in records], values, session.config.search.finalists)

    on_stage(f"re-scoring {counted(len(chosen), 'finalist')} on the confirm split")
    confirm = {mask: each.score for mask, each in score_all(pool, CONFIRM, chosen, is_stopping=is_stopping).items()}
    scores = [confirm[mask] for mask in chosen]
    objective, guide = (judged(session, scores, confirm[baseline], each) for each in (session.objective, session.guide))
    selected = chosen[select(chosen, objective, guide)]
    value_of = dict(zip(chosen, objective.values.tolist(), strict=True))
    ranked = sorted(chosen, key=lambda mask: (-np.nan_to_num(value_of[mask], nan=-np.inf), len(mask), mask.words))

    random_values = _random_values(session, pool, selected, confirm[baseline], on_stage, is_stopping)
    on_stage("scoring the baseline and the selected mask on the test split")
    before_test(selected)
    both = score_all(pool, TEST, sorted({baseline, selected}), is_stopping=is_stopping)
    test = {mask: each.score for mask, each in both.items()}
    improved, guarded = test_evidence(session, test, baseline, selected)
    return Verdict(
        selected=selected,
        baseline=baseline,
        finalists=tuple(Finalist(mask, by_mask[mask], confirm[mask]) for mask in ranked),
        best_single=_best_single(records),
        test=test,
        evidence=improved,
        guarded=guarded,
        random_values=random_values,
    )


def _check_baseline(record: TrialRecord | None) -> None:
    if record is None or record.value is None:
        failure = record.failure if record else "it was not scored"
        raise StudyError(f"there is no baseline to compare with: {failure}")


def judged(session: Session, confirm: Sequence[MaskScore], baseline: MaskScore, objective: Objective) -> Judged:
    """Return what scores on confirm are worth by an objective, such as the guide."""

    @cache
    def outcomes(index: int) -> list[Outcomes]:
        return improved_outcomes(session, "confirm", confirm[index], objective)

    def standard_error(index: int, best: int) -> float | None:
        sides = outcomes(best), outcomes(index)
        return paired_standard_error(*sides, combine=objective.over_draws, draws=ERROR_DRAWS)

    return Judged(np.array([_value_on(objective, score, baseline) for score in confirm]), standard_error)


def _random_values(
    session: Session,
    pool: Pool,
    selected: HeadMask,
    baseline: MaskScore,
    on_stage: Callable[[str], None],
    is_stopping: Callable[[], bool],
) -> tuple[float, ...]:
    """Return the objective on confirm of random masks with the selected mask's number of heads in every layer."""
    rng = np.random.default_rng((session.config.search.seed, 1))
    masks = matched_random_masks(selected, session.config.search.random_masks, rng, session.limits)
    if masks:
        on_stage(f"scoring {counted(len(masks), 'random mask')} of the same size on the confirm split, for context")
    results = score_all(pool, CONFIRM, masks, is_stopping=is_stopping)
    values = (_value_on(session.objective, results[mask].score, baseline) for mask in masks)
    return tuple(float(np.nan_to_num(value, nan=-np.inf)) for value in values)


def test_evidence(
    session: Session, test: Mapping[K, MaskScore], baseline: K, selected: K
) -> tuple[Evidence, tuple[tuple[Goal, Evidence], ...]]:
    """Return how sure the test deltas are: of the objective, and of every guarded goal."""
    objective = session.objective
    # A mask has one object, so `evidence` sees by identity that nothing differs.
    outcomes = {mask: _outcomes(session, "test", score, objective) for mask, score in test.items()}
    improved = {mask: _improved(objective, tables) for mask, tables in outcomes.items()}
    guarded = tuple(
        (goal, evidence(outcomes[baseline][index], outcomes[selected][index], draws=DRAWS, seed=0))
        for index, goal in enumerate(objective.goals)
        if goal.max_loss is not None
    )
    found = evidence(improved[baseline], improved[selected], combine=objective.over_draws, draws=DRAWS, seed=0)
    return found, guarded


def _value_on(objective: Objective, score: MaskScore, baseline: MaskScore) -> float:
    """Return an objective of a score, with the limits of loss against the baseline's; NaN for a failure."""
    return np.nan if score.failure else objective.value(score.metrics, baseline.metrics)


def _best_single(records: Sequence[TrialRecord]) -> HeadMask | None:
    singles = [record for record in records if len(record.mask) == 1 and record.value is not None]
    best = max(singles, key=lambda record: (record.value or 0.0, [-word for word in record.mask.words]), default=None)
    return best.mask if best else None


def improved_outcomes(session: Session, split: str, score: MaskScore, objective: Objective) -> list[Outcomes]:
    """Return the paired-statistics tables of one mask on a split, of the data sets whose objective is improved."""
    return _improved(objective, _outcomes(session, split, score, objective))


def _improved(objective: Objective, tables: Sequence[Outcomes]) -> list[Outcomes]:
    return [table for table, goal in zip(tables, objective.goals, strict=True) if goal.max_loss is None]


def _outcomes(session: Session, split_name: str, score: MaskScore, objective: Objective) -> list[Outcomes]:
    if score.ranks is None:
        raise StudyError(f"the {split_name} split could not be scored: {score.failure}")
    parts = zip(session.splits[split_name], objective.goals, score.ranks, strict=True)
    return [outcomes_of(split, ranks, goal.mix) for split, goal, ranks in parts]
