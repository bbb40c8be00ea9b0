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
from strategies.books import Blocks, Books
from strategies.gates import Gates, Gradients
from strategies.history import History, smallest
from strategies.optunaside import BlockSampler
from strategies.space import Limits

REVISION = 3
"""Raised whenever a strategy may propose other masks from the same results: a study has masks of one revision only."""

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
        block_size: maximum number of masks in a block after the scan.
        screen: predicts the values of masks at little cost; used by strategies that can.
        gradients: gradients of a loss with respect to gates on the free heads; used by strategies that can.
        share: fraction of the masks after the scan that this strategy proposes; less than 1 in a mixture.

    Raises:
        ConfigError: the limits do not fit the grid.
    """

    label = "base"
    own_options: Mapping[str, Option] = MappingProxyType({})
    """Options that not every strategy has, by argument name."""
    gates: Gates | None = None
    """Gates trained between blocks; None for strategies that train none."""

    def __init__(
        self,
        grid: HeadGrid,
        *,
        seed: int = 0,
        limits: Limits | None = None,
        block_size: int = 32,
        screen: Screen | None = None,
        gradients: Gradients | None = None,
        share: float = 1.0,
    ) -> None:
        self.grid, self.seed, self.screen, self.gradients, self.share = grid, seed, screen, gradients, share
        self.limits = limits or Limits()
        self.limits.check(grid)
        self._scan = HeadMask.singles(grid, self.limits.free_heads(grid))
        self.blocks = Blocks(len(self._scan), block_size)

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
        if block == 0:
            return self._scan
        numbers = self.blocks.numbers(block)
        taken = {mask.words for mask in books.masks[: numbers.start]}
        history = History(self.grid, self.limits, *books.results_for(block), taken)
        rng = np.random.default_rng((self.seed, numbers.start))
        masks = self.propose(len(numbers), history, rng)
        return masks + _filling(len(numbers) - len(masks), history, rng)

    def strategy_of(self, number: int) -> str:
        """Return the name of the strategy that proposes a trial."""
        return "scan" if number < self.blocks.num_scan else self.label

    def num_steps(self, num_known: int) -> int:
        """Return how many training steps are done when a block after the scan is proposed from this many results."""
        return 0

    def num_steps_at(self, block: int) -> int:
        """Return how many training steps are done when a block is proposed."""
        return 0 if block == 0 else self.num_steps(self.blocks.num_known(block))

    def num_steps_for(self, block: int) -> int:
        """Return how many training steps a block adds to those of the blocks before it."""
        return self.num_steps_at(block) - self.num_steps_at(max(0, block - 1))


def _filling(count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
    """Return new random masks about as large as the best ones; when these run out, the smallest new masks."""
    num_free = len(history.free_heads)
    largest = min(history.max_heads, int(history.sizes_T[history.ranked[:16]].max(initial=1)) + 2)
    sizes_R = rng.integers(1, largest + 1, size=_RANDOM_TRIES * count)
    key_RF = rng.random((len(sizes_R), num_free))
    masks = history.take(smallest(key_RF, sizes_R[:, None]), count)
    return masks + list(islice(history.enumerate_new(), count - len(masks)))
