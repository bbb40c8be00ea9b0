"""Several strategies as one: the scan first, then every block is shared among the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headmask.errors import ConfigError
from headmask.mask import HeadGrid, HeadMask
from strategies.base import MaskSampler
from strategies.genetic import GeneticSampler
from strategies.history import History
from strategies.local import LocalSampler
from strategies.space import Limits

Share = tuple[type[MaskSampler], float]
DEFAULT_SHARES: tuple[Share, ...] = ((GeneticSampler, 0.75), (LocalSampler, 0.25))


class MixtureSampler(MaskSampler):
    """Shares each block among strategies, at fixed places; what one learns, all know.

    Args:
        grid: of the tower.
        seed: see `MaskSampler`.
        limits: see `MaskSampler`.
        block_size: see `MaskSampler`.
        shares: strategies with their parts of a block, positive numbers.

    Raises:
        ConfigError: a share is not positive, or the limits do not fit the grid.
    """

    label = "mixture"

    def __init__(
        self,
        grid: HeadGrid,
        *,
        seed: int = 0,
        limits: Limits | None = None,
        block_size: int = 32,
        shares: Sequence[Share] = DEFAULT_SHARES,
    ) -> None:
        super().__init__(grid, seed=seed, limits=limits, block_size=block_size)
        if not shares or min(share for _, share in shares) <= 0:
            raise ConfigError(f"a mixture needs positive shares; got {[share for _, share in shares]}")
        self._members = [member(grid, seed=seed, limits=limits, block_size=block_size) for member, _ in shares]
        self._turns = _turns([share for _, share in shares], block_size)

    def propose(self, number: int, history: History, rng: np.random.Generator) -> HeadMask | None:
        """Return what the member whose turn it is proposes, else what another does."""
        turn = self._turn(number)
        for member in self._members[turn:] + self._members[:turn]:
            mask = member.propose(number, history, rng)
            if mask is not None:
                return mask
        return None

    def strategy_of(self, number: int) -> str:
        """Return the name of the member whose turn a trial is."""
        return "scan" if number < len(self._scan) else self._members[self._turn(number)].label

    def _turn(self, number: int) -> int:
        return self._turns[(number - len(self._scan)) % self.block_size]


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
