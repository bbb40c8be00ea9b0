"""Proposing head masks: Optuna samplers, and selection among what they found. No torch, no Ray."""

from __future__ import annotations

from typing import Any

from headmask.errors import ConfigError, did_you_mean
from headmask.mask import HeadGrid
from strategies.adapters import AdaptedSampler, Nsga2Sampler, TpeSampler
from strategies.base import REVISION, Exhausted, MaskSampler, Screen
from strategies.gated import GatesSampler
from strategies.gates import Gates, Gradients
from strategies.genetic import GeneticSampler
from strategies.history import History
from strategies.mixture import MixtureSampler
from strategies.pairwise import PairwiseSampler
from strategies.scan import ScanSampler
from strategies.space import Limits, distributions, mask_of, params_of

__all__ = [
    "REVISION",
    "STRATEGIES",
    "Exhausted",
    "Gates",
    "GatesSampler",
    "GeneticSampler",
    "Gradients",
    "History",
    "Limits",
    "MaskSampler",
    "MixtureSampler",
    "Nsga2Sampler",
    "PairwiseSampler",
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
        GatesSampler,
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
    screen: Screen | None = None,
    gradients: Gradients | None = None,
    shortlist: int | None = None,
    gate_share: float = 0.0,
) -> MaskSampler:
    """Return a strategy by its name; a shortlist is for the adapters of Optuna's samplers alone, gates for a mixture.

    Raises:
        ConfigError: there is none of that name, it has no such option, or the limits do not fit the grid.
    """
    check_strategy(name, shortlist, gate_share)
    options: dict[str, Any] = {} if shortlist is None else {"shortlist": shortlist}
    options |= {"gate_share": gate_share} if gate_share else {}
    options |= {"seed": seed, "limits": limits, "block_size": block_size, "screen": screen, "gradients": gradients}
    return STRATEGIES[name](grid, **options)


def check_strategy(name: str, shortlist: int | None = None, gate_share: float = 0.0) -> None:
    """Check that a strategy exists, and can have a shortlist or a share of gates, where there is one.

    Raises:
        ConfigError: it does not, or cannot; the message lists those that do.
    """
    if name not in STRATEGIES:
        raise ConfigError(
            f"strategy must be one of {', '.join(STRATEGIES)}; got {name!r}{did_you_mean(name, STRATEGIES)}"
        )
    adapters = [label for label, strategy in STRATEGIES.items() if issubclass(strategy, AdaptedSampler)]
    if shortlist is not None and name not in adapters:
        raise ConfigError(
            f"a shortlist of heads is an option of {' and '.join(adapters)}; got {shortlist} for {name}: leave it "
            "out, or choose one of these"
        )
    if gate_share and name != MixtureSampler.label:
        raise ConfigError(
            f"a share of gates is an option of {MixtureSampler.label}; got {gate_share:g} for {name}: leave it out, or "
            f"choose {MixtureSampler.label}"
        )
