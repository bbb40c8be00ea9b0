"""Several strategies as one: after the scan, every block is shared among them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from headmask.errors import ConfigError
from headmask.mask import HeadGrid, HeadMask
from strategies.base import MaskSampler, Option
from strategies.gated import GatesSampler
from strategies.gates import Gates
from strategies.genetic import GeneticSampler
from strategies.history import History
from strategies.pairwise import PairwiseSampler

Share = tuple[type[MaskSampler], float]
DEFAULT_SHARES: tuple[Share, ...] = ((GeneticSampler, 0.1), (PairwiseSampler, 0.9))
SCREENED_SHARES: tuple[Share, ...] = ((GeneticSampler, 0.25), (PairwiseSampler, 0.75))
"""The shares with a screen, which the genetic search uses."""


class MixtureSampler(MaskSampler):
    """Shares each block among strategies, at fixed places; all strategies see all results.

    Args:
        grid: layers and heads of the tower.
        shares: strategies with their parts of a block, positive numbers; by default, those that benchmarks/ supports.
        gate_share: part of a block that comes from gates, taken from the default shares; gates need gradients.
        options: options of `MaskSampler`, for every member.

    Raises:
        ConfigError: a share is not positive, or the limits do not fit the grid.
    """

    label = "mixture"
    own_options = MappingProxyType({"gate_share": Option("a share of gates", default=0.0)})

    def __init__(
        self, grid: HeadGrid, *, shares: Sequence[Share] | None = None, gate_share: float = 0.0, **options: Any
    ) -> None:
        super().__init__(grid, **options)
        if shares is None:
            others = DEFAULT_SHARES if self.screen is None else SCREENED_SHARES
            shares = [(strategy, (1 - gate_share) * share) for strategy, share in others]
            shares += [(GatesSampler, gate_share)] if gate_share else []
        if not shares or min(share for _, share in shares) <= 0:
            raise ConfigError(f"a mixture needs positive shares; got {[share for _, share in shares]}")
        total = sum(share for _, share in shares)
        self._members = [strategy(grid, **{**options, "share": share / total}) for strategy, share in shares]
        self._turns = _turns([share for _, share in shares], self.blocks.block_size)

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return what every member proposes for its places; places that one cannot fill go to the others."""
        turns = self._turns[:count]
        own = [deque(member.propose(turns.count(place), history, rng)) for place, member in enumerate(self._members)]
        missing = count - sum(map(len, own))
        spare: list[HeadMask] = []
        for member in self._members:
            spare += member.propose(missing - len(spare), history, rng) if len(spare) < missing else []
        others = iter(spare)
        masks = (own[turn].popleft() if own[turn] else next(others, None) for turn in turns)
        return [mask for mask in masks if mask is not None]

    def strategy_of(self, number: int) -> str:
        """Return the name of the member whose turn a trial is."""
        block = self.blocks.of(number)
        if block == 0:
            return super().strategy_of(number)
        return self._members[self._turns[number - self.blocks.numbers(block).start]].label

    @property
    def gates(self) -> Gates | None:  # type: ignore[override]
        """The gates that a member trains, if one does."""
        return next((member.gates for member in self._members if member.gates is not None), None)

    def num_steps(self, num_known: int) -> int:
        """Return how many training steps its members have done when a block is proposed."""
        return sum(member.num_steps(num_known) for member in self._members)


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
