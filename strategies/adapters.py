"""Optuna's own samplers as strategies, over a shortlist of heads. They are slower than ours: milliseconds per mask.

For each block, an in-memory study is built from the results that the block may know, with one parameter for each head
of the shortlist. What an adapter proposes is therefore a function of these results, as for any strategy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

from headmask.border.libraries import calm_optuna
from headmask.errors import ConfigError
from headmask.mask import BoolArray, HeadGrid, HeadMask
from strategies.base import MaskSampler, Option
from strategies.history import History

# T trials, R candidates, F free heads, S heads of the shortlist

SHORTLIST = 48
"""Heads on the shortlist, by scan gain."""
POPULATION = 50
"""Population size of NSGA-II; Optuna's default."""
MAX_TRIALS = 200
"""Number of the best results that TPE is told; its time per mask is proportional to it."""
MAX_TOGETHER = 24
"""The best 2, 3, ... up to this many heads of the scan are proposed together first: what people try by hand."""
ASKS = 2
"""Maximum number of masks asked for per mask wanted, as some may have been proposed before."""


class AdaptedSampler(MaskSampler):
    """Base of the adapters: subclasses provide Optuna's sampler and choose the results that it is told.

    Args:
        grid: layers and heads of the tower.
        shortlist: number of the scan's best heads to search among; 48 by default.
        options: see `MaskSampler`; a screen is not used.

    Raises:
        ConfigError: the shortlist is empty, or the limits do not fit the grid.
    """

    own_options = MappingProxyType({"shortlist": Option("a shortlist of heads", default=None)})

    def __init__(self, grid: HeadGrid, *, shortlist: int | None = None, **options: Any) -> None:
        super().__init__(grid, **options)
        self.shortlist = SHORTLIST if shortlist is None else shortlist
        if self.shortlist < 1:
            raise ConfigError(f"a shortlist must have at least 1 head; got {shortlist}")

    @abstractmethod
    def adapted(self, num_told: int, seed: int) -> BaseSampler:
        """Return Optuna's sampler for a study that holds this many results."""

    max_told: int
    """Number of the best results that the sampler is told."""
    attrs_told: Mapping[str, Any] = MappingProxyType({})
    """Attributes that trials need for the sampler to see them."""

    def propose(self, count: int, history: History, rng: np.random.Generator) -> list[HeadMask]:
        """Return the scan's best heads together, once; then what Optuna's sampler suggests over the shortlist."""
        heads_S = history.promising[: self.shortlist]
        together = [heads_S[:size].tolist() for size in range(2, min(MAX_TOGETHER, len(heads_S)) + 1)]
        masks = history.take(history.rows(together), count)
        told = _told(history, heads_S)[: self.max_told]
        if len(told) < 2:
            return masks
        study = optuna.create_study(
            direction="maximize", sampler=self.adapted(len(told), int(rng.integers(np.iinfo(np.int32).max)))
        )
        space: dict[str, BaseDistribution] = {f"{head:03d}": CategoricalDistribution((0, 1)) for head in heads_S}
        self._tell(study, space, history.bits_TF[np.ix_(told, heads_S)], history.values_T[told])
        for _ in range(ASKS * (count - len(masks))):
            if len(masks) == count:
                break
            masks += history.take(_asked(study, space, heads_S, history), 1)
        return masks

    def _tell(
        self, study: optuna.Study, space: dict[str, BaseDistribution], bits_TS: BoolArray, values_T: NDArray[np.float64]
    ) -> None:
        for bits_S, value in zip(bits_TS.astype(int).tolist(), values_T.tolist(), strict=True):
            params = dict(zip(space, bits_S, strict=True))
            study.add_trial(
                optuna.create_trial(params=params, distributions=space, value=value, system_attrs=dict(self.attrs_told))
            )


class TpeSampler(AdaptedSampler):
    """Optuna's multivariate TPE; the masks of a block count as bad until their results are known."""

    label = "tpe"
    max_told = MAX_TRIALS

    def adapted(self, num_told: int, seed: int) -> BaseSampler:
        """Return a TPE sampler."""
        with calm_optuna():
            return TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)


class Nsga2Sampler(AdaptedSampler):
    """Optuna's NSGA-II; a block is a generation, bred from the best known masks."""

    label = "nsga2"
    max_told = POPULATION
    # Trials without a generation are invisible to it.
    attrs_told = MappingProxyType({NSGAIISampler._get_generation_key(): 0})

    def adapted(self, num_told: int, seed: int) -> BaseSampler:
        """Return an NSGA-II sampler that treats all results as its first generation."""
        return NSGAIISampler(population_size=num_told, seed=seed)


def _told(history: History, heads_S: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the masks with a value that only ablate heads of the shortlist, best first."""
    others_F = np.ones(len(history.free_heads), dtype=np.bool_)
    others_F[heads_S] = False
    found: NDArray[np.int64] = history.ranked[~history.bits_TF[history.ranked][:, others_F].any(1)]
    return found


def _asked(
    study: optuna.Study, space: dict[str, BaseDistribution], heads_S: NDArray[np.int64], history: History
) -> BoolArray:
    """Return the study's next mask (1, F), cut to its most promising heads if it is too large."""
    params = study.ask(space).params
    bits_S = np.array([params[name] for name in space], dtype=np.bool_)
    return history.widened((bits_S & (bits_S.cumsum() <= history.max_heads))[None], heads_S)
