"""From a finished search to a verdict: finalists on confirm, the selected mask and the baseline on test, once.

Selected is the smallest mask that is as good as the best one on confirm; selection never sees the test split. A
reliable improvement is claimed if and only if the lower end of the two-sided 95 % interval of the test delta is above
zero, a permutation test agrees, and enough clusters change (`Evidence.improves`); otherwise the empty mask is
recommended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from headmask.border.shown import counted
from headmask.errors import StudyError
from headmask.mask import HeadMask
from orchestrator.search.loop import score_all
from orchestrator.search.session import Session
from orchestrator.settings.objective import Goal
from orchestrator.statistics.paired import Evidence, Outcomes, evidence, paired_standard_error
from orchestrator.statistics.selection import finalists, matched_random_masks, select
from orchestrator.study.records import TrialRecord
from orchestrator.verdict.outcomes import outcomes_of
from workers.pool.queue import Pool
from workers.scoring.messages import MaskScore, Stage

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
    objective = session.objective
    by_mask = {record.mask: record for record in records}
    baseline = HeadMask.empty(session.grid)
    if baseline not in by_mask or by_mask[baseline].value is None:
        failure = by_mask[baseline].failure if baseline in by_mask else "it was not scored"
        raise StudyError(f"there is no baseline to compare with: {failure}")
    values = np.array([np.nan if record.value is None else record.value for record in records])
    chosen = finalists([record.mask for record in records], values, session.config.search.finalists)

    on_stage(f"re-scoring {counted(len(chosen), 'finalist')} on the confirm split")
    confirm = score_all(pool, CONFIRM, chosen, is_stopping=is_stopping)
    confirm_values = [_value(session, confirm[mask].score, confirm[baseline].score) for mask in chosen]

    def standard_error(index: int, best: int) -> float | None:
        sides = [improved_outcomes(session, "confirm", confirm[chosen[place]].score) for place in (best, index)]
        return paired_standard_error(*sides, combine=objective.over_draws, draws=ERROR_DRAWS)

    selected = chosen[select(chosen, np.array(confirm_values), standard_error)]
    value_of = dict(zip(chosen, confirm_values, strict=True))
    ranked = sorted(chosen, key=lambda mask: (-np.nan_to_num(value_of[mask], nan=-np.inf), len(mask), mask.words))

    random_masks = _random_masks(session, selected)
    if random_masks:
        on_stage(
            f"scoring {counted(len(random_masks), 'random mask')} of the same size on the confirm split, for context"
        )
    random_results = score_all(pool, CONFIRM, random_masks, is_stopping=is_stopping)
    random_values = tuple(
        float(np.nan_to_num(_value(session, random_results[mask].score, confirm[baseline].score), nan=-np.inf))
        for mask in random_masks
    )

    on_stage("scoring the baseline and the selected mask on the test split")
    before_test(selected)
    test = score_all(pool, TEST, sorted({baseline, selected}), is_stopping=is_stopping)
    outcomes = {mask: _outcomes(session, "test", result.score) for mask, result in test.items()}
    before, after = outcomes[baseline], outcomes[selected]
    improved = {mask: _improved(session, tables) for mask, tables in outcomes.items()}
    guarded = [
        (goal, evidence(before[index], after[index], draws=DRAWS, seed=0))
        for index, goal in enumerate(objective.goals)
        if goal.max_loss is not None
    ]
    return Verdict(
        selected=selected,
        baseline=baseline,
        finalists=tuple(Finalist(mask, by_mask[mask], confirm[mask].score) for mask in ranked),
        best_single=_best_single(records),
        test={mask: result.score for mask, result in test.items()},
        evidence=evidence(improved[baseline], improved[selected], combine=objective.over_draws, draws=DRAWS, seed=0),
        guarded=tuple(guarded),
        random_values=random_values,
    )


def _value(session: Session, score: MaskScore, baseline: MaskScore) -> float:
    return np.nan if score.failure else session.objective.value(score.metrics, baseline.metrics)


def _random_masks(session: Session, selected: HeadMask) -> list[HeadMask]:
    rng = np.random.default_rng((session.config.search.seed, 1))
    return matched_random_masks(selected, session.config.search.random_masks, rng, session.limits)


def _best_single(records: Sequence[TrialRecord]) -> HeadMask | None:
    singles = [record for record in records if len(record.mask) == 1 and record.value is not None]
    best = max(singles, key=lambda record: (record.value or 0.0, [-word for word in record.mask.words]), default=None)
    return best.mask if best else None


def improved_outcomes(session: Session, split: str, score: MaskScore) -> list[Outcomes]:
    """Return the paired-statistics tables of one mask on a split, of the data sets whose objective is improved."""
    return _improved(session, _outcomes(session, split, score))


def _improved(session: Session, tables: Sequence[Outcomes]) -> list[Outcomes]:
    return [table for table, goal in zip(tables, session.objective.goals, strict=True) if goal.max_loss is None]


def _outcomes(session: Session, split_name: str, score: MaskScore) -> list[Outcomes]:
    if score.ranks is None:
        raise StudyError(f"the {split_name} split could not be scored: {score.failure}")
    parts = zip(session.splits[split_name], session.objective.goals, score.ranks, strict=True)
    return [outcomes_of(split, ranks, goal.mix) for split, goal, ranks in parts]
