"""What all strategies share: masks in blocks, none twice, the same ones for the same seed.

A strategy is an Optuna sampler, so `optuna.create_study(sampler=ScanSampler(grid))` is all it takes to use one.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from headmask.errors import HeadmaskError, StudyError
from headmask.mask import BoolArray, HeadGrid, HeadMask
from strategies.gates import Gates, Gradients
from strategies.history import History, smallest
from strategies.space import Limits, distributions, mask_of, params_of

REVISION = 3
"""Raised whenever a strategy may propose other masks from the same results: a study has the masks of one revision."""

# T trials, R candidates, F free heads, M masks

Screen = Callable[[Sequence[HeadMask]], NDArray[np.float64]]
"""Predicted values (M) of masks, NaN where there is none: a function of each mask alone."""

_RANDOM_TRIES = 8
FIRST_BLOCK, PARTS = 8, 8
"""Masks in the first blocks after the scan, or a quarter of a full block if that is more; later ones hold one part in
so many of the masks since the scan.
"""
_FINISHED = (TrialState.COMPLETE, TrialState.FAIL)


class Exhausted(HeadmaskError):
    """Every mask that the strategy could propose has been proposed."""


class MaskSampler(BaseSampler):
    """Base of all strategies: subclasses say what to propose after the scan, block by block, by `propose`.

    Masks come in blocks. Block 0 is the scan: the empty mask, then every free head alone; it depends on nothing. Block
    1 is proposed from exactly the results of block 0, and every later block b from exactly those of blocks 0 to b - 2,
    whatever else is known by then; so two blocks can be out at a time. The first blocks are small, so that a search
    soon learns from what it finds; they grow with the number of masks until they are of full size. The random state of
    a block derives from (seed, its first trial). Nothing else is remembered: a new sampler on a stored study goes on
    as the old one would have.

    Args:
        grid: of the tower.
        seed: the same seed and the same results give the same masks.
        limits: which masks may be proposed.
        block_size: most masks in a block after the scan.
        screen: predicts the values of masks at little cost; strategies that can use it do.
        gradients: of a loss by gates on the free heads; likewise.

    Raises:
        ConfigError: the limits do not fit the grid.
    """

    label = "base"
    gates: Gates | None = None
    """What is trained between blocks, by strategies that do."""

    def __init__(
        self,
        grid: HeadGrid,
        *,
        seed: int = 0,
        limits: Limits | None = None,
        block_size: int = 32,
        screen: Screen | None = None,
        gradients: Gradients | None = None,
    ) -> None:
        self.grid, self.seed, self.block_size, self.screen, self.gradients = grid, seed, block_size, screen, gradients
        self.limits = limits or Limits()
        self.limits.check(grid)
        self._scan = HeadMask.singles(grid, self.limits.free_heads(grid))
        self._num_masks = self.limits.num_masks(grid)
        self._masks: list[HeadMask] = []
        """Every mask proposed so far, by trial number."""
        self._results = _Results(len(self._scan) - 1)
        self._starts = [0, len(self._scan)]
        """The first trial of every block."""
        self._plan: tuple[int, list[HeadMask]] = (0, self._scan)
        """The block proposed last, and its masks."""

    @abstractmethod
    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return new masks for a block after the scan, as `history.new` gives them; fewer when there are no more.

        Args:
            count: of masks wanted.
            history: what may be known.
            rng: the block's own random state.
        """

    def block_of(self, number: int) -> int:
        """Return the block that a trial belongs to."""
        while self._starts[-1] <= number:
            self._add_block()
        return bisect_right(self._starts, number) - 1

    def block_range(self, block: int) -> range:
        """Return the trial numbers of a block."""
        while len(self._starts) <= block + 1:
            self._add_block()
        return range(self._starts[block], self._starts[block + 1])

    def _add_block(self) -> None:
        """Fix where the next block ends."""
        num_after_scan = self._starts[-1] - len(self._scan)
        first = max(FIRST_BLOCK, self.block_size // 4)
        self._starts.append(self._starts[-1] + min(self.block_size, max(first, num_after_scan // PARTS)))

    def num_known(self, block: int) -> int:
        """Return how many trials, from number 0 on, must have results before a block is proposed."""
        return 0 if block == 0 else self.block_range(max(0, block - 2)).stop

    def strategy_of(self, number: int) -> str:
        """Return the name of the strategy that proposes a trial."""
        return "scan" if number < len(self._scan) else self.label

    def num_steps(self, num_known: int) -> int:
        """Return how many steps of training are done when a block after the scan is proposed from so many results."""
        return 0

    def num_steps_at(self, block: int) -> int:
        """Return how many steps of training are done when a block is proposed."""
        return 0 if block == 0 else self.num_steps(self.num_known(block))

    def num_steps_before(self, block: int) -> int:
        """Return how many steps of training are done for a block, beyond those for the blocks before it."""
        return self.num_steps_at(block) - self.num_steps_at(max(0, block - 1))

    @property
    def exhausted(self) -> bool:
        """True when no mask is left to propose."""
        return len(self._masks) >= self._num_masks

    def block_masks(self, block: int, masks: Sequence[HeadMask], values: Sequence[float | None]) -> list[HeadMask]:
        """Return the masks of a block: what Optuna's trials would ask for one by one, without a study of them.

        Args:
            block: to propose.
            masks: of all blocks before it.
            values: of the first of these, as many as the block may know at least; None for a failure.
        """
        self._masks = list(masks)
        self._take(values[len(self._results) : self.num_known(block)])
        if not self.exhausted:
            self._masks += self._block(block)
        return self._masks[len(masks) :]

    # --- Optuna's side ---

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the one search space of the grid, whatever the study holds."""
        return dict(distributions(self.grid))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the mask of a trial as its params.

        Raises:
            Exhausted: no mask is left.
            StudyError: results that the trial's block depends on are missing.
        """
        self._recall(study, trial.number)
        if self.exhausted:
            raise Exhausted(f"all {len(self._masks)} masks that this strategy can propose have been proposed")
        mask = self._propose(study, trial.number)
        self._masks.append(mask)
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

    # --- proposing ---

    def _propose(self, study: Study, number: int) -> HeadMask:
        block = self.block_of(number)
        if self._plan[0] != block:
            self._plan = block, self._plan_block(study, block)
        return self._plan[1][number - self.block_range(block).start]

    def _plan_block(self, study: Study, block: int) -> list[HeadMask]:
        if block:
            self._learn(study, block)
        return self._block(block)

    def _block(self, block: int) -> list[HeadMask]:
        """Return the masks of a block whose results are learned."""
        if block == 0:
            return self._scan
        start = self.block_range(block).start
        taken = {mask.words for mask in self._masks[:start]}
        history = History(self.grid, self.limits, *self._results.first(self.num_known(block)), taken)
        rng = np.random.default_rng((self.seed, start))
        count = len(self.block_range(block))
        masks = self.propose(count, history, rng)
        return masks + self._fill(count - len(masks), history, rng)

    def _fill(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return new random masks about as large as the best ones; when those run out, the first new ones of all."""
        num_free = len(history.free_heads)
        largest = min(history.most_heads, int(history.sizes_T[history.ranked[:16]].max(initial=1)) + 2)
        sizes_R = rng.integers(1, largest + 1, size=_RANDOM_TRIES * count)
        key_RF = rng.random((len(sizes_R), num_free))
        masks = history.new(smallest(key_RF, sizes_R[:, None]), count)
        return masks + list(islice(history.enumerate_new(), count - len(masks)))

    def _recall(self, study: Study, number: int) -> None:
        """Learn the masks of earlier trials that this sampler did not propose itself."""
        if len(self._masks) > number:
            self.__dict__.update(_masks=[], _results=_Results(len(self._scan) - 1), _plan=(0, self._scan))
        if len(self._masks) < number:
            trials = study.get_trials(deepcopy=False)[len(self._masks) : number]
            # A proposal that was refused leaves a trial without params behind, after all masks.
            self._masks += [mask_of(trial.params, self.grid) for trial in takewhile(lambda t: t.params, trials)]
        if len(self._masks) < number and not self.exhausted:
            raise StudyError(f"trial {len(self._masks)} holds no mask, so trials after it cannot be proposed")

    def _learn(self, study: Study, block: int) -> None:
        """Take the results that a block is proposed from."""
        count, known = self.num_known(block), len(self._results)
        trials = study.get_trials(deepcopy=False)[known:count]
        missing = [trial.number for trial in trials if trial.state not in _FINISHED]
        if missing or known + len(trials) < count:
            raise StudyError(
                f"block {block} is proposed from the results of trials 0 to {count - 1}; tell trial "
                f"{missing[0] if missing else known + len(trials)} first"
            )
        values = [trial.value if trial.state is TrialState.COMPLETE else None for trial in trials]
        self._take(values)

    def _take(self, values: Sequence[float | None]) -> None:
        """Add the results of the masks after those that have one."""
        known = len(self._results)
        self._results.add(self.limits.bits_of(self.grid, self._masks[known : known + len(values)]), values)


class _Results:
    """The results of the first trials, as growing arrays."""

    def __init__(self, num_free: int) -> None:
        self._bits_TF = np.zeros((0, num_free), dtype=np.bool_)
        self._values_T = np.zeros(0)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, bits_TF: BoolArray, values: Sequence[float | None]) -> None:
        """Append results; None is a failure."""
        start, self._count = self._count, self._count + len(values)
        if self._count > len(self._values_T):
            room = max(self._count, 2 * len(self._values_T))
            self._bits_TF = np.resize(self._bits_TF, (room, self._bits_TF.shape[1]))
            self._values_T = np.resize(self._values_T, room)
        self._bits_TF[start : self._count] = bits_TF
        self._values_T[start : self._count] = [np.nan if value is None else value for value in values]

    def first(self, count: int) -> tuple[BoolArray, NDArray[np.float64]]:
        """Return masks and values of the first trials."""
        return self._bits_TF[:count], self._values_T[:count]
