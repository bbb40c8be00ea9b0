"""The search: the strategy proposes, the pool scores, the study remembers. Start reading at `Search.run`.

    config -> study (opened or resumed) -> strategy proposes masks -> pool -> replica -> scorer
          <- stored, and told to the strategy block by block <- scores
    ... until the budget is spent -> select on confirm -> report on test, once

A study is a replayable function of its fingerprint: block b is proposed from the results of earlier blocks that
`Blocks.num_known` names, whatever else is known. Resuming takes completely stored blocks as they are, proposes the
last of them again as a check, and continues.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from headmask.errors import HeadmaskError
from headmask.mask import HeadMask
from orchestrator.search.progress import Listener, Progress
from orchestrator.search.scoring import POLL_S, Interrupted
from orchestrator.settings.budget import Budget, StopReason
from orchestrator.study.records import TrialRecord
from orchestrator.study.store import StudyStore
from strategies import MaskSampler
from workers.pool.protocol import Pool, Result
from workers.scoring.messages import Stage

DRAIN_S = 5.0
"""Seconds that running batches may take to finish after an interrupt."""


class Search:
    """The loop over the blocks of one study.

    Args:
        strategy: proposes masks.
        store: the durable study.
        pool: scores masks.
        stage: returns the stage at which a mask is scored.
        value: returns a trial's value from its mask's metrics.
        guide: name of the value.
        cost: predicted cost of masks scored together, in plain forward passes of one input; by default, their
            number.
        forwards_per_step: cost of a training step, if the strategy trains.
        listeners: told what happens, in the order given.
        is_stopping: called before every proposal; True ends the search early.
    """

    progress: Progress
    """How far the last run got, and why it stopped."""

    def __init__(
        self,
        strategy: MaskSampler,
        store: StudyStore,
        pool: Pool,
        *,
        stage: Callable[[HeadMask], Stage],
        value: Callable[[Mapping[str, float]], float],
        guide: str = "value",
        cost: Callable[[list[HeadMask]], float] = len,
        forwards_per_step: float = 0.0,
        listeners: Sequence[Listener] = (),
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.strategy, self.store, self.pool, self.stage = strategy, store, pool, stage
        self.value, self.guide, self.cost, self.forwards_per_step = value, guide, cost, forwards_per_step
        self.listeners, self.is_stopping = listeners, is_stopping
        self._stored = store.records(strategy.grid)
        self.books = strategy.new_books({record.proposal: mask for mask, record in self._stored.items()})
        self._planning_s = 0.0
        """Seconds spent on planning the last block; blocks grow, so the next one may take longer."""

    def run(self, budget: Budget) -> list[TrialRecord]:
        """Score masks until the budget is spent, and return all records in order of proposal.

        Raises:
            Interrupted: the search was asked to stop before that; everything scored is stored.
        """
        self.progress = progress = Progress(budget, self.guide, scales=self.strategy.scales)
        try:
            while not progress.is_done:
                if self.is_stopping():
                    raise Interrupted
                for block, masks in self._propose():
                    self._submit(block, masks)
                self._tell(self._collect(POLL_S))
        except Interrupted:
            self._drain()
            raise
        progress.records.sort(key=lambda record: record.proposal)
        for listener in self.listeners:
            listener.on_end(progress)
        return progress.records

    def _propose(self) -> Iterator[tuple[int, list[HeadMask]]]:
        """Yield every block that the budget admits and whose required results are known, with its masks."""
        while self.progress.stopped_by is None and self.books.is_known_for(block := self.books.next_block):
            self.progress.stopped_by = self._stop_reason(block)
            if self.progress.stopped_by is None:
                masks = self.books.stored_block(block) or self._planned(block)
                yield block, masks[: self.progress.budget.masks - len(self.books)]

    def _submit(self, block: int, masks: list[HeadMask]) -> None:
        """Send masks to be scored, except those whose results are stored."""
        progress = self.progress
        self.books.add(masks)
        stored = [self._stored[mask] for mask in masks if mask in self._stored]
        missing = [mask for mask in masks if mask not in self._stored]
        progress.num_asked = len(self.books)
        progress.served += len(stored)
        progress.image_forwards += self.strategy.num_steps_for(block) * self.forwards_per_step
        progress.image_forwards += self.cost(masks) if masks else 0.0
        progress.cost_asked += self.cost(missing) if missing else 0.0
        for stage, wanted in _by_stage(missing, self.stage).items():
            self.pool.submit(stage, wanted)
        for record in stored:
            self._check_replay(record)
            self._know(record)

    def _collect(self, timeout_s: float) -> list[Result]:
        """Return the search's new results; after an interrupt, others may arrive that are no longer awaited."""
        if self.progress.is_done:
            return []
        results = [result for result in self.pool.collect(timeout_s) if not result.stage.predicted]
        for result in results:
            for listener in self.listeners:
                listener.on_scored(result)
        return [result for result in results if self.books.awaits(result.mask)]

    def _tell(self, results: list[Result]) -> None:
        """Store results and learn from them."""
        for result in results:
            record = self._record(result)
            self.store.append(record)
            self._know(record)
        if results:
            self.progress.cost_done += self.cost([result.mask for result in results])
            for listener in self.listeners:
                listener.on_progress(self.progress)

    # --- details ---

    def _stop_reason(self, block: int) -> StopReason | None:
        """Return why a block is not begun; None if it is. The decision uses only results that the block may know."""
        if self.books.is_exhausted and len(self.books) < self.progress.budget.masks:
            return "exhausted"
        return self.progress.budget.spent(
            num_masks=len(self.books),
            image_forwards=self.progress.image_forwards,
            blocks_without_gain=self.books.blocks_without_gain(block),
            seconds=self.progress.seconds,
        )

    def _planned(self, block: int) -> list[HeadMask]:
        """Return the masks that the strategy proposes for a block; meanwhile, replicas work on what is queued."""
        for listener in self.listeners:
            listener.on_planning(block, self.progress)
        self.pool.look_away(2 * self._planning_s)
        started = time.monotonic()
        masks = self.strategy.block_masks(block, self.books)
        self._planning_s = time.monotonic() - started
        return masks

    def _record(self, result: Result) -> TrialRecord:
        number, score = self.books.number_of(result.mask), result.score
        return TrialRecord(
            proposal=number,
            mask=result.mask,
            value=None if score.failure else self.value(score.metrics),
            metrics=score.metrics,
            strategy=self.strategy.strategy_of(number, result.mask),
            seconds=score.seconds,
            failure=score.failure,
            device=result.device,
        )

    def _know(self, record: TrialRecord) -> None:
        self.books.tell(record.proposal, record.value)
        self.progress.add(record)
        for listener in self.listeners:
            listener.on_known(record)

    def _check_replay(self, record: TrialRecord) -> None:
        """Check that a mask is proposed under its stored number.

        Raises:
            HeadmaskError: the numbers differ.
        """
        number = self.books.number_of(record.mask)
        if record.proposal != number:
            raise HeadmaskError(
                f"the stored study has {record.mask} as proposal {record.proposal}, replay proposes it as {number}: "
                "it was made by another version of headmask or of what it builds on; resume it with that version"
            )

    def _drain(self) -> None:
        """Let running batches finish for a few seconds."""
        deadline = time.monotonic() + DRAIN_S
        while len(self.progress.records) < self.progress.num_asked and time.monotonic() < deadline:
            self._tell(self._collect(min(POLL_S, deadline - time.monotonic())))


def _by_stage(masks: Sequence[HeadMask], stage: Callable[[HeadMask], Stage]) -> dict[Stage, list[HeadMask]]:
    """Return masks by the stage at which they are scored."""
    found: dict[Stage, list[HeadMask]] = {}
    for mask in masks:
        found.setdefault(stage(mask), []).append(mask)
    return found
