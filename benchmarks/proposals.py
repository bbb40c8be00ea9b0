"""What a proposal costs the driver in a long study, beside Optuna's random sampler on as long a study.

python -m benchmarks.proposals
python -m benchmarks.proposals --strategy genetic --trials 1000
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.trial import create_trial

from benchmarks.record import save
from benchmarks.strategies.synthetic import Synthetic, make_synthetic
from headmask.mask import HeadGrid, HeadMask
from orchestrator.run.bench import hardware
from strategies import STRATEGIES, distributions, make_sampler, mask_of, params_of

GRID = HeadGrid(24, 16)
BLOCKS = 20
FAVOURED = 60
"""Best single heads that the masks of the study are drawn from, after the scan."""


def drawn_masks(landscape: Synthetic, count: int) -> list[HeadMask]:
    """Return a scan, then distinct random masks of 2 to 24 good heads."""
    heads, rng = list(GRID), np.random.default_rng(0)
    scan = HeadMask.singles(GRID)
    gains = np.array(landscape.values(scan[1:]))
    favoured = np.argsort(-gains)[:FAVOURED]
    masks = dict.fromkeys(scan)
    while len(masks) < count:
        chosen = rng.choice(favoured, size=rng.integers(2, 25), replace=False)
        masks[HeadMask.from_heads(GRID, [heads[index] for index in chosen])] = None
    return list(masks)


def asked(
    study: optuna.Study, space: dict[str, BaseDistribution], count: int
) -> tuple[list[optuna.Trial], list[float]]:
    """Return new trials, and the milliseconds that each took."""
    trials, times_ms = [], []
    for _ in range(count):
        started = time.perf_counter()
        trials.append(study.ask(space))
        times_ms.append(1e3 * (time.perf_counter() - started))
    return trials, times_ms


def measure(strategy: str, num_trials: int) -> dict[str, Any]:
    """Return milliseconds per proposal of a strategy and of the random sampler, in alternating blocks."""
    landscape, space = make_synthetic("pairwise", GRID, 0), dict(distributions(GRID))
    masks = drawn_masks(landscape, num_trials)
    stored = [
        create_trial(params=params_of(mask), distributions=space, value=value)
        for mask, value in zip(masks, landscape.values(masks), strict=True)
    ]
    sampler = make_sampler(strategy, GRID)
    # The study goes on at the start of a block, with all before it told.
    start = sampler.blocks.numbers(sampler.blocks.of(num_trials - 1)).start
    studies = {
        strategy: optuna.create_study(direction="maximize", sampler=sampler),
        "random": optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)),
    }
    for study in studies.values():
        study.add_trials(stored[:start])
    times_ms: dict[str, list[list[float]]] = {name: [] for name in studies}
    # The first block also takes in the study, once.
    for block in range(1 + BLOCKS):
        count = len(sampler.blocks.numbers(sampler.blocks.of(start) + block))
        for name, study in studies.items():
            trials, spent = asked(study, space, count)
            times_ms[name].append(spent)
            for trial in trials:
                study.tell(trial, landscape(mask_of(trial.params, GRID)))
    kept = {name: blocks[1:] for name, blocks in times_ms.items()}
    return {
        "strategy": strategy,
        "trials": start,
        "grid": str(GRID),
        "ms": {name: _summary(blocks) for name, blocks in kept.items()},
        "median_ratio": _ratio(kept[strategy], kept["random"], np.median),
        "mean_ratio": _ratio(kept[strategy], kept["random"], np.mean),
    }


def _ratio(
    ours_ms: list[list[float]], theirs_ms: list[list[float]], centre: Callable[[NDArray[np.float64]], float]
) -> float:
    return round(float(centre(np.concatenate(ours_ms)) / centre(np.concatenate(theirs_ms))), 2)


def _summary(blocks_ms: list[list[float]]) -> dict[str, float]:
    """Return the median and the mean of proposals, and the median of blocks: the first of a block plans all of it."""
    proposals, blocks = np.concatenate(blocks_ms), [sum(block) for block in blocks_ms]
    return {
        "median": round(float(np.median(proposals)), 3),
        "mean": round(float(proposals.mean()), 3),
        "block_median": round(float(np.median(blocks)), 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", default="mixture", choices=[name for name in STRATEGIES if name != "scan"])
    parser.add_argument("--trials", type=int, default=10_000)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {"hardware": hardware(torch.device("cpu")), **measure(given.strategy, given.trials)}
    print(save(f"proposals-{given.strategy}-{given.trials}", found, sys.argv[1:]))
