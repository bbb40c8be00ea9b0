"""Several strategies as one: after the scan, every block is shared among them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from headmask.errors import ConfigError
from headmask.mask import HeadGrid, HeadMask
from strategies.base import MaskSampler
from strategies.genetic import GeneticSampler
from strategies.history import History
from strategies.pairwise import PairwiseSampler
from strategies.scaled import ScalesSampler
from strategies.scan import ScanSampler

Share = tuple[type[MaskSampler], float]
DEFAULT_SHARES: tuple[Share, ...] = ((GeneticSampler, 0.1), (PairwiseSampler, 0.9))
SCREENED_SHARES: tuple[Share, ...] = ((GeneticSampler, 0.25), (PairwiseSampler, 0.75))
"""The shares with a screen, which the genetic search uses."""
SCAN_SHARE, SCALES_SHARE = 0.25, 0.05
"""Parts of a block that scan further heads, until all are scanned, and that vary trained scales."""


class MixtureSampler(MaskSampler):
    """Shares each block among strategies, at fixed places; all strategies see all results.

    Args:
        grid: layers and heads of the tower.
        shares: strategies with their parts of a block, positive numbers; by default, those that benchmarks/ supports.
        options: options of `MaskSampler`, for every member.

    Raises:
        ConfigError: a share is not positive, or the limits do not fit the grid.
    """

    label = "mixture"
    revision = 8
    trains = True

    def __init__(self, grid: HeadGrid, *, shares: Sequence[Share] | None = None, **options: Any) -> None:
        super().__init__(grid, **options)
        if shares is None:
            shares = DEFAULT_SHARES if self.screen is None else SCREENED_SHARES
            if self.scales is not None:
                left = 1 - SCAN_SHARE - SCALES_SHARE
                shares = [(strategy, left * share) for strategy, share in shares]
                shares += [(ScanSampler, SCAN_SHARE), (ScalesSampler, SCALES_SHARE)]
        if not shares or min(share for _, share in shares) <= 0:
            raise ConfigError(f"a mixture needs positive shares; got {[share for _, share in shares]}")
        # Places that a member cannot fill go to the one with the largest share.
        shares = sorted(shares, key=lambda each: -each[1])
        # The mixture trains scales for all of its members.
        self._members = [strategy(grid, **{**options, "gradients": None}) for strategy, _ in shares]
        self._opening = ScalesSampler(grid, **{**options, "gradients": None})
        self._turns = _turns([share for _, share in shares], self.blocks.full_size)

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return what every member proposes for its places; places that one cannot fill go to the others.

        A block proposed without results is all from trained scales.
        """
        if not len(history.values_T):
            return self._opening.propose(count, history, rng)
        turns = self._turns[:count]
        own = [deque(member.propose(turns.count(place), history, rng)) for place, member in enumerate(self._members)]
        missing = count - sum(map(len, own))
        spare: list[HeadMask] = []
        for member in self._members:
            spare += member.propose(missing - len(spare), history, rng) if len(spare) < missing else []
        others = iter(spare)
        masks = (own[turn].popleft() if own[turn] else next(others, None) for turn in turns)
        return [mask for mask in masks if mask is not None]

    def strategy_of(self, number: int, mask: HeadMask) -> str:
        """Return the name of the member whose turn a trial is."""
        block = self.blocks.of(number)
        if block == 0:
            return super().strategy_of(number, mask)
        if self.blocks.num_known(block) == 0:
            return self._opening.label
        member = self._members[self._turns[number - self.blocks.numbers(block).start]]
        # After the scan, the member with the largest share fills its places.
        return (member if member.label != ScanSampler.label or len(mask) == 1 else self._members[0]).label


def _turns(shares: Sequence[float], count: int) -> list[int]:
    """Return whose turn each place is: always the one furthest behind its share."""
    weights = np.array(shares) / sum(shares)
    given = np.zeros(len(shares))
    turns = []
    for place in range(1, count + 1):
        turn = int(np.argmax(weights * place - given))
        given[turn] += 1
        turns.append(turn)
    return turns
