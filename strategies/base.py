"""What all strategies share: masks in blocks, none twice, the same ones for the same seed.

A strategy is an Optuna sampler, so `optuna.create_study(sampler=ScanSampler(grid))` is all it takes to use one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from headmask.errors import HeadmaskError, StudyError
from headmask.mask import HeadGrid, HeadMask
from strategies.history import History
from strategies.space import Limits, distributions, mask_of, params_of

_RANDOM_TRIES = 40
_FINISHED = (TrialState.COMPLETE, TrialState.FAIL)


class Exhausted(HeadmaskError):
    """Every mask that the strategy could propose has been proposed."""


class MaskSampler(BaseSampler):
    """Base of all strategies: subclasses say what to propose after the scan, by `propose`.

    Masks come in blocks. Block 0 is the scan: the empty mask, then every free head alone; it depends on nothing. Block
    1 is proposed from exactly the results of block 0, and every later block b from exactly those of blocks 0 to b - 2,
    whatever else is known by then; so two blocks can be out at a time. The random state of trial n derives from
    (seed, n). Nothing else is remembered: a new sampler on a stored study goes on as the old one would have.

    Args:
        grid: of the tower.
        seed: the same seed and the same results give the same masks.
        limits: which masks may be proposed.
        block_size: masks in a block after the scan.

    Raises:
        ConfigError: the limits do not fit the grid.
    """

    label = "base"

    def __init__(self, grid: HeadGrid, *, seed: int = 0, limits: Limits | None = None, block_size: int = 32) -> None:
        self.grid, self.seed, self.block_size = grid, seed, block_size
        self.limits = limits or Limits()
        self.limits.check(grid)
        self._scan = HeadMask.singles(grid, self.limits.free_heads(grid))
        self._num_masks = self.limits.num_masks(grid)
        self._masks: list[HeadMask] = []
        """Every mask proposed so far, by trial number."""
        self._taken: set[tuple[int, ...]] = set()
        self._history: tuple[int, History] | None = None

    @abstractmethod
    def propose(self, number: int, history: History, rng: np.random.Generator) -> HeadMask | None:
        """Return a new mask for a trial after the scan, or None when the strategy has none.

        Args:
            number: of the trial.
            history: what may be known.
            rng: the trial's own random state.
        """

    def block_of(self, number: int) -> int:
        """Return the block that a trial belongs to."""
        return 0 if number < len(self._scan) else 1 + (number - len(self._scan)) // self.block_size

    def block_range(self, block: int) -> range:
        """Return the trial numbers of a block."""
        if block == 0:
            return range(len(self._scan))
        start = len(self._scan) + (block - 1) * self.block_size
        return range(start, start + self.block_size)

    def num_known(self, block: int) -> int:
        """Return how many trials, from number 0 on, must have results before a block is proposed."""
        return 0 if block == 0 else self.block_range(max(0, block - 2)).stop

    def strategy_of(self, number: int) -> str:
        """Return the name of the strategy that proposes a trial."""
        return "scan" if number < len(self._scan) else self.label

    @property
    def exhausted(self) -> bool:
        """True when no mask is left to propose."""
        return len(self._masks) >= self._num_masks

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
        self._taken.add(mask.words)
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
        if number < len(self._scan):
            return self._scan[number]
        history = self._history_for(study, self.block_of(number))
        rng = np.random.default_rng((self.seed, number))
        mask = self.propose(number, history, rng)
        return mask if mask is not None and history.is_new(mask) else self._fill(history, rng)

    def _fill(self, history: History, rng: np.random.Generator) -> HeadMask:
        """Return a new random mask about as large as the best ones; when those run out, the first new one of all."""
        best = [len(history.masks[index]) for index in history.ranked[:16]]
        largest = min(history.most_heads, max(best, default=1) + 2)
        for _ in range(_RANDOM_TRIES):
            size = int(rng.integers(1, largest + 1))
            chosen = rng.choice(len(history.free_heads), size=size, replace=False)
            mask = HeadMask.from_heads(self.grid, [history.free_heads[index] for index in chosen])
            if history.is_new(mask):
                return mask
        return next(history.enumerate_new())

    def _recall(self, study: Study, number: int) -> None:
        """Learn the masks of earlier trials that this sampler did not propose itself."""
        if len(self._masks) > number:
            self.__dict__.update(_masks=[], _taken=set(), _history=None)
        if len(self._masks) < number:
            trials = study.get_trials(deepcopy=False)[len(self._masks) : number]
            # A proposal that was refused leaves a trial without params behind, after all masks.
            self._masks += [mask_of(trial.params, self.grid) for trial in takewhile(lambda t: t.params, trials)]
            self._taken.update(mask.words for mask in self._masks)
        if len(self._masks) < number and not self.exhausted:
            raise StudyError(f"trial {len(self._masks)} holds no mask, so trials after it cannot be proposed")

    def _history_for(self, study: Study, block: int) -> History:
        if self._history is None or self._history[0] != block:
            count = self.num_known(block)
            trials = study.get_trials(deepcopy=False)[:count]
            missing = [trial.number for trial in trials if trial.state not in _FINISHED]
            if missing or len(trials) < count:
                raise StudyError(
                    f"block {block} is proposed from the results of trials 0 to {count - 1}; tell trial "
                    f"{missing[0] if missing else len(trials)} first"
                )
            values = [trial.value if trial.state is TrialState.COMPLETE else None for trial in trials]
            values_T = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
            self._history = block, History(self.grid, self.limits, self._masks[:count], values_T, self._taken)
        return self._history[1]
