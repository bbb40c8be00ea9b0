"""What all strategies share: masks come in blocks, never twice, and are the same for the same seed.

A strategy is an Optuna sampler, so `optuna.create_study(sampler=ScanSampler(grid))` is all it takes to use one.
`strategies.optunaside` implements Optuna's interface.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headmask.mask import HeadGrid, HeadMask
from strategies.additions import Additions
from strategies.books import MIN_WIDTH, Blocks, Books, opening_size
from strategies.history import History, smallest
from strategies.optunaside import BlockSampler
from strategies.scales import Gradients, Scales
from strategies.space import Limits
from strategies.threads import one_thread

OPENING = 12.0
"""Cost of training scales, in masks; the number of steps follows from it."""
CHECKPOINTS = (1.0, 0.75, 0.5, 0.25)
"""Parts of the training after which strategies see the scales."""
MIN_STEPS, MAX_STEPS = 16, 96
"""Minimum number of training steps, which small data sets need, and the maximum, which large ones stop at."""

# T trials, R candidates, F free heads, M masks

Screen = Callable[[Sequence[HeadMask]], NDArray[np.float64]]
"""Returns predicted values (M) of masks, NaN if there is none; a prediction depends on its mask alone."""

_RANDOM_TRIES = 8


@dataclass(frozen=True)
class Option:
    """A setting that only some strategies have."""

    words: str
    """What messages call it, such as `a shortlist of heads`."""
    default: Any
    """The value that leaves it out."""


class MaskSampler(BlockSampler):
    """Base of all strategies: subclasses propose the blocks after the scan in `propose`.

    Masks come in blocks. Block 0 is the scan: the empty mask, then every free head alone; it needs no results. Every
    later block is proposed from exactly the results that `Blocks.num_known` names, whatever else is known by then. The
    first blocks are small, so that a search soon learns from its results; they grow with the number of masks up to full
    size. The random state of a block derives from (seed, its first trial). No other state is kept.

    Args:
        grid: layers and heads of the tower.
        seed: the same seed and the same results give the same masks.
        limits: which masks may be proposed.
        block_size: maximum number of masks in a block after the scan, unless the study is wide.
        width: number of masks in flight, see `strategies.books.Blocks`.
        screen: predicts the values of masks at little cost; used by strategies that can.
        gradients: gradients of a loss by the scales of the free heads; used by strategies that can.

    Raises:
        ConfigError: the limits do not fit the grid.
    """

    label = "base"
    revision = 3
    """Raised whenever this strategy may propose other masks from the same results: a study has one revision only."""
    screened_revision: int | None = None
    """The same for a strategy that uses a screen, where that differs."""
    own_options: Mapping[str, Option] = MappingProxyType({})
    """Options that not every strategy has, by argument name."""
    trains = False
    """Whether it trains scales, if there are gradients, and opens with them instead of the scan."""
    num_opening = 0
    """Number of masks in block 0 of a strategy that trains: the empty one, and single heads; 0 for a first block."""

    def __init__(
        self,
        grid: HeadGrid,
        *,
        seed: int = 0,
        limits: Limits | None = None,
        block_size: int = 32,
        width: int = MIN_WIDTH,
        screen: Screen | None = None,
        gradients: Gradients | None = None,
    ) -> None:
        self.grid, self.seed, self.screen, self.gradients = grid, seed, screen, gradients
        self.limits = limits or Limits()
        self._additions = Additions()
        self.limits.check(grid)
        self._scan = HeadMask.singles(grid, self.limits.free_heads(grid))
        self.scales: Scales | None = None
        """Scales that are trained; None for strategies that train none."""
        num_first = len(self._scan)
        if self.trains and gradients is not None:
            self.scales = Scales(gradients, num_first - 1)
            num_first = min(num_first, self.num_opening or opening_size(block_size, width))
        self.blocks = Blocks(num_first, block_size, is_open=self.scales is not None, width=width)

    @classmethod
    def revision_with(cls, is_screened: bool) -> int:
        """Return the revision of studies with or without a screen."""
        return cls.screened_revision or cls.revision if is_screened else cls.revision

    @abstractmethod
    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return new masks for a block after the scan, as `history.take` gives them; fewer when there are no more.

        Args:
            count: number of masks wanted.
            history: the results that the block may know.
            rng: random state of the block.
        """

    @property
    def num_masks(self) -> int:
        """The number of masks that can be proposed."""
        return self.limits.num_masks(self.grid)

    def new_books(self, stored: Mapping[int, HeadMask] | None = None) -> Books:
        """Return the books of a study without masks.

        Args:
            stored: masks that an earlier run proposed, by number.
        """
        return Books(self.grid, self.limits, self.blocks, self.num_masks, stored)

    def block_masks(self, block: int, books: Books) -> list[HeadMask]:
        """Return the masks of a block; the books hold all masks before it and the results that it depends on."""
        numbers = self.blocks.numbers(block)
        if block == 0:
            return self._first(len(numbers))
        history = self._history(block, books)
        rng = np.random.default_rng((self.seed, numbers.start))
        with one_thread():
            masks = self.propose(len(numbers), history, rng)
            return masks + _filling(len(numbers) - len(masks), history, rng)

    def _first(self, count: int) -> list[HeadMask]:
        """Return the scan, or of a strategy that trains scales its first masks, by the first gradient."""
        if self.scales is None or count == 1:
            return self._scan[:count]
        self.scales.advance(self.num_steps_at(0))
        steepest = np.argsort(-self.scales.first_gradient_F, kind="stable")
        return [self._scan[0], *(self._scan[1 + head] for head in steepest[: count - 1].tolist())]

    def _history(self, block: int, books: Books) -> History:
        """Return what a block is proposed from; scales are trained as far as it needs them."""
        taken = {mask.words for mask in books.masks[: self.blocks.numbers(block).start]}
        scales_SF = None
        if self.scales is not None:
            self.scales.advance(num_steps := self.num_steps_at(block))
            scales_SF = np.array([self.scales.averaged(round(part * num_steps)) for part in CHECKPOINTS])
        return History(self.grid, self.limits, *books.results_for(block), taken, scales_SF, self._additions)

    def strategy_of(self, number: int, mask: HeadMask) -> str:
        """Return the name of the strategy that proposed a mask as a trial."""
        return "scan" if number < self.blocks.num_first else self.label

    def num_steps_at(self, block: int) -> int:
        """Return how many training steps are done when a block is proposed."""
        if self.gradients is None or self.scales is None:
            return 0
        if block == 0:
            return 1 if self.blocks.num_first > 1 else 0
        return int(np.clip(round(OPENING / self.gradients.masks_per_step), MIN_STEPS, MAX_STEPS))

    def num_steps_for(self, block: int) -> int:
        """Return how many training steps a block adds to those of the blocks before it."""
        return self.num_steps_at(block) - (self.num_steps_at(block - 1) if block else 0)


def _filling(count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
    """Return new random masks about as large as the best ones; when these run out, the smallest new masks."""
    num_free = len(history.free_heads)
    largest = min(history.max_heads, int(history.sizes_T[history.ranked[:16]].max(initial=1)) + 2)
    sizes_R = rng.integers(1, largest + 1, size=_RANDOM_TRIES * count)
    key_RF = rng.random((len(sizes_R), num_free))
    masks = history.take(smallest(key_RF, sizes_R[:, None]), count)
    return masks + list(islice(history.enumerate_new(), count - len(masks)))
