"""Optuna's side of every strategy: trials are asked for one by one and get the masks of whole blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from headmask.errors import HeadmaskError, StudyError
from headmask.mask import HeadGrid, HeadMask
from strategies.books import Books
from strategies.space import distributions, mask_of, params_of

_FINISHED = (TrialState.COMPLETE, TrialState.FAIL)


class Exhausted(HeadmaskError):
    """Every mask that the strategy could propose has been proposed."""


class BlockSampler(BaseSampler):
    """An Optuna sampler whose trials are the masks of blocks: subclasses decide which masks a block has.

    It keeps books of the study that asks it. Whatever they lack is read from the study, so a new sampler continues
    as the old one would have.
    """

    grid: HeadGrid
    _books: Books | None = None
    _block: tuple[int, list[HeadMask]] | None = None
    """The block proposed last, and its masks."""

    @abstractmethod
    def new_books(self) -> Books:
        """Return the books of a study without masks."""

    @abstractmethod
    def block_masks(self, block: int, books: Books) -> list[HeadMask]:
        """Return the masks of a block whose results are known."""

    @property
    def exhausted(self) -> bool:
        """Whether the study that asked last has every mask that this strategy can propose."""
        return self._books is not None and self._books.is_exhausted

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the search space of the grid, whatever the study holds."""
        return dict(distributions(self.grid))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the mask of a trial as its params.

        Raises:
            Exhausted: no mask is left.
            StudyError: results that the trial's block depends on are missing.
        """
        books = self._recall(study, trial.number)
        if books.is_exhausted:
            raise Exhausted(f"all {len(books)} masks that this strategy can propose have been proposed")
        block = books.blocks.of(trial.number)
        if self._block is None or self._block[0] != block:
            _learn(study, block, books)
            self._block = block, self.block_masks(block, books)
        mask = self._block[1][trial.number - books.blocks.numbers(block).start]
        books.add([mask])
        return params_of(mask)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Refuse: all parameters of a mask are sampled together.

        Raises:
            StudyError: always.
        """
        raise StudyError(
            f"{type(self).__name__} samples whole masks, parameters {next(iter(distributions(self.grid)))}, ...; "
            f"got {param_name!r}. Ask with `study.ask(dict(strategies.distributions(grid)))`"
        )

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """End `study.optimize` when no mask is left."""
        if self.exhausted and study._thread_local.in_optimize_loop:
            study.stop()

    def _recall(self, study: Study, number: int) -> Books:
        """Return books of all trials before a number, including those that this sampler did not propose."""
        if self._books is None or len(self._books) > number:
            self._books, self._block = self.new_books(), None
        books = self._books
        if len(books) < number:
            trials = study.get_trials(deepcopy=False)[len(books) : number]
            # A proposal that was refused leaves a trial without params behind, after all masks.
            books.add([mask_of(trial.params, self.grid) for trial in takewhile(lambda t: t.params, trials)])
        if len(books) < number and not books.is_exhausted:
            raise StudyError(f"trial {len(books)} holds no mask, so trials after it cannot be proposed")
        return books


def _learn(study: Study, block: int, books: Books) -> None:
    """Record the results that a block is proposed from.

    Raises:
        StudyError: some are missing.
    """
    count, known = books.blocks.num_known(block), books.num_known
    trials = study.get_trials(deepcopy=False)[known:count]
    missing = [trial.number for trial in trials if trial.state not in _FINISHED]
    if missing or known + len(trials) < count:
        raise StudyError(
            f"block {block} is proposed from the results of trials 0 to {count - 1}; tell trial "
            f"{missing[0] if missing else known + len(trials)} first"
        )
    for number, trial in enumerate(trials, known):
        books.tell(number, trial.value if trial.state is TrialState.COMPLETE else None)
