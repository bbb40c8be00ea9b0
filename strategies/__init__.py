"""Proposing head masks: Optuna samplers, and selection among what they found. No torch, no Ray."""

from __future__ import annotations

from typing import Any

from headmask.errors import ConfigError, did_you_mean
from headmask.mask import HeadGrid
from strategies.adapters import Nsga2Sampler, TpeSampler
from strategies.base import MaskSampler, Screen
from strategies.books import MIN_WIDTH, Blocks, Books
from strategies.genetic import GeneticSampler
from strategies.history import History
from strategies.mixture import MixtureSampler
from strategies.optunaside import Exhausted
from strategies.pairwise import PairwiseSampler
from strategies.scaled import ScalesSampler
from strategies.scales import Gradients, Scales
from strategies.scan import ScanSampler
from strategies.space import Limits, distributions, mask_of, params_of

__all__ = [
    "MIN_WIDTH",
    "STRATEGIES",
    "Blocks",
    "Books",
    "Exhausted",
    "GeneticSampler",
    "Gradients",
    "History",
    "Limits",
    "MaskSampler",
    "MixtureSampler",
    "Nsga2Sampler",
    "PairwiseSampler",
    "Scales",
    "ScalesSampler",
    "ScanSampler",
    "Screen",
    "TpeSampler",
    "distributions",
    "make_sampler",
    "mask_of",
    "params_of",
]

STRATEGIES: dict[str, type[MaskSampler]] = {
    strategy.label: strategy
    for strategy in (
        ScanSampler,
        GeneticSampler,
        PairwiseSampler,
        ScalesSampler,
        MixtureSampler,
        TpeSampler,
        Nsga2Sampler,
    )
}


def make_sampler(
    name: str,
    grid: HeadGrid,
    *,
    seed: int = 0,
    limits: Limits | None = None,
    block_size: int = 32,
    width: int = MIN_WIDTH,
    screen: Screen | None = None,
    gradients: Gradients | None = None,
    **own: Any,
) -> MaskSampler:
    """Return a strategy by its name.

    Args:
        name: one of `STRATEGIES`.
        grid: layers and heads of the tower.
        seed: see `MaskSampler`, as for the arguments below.
        limits: which masks may be proposed.
        block_size: maximum number of masks in a block after the scan, unless the study is wide.
        width: number of masks in flight.
        screen: predicts the values of masks.
        gradients: gradients of a loss by the scales of heads.
        own: options that only some strategies have, see `MaskSampler.own_options`.

    Raises:
        ConfigError: no strategy has that name, it has no such option, or the limits do not fit the grid.
    """
    check_strategy(name, **own)
    strategy = STRATEGIES[name]
    given = {option: value for option, value in own.items() if option in strategy.own_options}
    given |= {"block_size": block_size, "width": width}
    return strategy(grid, seed=seed, limits=limits, screen=screen, gradients=gradients, **given)


def check_strategy(name: str, **own: Any) -> None:
    """Check that a strategy exists and has the given options; an option at its default counts as not given.

    Raises:
        ConfigError: it does not; the message lists the strategies that do.
    """
    if name not in STRATEGIES:
        raise ConfigError(
            f"strategy must be one of {', '.join(STRATEGIES)}; got {name!r}{did_you_mean(name, STRATEGIES)}"
        )
    for option, value in own.items():
        owners = {label: strategy for label, strategy in STRATEGIES.items() if option in strategy.own_options}
        if not owners:
            raise ConfigError(f"no strategy has an option {option}")
        about = next(iter(owners.values())).own_options[option]
        if name not in owners and value != about.default:
            choice = next(iter(owners)) if len(owners) == 1 else "one of these"
            raise ConfigError(
                f"{about.words} is an option of {' and '.join(owners)}; got {value:g} for {name}: leave it out, or "
                f"choose {choice}"
            )
