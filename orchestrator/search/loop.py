"""The search: strategy proposes, pool scores, study remembers. One screen to read, from `Search.run` on.

    config -> study (opened or resumed) -> strategy proposes masks -> pool -> replica -> scorer
          <- stored, and told to the strategy block by block <- scores
    ... until the budget is spent -> select on confirm -> report on test, once

A study is a replayable function of its fingerprint: block b is proposed from the results of earlier blocks that its
strategy names, whatever else is known. Resuming takes blocks that are stored whole as they are, proposes the last of
them again as a check, and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headmask.errors import HeadmaskError
from headmask.mask import HeadGrid, HeadMask
from orchestrator.settings.budget import Budget, StopReason, blocks_without_gain
from orchestrator.study.records import TrialRecord
from orchestrator.study.store import StudyStore
from strategies import MaskSampler
from workers.pool.queue import MaskPool, Pool, Result
from workers.scoring.messages import Stage

if TYPE_CHECKING:
    from orchestrator.search.surrogate import Surrogate
    from strategies import Gates

POLL_S = 0.5
DRAIN_S = 5.0
"""Seconds that running batches may take to finish after an interrupt."""


@dataclass
class Progress:
    """How far a search is, for displays and tracking."""

    budget: Budget
    guide: str = "value"
    """What masks are searched by, by name."""
    records: list[TrialRecord] = field(default_factory=list)
    served: int = 0
    """Masks whose results came from the storage."""
    started: float = field(default_factory=time.monotonic)
    baseline: TrialRecord | None = None
    best: TrialRecord | None = None
    num_asked: int = 0
    cost_asked: float = 0.0
    """Predicted cost of the masks sent to be scored, in plain forward passes of one input."""
    cost_done: float = 0.0
    """Of those that came back."""
    image_forwards: float = 0.0
    """Predicted cost of all masks asked for, whether they had to be sent or not, and of training: what is budgeted."""
    stopped_by: StopReason | None = None
    """Why no further block is begun, once it is known."""
    gates: Gates | None = None
    """What the strategy trains, if it does."""
    rank_correlation: float | None = None
    """Between the surrogate's predictions and exact values; None where there is none."""

    @property
    def seconds_left(self) -> float | None:
        """What the rest of the budget should take, by predicted cost and the speed so far; None before any result."""
        num_sent = self.num_asked - self.served
        if not self.cost_done or not num_sent:
            return None
        num_unasked = 0 if self.stopped_by else max(0, self.budget.masks - self.num_asked)
        cost_unasked = num_unasked * self.cost_asked / num_sent
        if self.budget.image_forwards is not None:
            cost_unasked = min(cost_unasked, max(0.0, self.budget.image_forwards - self.image_forwards))
        cost_left = max(0.0, self.cost_asked - self.cost_done) + cost_unasked
        left_s = cost_left * self.seconds / self.cost_done
        return left_s if self.budget.seconds is None else min(left_s, max(0.0, self.budget.seconds - self.seconds))

    @property
    def reason(self) -> StopReason:
        """Why a search that has ended did."""
        if self.stopped_by is None:
            raise RuntimeError("the search has not ended")
        return self.stopped_by

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be proposed or scored."""
        return self.stopped_by is not None and len(self.records) == self.num_asked

    @property
    def seconds(self) -> float:
        """Wall-clock time since the search began or was resumed."""
        return time.monotonic() - self.started

    def add(self, record: TrialRecord) -> bool:
        """Take a result; return whether it is the best so far."""
        self.records.append(record)
        if record.mask.is_empty:
            self.baseline = record
        if record.value is None or (self.best and self.best.value is not None and record.value <= self.best.value):
            return False
        self.best = record
        return True


class Interrupted(Exception):
    """The search was asked to stop; what was scored is stored."""


class Search:
    """The loop over blocks of one study.

    Args:
        sampler: the strategy.
        store: the durable study.
        pool: scores masks.
        stage: what masks are scored on.
        value: the trials' value from a mask's metrics.
        guide: its name.
        cost: predicted cost of masks that are scored together, in plain forward passes of one input; their number by
            default.
        surrogate: predicts for the strategy, and is told what it needs; None where nothing is predicted.
        forwards_per_step: what a step of training costs, where the strategy trains.
        on_progress: called after every batch of results.
        is_stopping: asked before every proposal; True ends the search early.
    """

    progress: Progress
    """How far the last run got, and why it stopped."""

    def __init__(
        self,
        sampler: MaskSampler,
        store: StudyStore,
        pool: MaskPool,
        *,
        grid: HeadGrid,
        stage: Stage,
        value: Callable[[Mapping[str, float]], float],
        guide: str = "value",
        cost: Callable[[list[HeadMask]], float] = len,
        surrogate: Surrogate | None = None,
        forwards_per_step: float = 0.0,
        on_progress: Callable[[Progress], None] = lambda _: None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sampler, self.store, self.pool, self.grid = sampler, store, pool, grid
        self.stage, self.value, self.guide, self.cost = stage, value, guide, cost
        self.surrogate, self.on_progress, self.is_stopping = surrogate, on_progress, is_stopping
        self._forwards_per_step = forwards_per_step
        self._stored = store.records(grid)
        self._proposed = {record.proposal: mask for mask, record in self._stored.items()}
        """Stored masks by the number of their proposal."""
        self._numbers: dict[HeadMask, int] = {}
        self._masks: list[HeadMask] = []
        self._values: list[float | None] = []
        """Of the first masks, as far as all before them are known; None for a failure."""
        self._told: list[TrialRecord | None] = []
        self._again: set[HeadMask] = set()
        """Masks with a result that are scored again, for what the surrogate needs of them."""
        self._exhausted = False
        self._planning_s = 0.0
        """What planning a block took last; blocks grow, so the next one may take longer."""

    def run(self, budget: Budget) -> list[TrialRecord]:
        """Score masks until the budget is spent, and return all records in order of proposal.

        Raises:
            Interrupted: it was asked to stop first; everything scored is stored.
        """
        self.progress = progress = Progress(budget, self.guide, gates=self.sampler.gates)
        try:
            while self._goes_on(progress):
                self._take(self.pool.collect(POLL_S), progress)
            self._compare(progress)
        except Interrupted:
            self._drain(progress)
            raise
        progress.records.sort(key=lambda record: record.proposal)
        self.on_progress(progress)
        return progress.records

    def _goes_on(self, progress: Progress) -> bool:
        """Propose what can be, and return whether results are to come."""
        if self.is_stopping():
            raise Interrupted
        self._propose(progress)
        return not progress.is_done or bool(self._again)

    def _propose(self, progress: Progress) -> None:
        """Ask for every block whose results are known and that the budget admits."""
        while progress.stopped_by is None:
            block = self.sampler.block_of(len(self._told))
            if len(self._values) < self.sampler.num_known(block):
                return
            progress.stopped_by = self._stop_reason(block, progress)
            if progress.stopped_by is not None:
                return
            masks = self._stored_block(block)
            if masks is None:
                if block and not self._can_predict(progress):
                    return
                masks = self._plan(block)
            progress.image_forwards += self.sampler.num_steps_before(block) * self._forwards_per_step
            stage = self.surrogate.scan_stage if self.surrogate and self.surrogate.missing else self.stage
            self._ask(masks[: progress.budget.masks - len(self._told)], stage, progress)

    def _plan(self, block: int) -> list[HeadMask]:
        """Return the masks of a block; replicas go on meanwhile with what waits."""
        self.pool.look_away(2 * self._planning_s)
        started = time.monotonic()
        masks = self.sampler.block_masks(block, self._masks, self._values)
        self._planning_s = time.monotonic() - started
        self._exhausted = self.sampler.exhausted
        return masks

    def _stored_block(self, block: int) -> list[HeadMask] | None:
        """Return the masks of a block as they were proposed before; None where they are to be proposed again.

        The last whole block is proposed again, to show that this version goes on as the one that began.
        """
        numbers = self.sampler.block_range(block)
        following = self.sampler.block_range(block + 1)
        if not all(number in self._proposed for number in (*numbers, *following)):
            return None
        return [self._proposed[number] for number in numbers]

    def _stop_reason(self, block: int, progress: Progress) -> StopReason | None:
        """Return why a block is not begun; None if it is. Of results, it knows those that the block may know."""
        if self._exhausted and len(self._told) < progress.budget.masks:
            return "exhausted"
        values = self._values[: self.sampler.num_known(block)]
        return progress.budget.spent(
            num_masks=len(self._told),
            image_forwards=progress.image_forwards,
            blocks_without_gain=blocks_without_gain(values, self.sampler.block_of),
            seconds=progress.seconds,
        )

    def _can_predict(self, progress: Progress) -> bool:
        """Return whether the surrogate has what it needs; what it misses of a stored scan is scored again."""
        if self.surrogate is None:
            return True
        missing = self.surrogate.missing
        if missing and not self._again:
            self._again = missing
            progress.cost_asked += self.cost(sorted(missing))
            self.pool.submit(self.surrogate.scan_stage, missing)
        if not missing:
            self._compare(progress)
        return not missing

    def _compare(self, progress: Progress) -> None:
        if self.surrogate is not None:
            self.surrogate.compare()
            progress.rank_correlation = self.surrogate.rank_correlation

    def _ask(self, masks: list[HeadMask], stage: Stage, progress: Progress) -> None:
        """Send masks to be scored, but for those whose results are stored."""
        missing = []
        for mask in masks:
            self._numbers[mask] = len(self._told)
            self._masks.append(mask)
            self._told.append(None)
            if (stored := self._stored.get(mask)) is not None:
                progress.served += 1
                self._tell(stored, progress)
            else:
                missing.append(mask)
        progress.num_asked = len(self._told)
        progress.image_forwards += self.cost(masks) if masks else 0.0
        progress.cost_asked += self.cost(missing) if missing else 0.0
        self.pool.submit(stage, missing)

    def _take(self, results: list[Result], progress: Progress) -> None:
        # After an interrupt, predictions that nobody waits for any more may still come.
        results = [result for result in results if not result.stage.predicted]
        for result in results:
            if self.surrogate is not None:
                self.surrogate.learn(result)
            if result.mask in self._again:
                self._again.remove(result.mask)
                self._check_scored_again(result)
                continue
            record = self._record(result)
            self.store.append(record)
            self._tell(record, progress)
        if results:
            progress.cost_done += self.cost([result.mask for result in results])
            self.on_progress(progress)

    def _check_scored_again(self, result: Result) -> None:
        if result.score.failure:
            raise HeadmaskError(
                f"the stored study has a value for mask {result.mask}, which cannot be scored any more "
                f"({result.score.failure}); resume it where it could"
            )

    def _record(self, result: Result) -> TrialRecord:
        number = self._numbers[result.mask]
        score = result.score
        return TrialRecord(
            proposal=number,
            mask=result.mask,
            value=None if score.failure else self.value(score.metrics),
            metrics=score.metrics,
            strategy=self.sampler.strategy_of(number),
            seconds=score.seconds,
            failure=score.failure,
            device=result.device,
        )

    def _tell(self, record: TrialRecord, progress: Progress) -> None:
        number = self._numbers[record.mask]
        if record.proposal != number:
            raise HeadmaskError(
                f"the stored study has {record.mask} as proposal {record.proposal}, replay proposes it as {number}: "
                "it was made by another version of headmask or of what it builds on; resume it with that version"
            )
        self._told[number] = record
        while len(self._values) < len(self._told) and (first := self._told[len(self._values)]) is not None:
            self._values.append(first.value)
        progress.add(record)
        if self.surrogate is not None:
            self.surrogate.watch(record.mask, record.value)

    def _drain(self, progress: Progress) -> None:
        """Let running batches finish for a few seconds."""
        deadline = time.monotonic() + DRAIN_S
        while len(progress.records) < len(self._told) and time.monotonic() < deadline:
            results = self.pool.collect(min(POLL_S, deadline - time.monotonic()))
            self._take(results, progress)


def score_all(
    pool: Pool,
    stage: Stage,
    masks: list[HeadMask],
    *,
    is_stopping: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[HeadMask, Result]:
    """Return the results of masks at a stage; results of other stages that come meanwhile stay in the pool.

    Args:
        pool: scores them.
        stage: on which split and how.
        masks: of which some may be there twice.
        is_stopping: asked between batches.
        on_progress: called with masks scored and in all.

    Raises:
        Interrupted: asked to stop before all were there.
    """
    wanted = set(masks)
    pool.submit(stage, sorted(wanted))
    results: dict[HeadMask, Result] = {}
    others: list[Result] = []
    try:
        while len(results) < len(wanted):
            if is_stopping():
                raise Interrupted
            collected = pool.collect(POLL_S)
            results |= {result.mask: result for result in collected if result.stage == stage}
            others += [result for result in collected if result.stage != stage]
            on_progress(len(results), len(wanted))
    finally:
        pool.put_back(others)
    return results
