"""Optimisers of other libraries on one bit per head, each with the settings that its library recommends.

All start from what is known to be good: the scan, and its best heads together. pymoo and cmaes come with the extra
`bench`.
"""

from __future__ import annotations

import importlib
from itertools import count
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler

from benchmarks.strategies.meter import Meter
from headmask.errors import ConfigError
from headmask.mask import BoolArray

# M masks, F free heads

MAX_TOGETHER = 24
"""Of the scan's best heads, two to so many together are evaluated first."""
POPULATION = 50
"""Of the genetic ones: Optuna's default; for pymoo better here than its default of 100, as is uniform crossover."""
KEPT_MEAN, ABLATED_MEAN, SPREAD = 0.3, 0.7, 0.1
"""Where CMA-ES starts: near the best mask known, as floats of which those above one half are ablated."""


def optuna_tpe(meter: Meter, seed: int) -> None:
    """Run Optuna's TPE (multivariate, by default)."""
    bits_MF, values_M = started(meter)
    _ask_and_tell(TPESampler(seed=seed), meter, bits_MF, values_M)


def optuna_nsga2(meter: Meter, seed: int) -> None:
    """Run Optuna's NSGA-II; the best masks known are its first generation."""
    bits_MF, values_M = started(meter)
    best = np.argsort(-values_M, kind="stable")[: max(POPULATION, meter.width or 1)]
    sampler = NSGAIISampler(population_size=len(best), seed=seed)
    # Trials without a generation are invisible to it.
    attrs = {NSGAIISampler._get_generation_key(): 0}
    _ask_and_tell(sampler, meter, bits_MF[best], values_M[best], attrs)


def pymoo_ga(meter: Meter, seed: int) -> None:
    """Run pymoo's GA with bit-flip mutation; the best masks known are its first generation."""
    size = max(POPULATION, meter.width or 1)
    module = {name: _extra("pymoo", f"pymoo.{path}") for name, path in _PYMOO.items()}
    bits_MF, values_M = started(meter)
    algorithm = module["ga"].GA(
        pop_size=size,
        sampling=bits_MF[np.argsort(-values_M, kind="stable")[:size]],
        crossover=module["crossover"].UniformCrossover(),
        mutation=module["mutation"].BitflipMutation(),
        eliminate_duplicates=True,
    )
    problem = module["problem"].Problem(n_var=bits_MF.shape[1], n_obj=1, xl=0, xu=1, vtype=bool)
    algorithm.setup(problem, seed=seed, termination=("n_gen", 10**9), verbose=False)
    # Where crossover and mutation find nothing new any more, it has no infills.
    while (infills := algorithm.ask()) is not None and len(infills):
        losses_M1 = -meter.bit_values(infills.get("X"))[:, None]
        module["evaluator"].Evaluator().eval(module["static"].StaticProblem(problem, F=losses_M1), infills)
        algorithm.tell(infills=infills)


def cma_es(meter: Meter, seed: int) -> None:
    """Run CMA-ES, which Optuna's `CmaEsSampler` wraps too, on floats that are thresholded.

    Its variant with margin, for integers, is worse here and takes a minute for 1,000 masks of 144 heads.
    """
    module = _extra("cmaes", "cmaes")
    bits_MF, values_M = started(meter)
    mean_F = np.where(bits_MF[values_M.argmax()], ABLATED_MEAN, KEPT_MEAN)
    for doubling in count():
        size = max(4 + int(3 * np.log(len(mean_F))), meter.width or 1) * 2**doubling
        strategy = module.CMA(mean=mean_F, sigma=SPREAD, population_size=size, seed=seed + doubling)
        num_before = -1
        # Once a generation holds nothing new it has converged, and starts again with twice as many (IPOP).
        while not strategy.should_stop() and len(meter.best_so_far) > num_before:
            num_before = len(meter.best_so_far)
            asked_MF = [strategy.ask() for _ in range(size)]
            values_M = meter.bit_values(np.array(asked_MF) > 0.5)
            strategy.tell([(asked_F, -value) for asked_F, value in zip(asked_MF, values_M.tolist(), strict=True)])


def started(meter: Meter) -> tuple[BoolArray, NDArray[np.float64]]:
    """Return masks (M, F) to start from, and their values: the scan, and its best heads together."""
    num_free = len(meter.limits.free_heads(meter.grid))
    scan_MF = np.vstack([np.zeros((1, num_free), dtype=np.bool_), np.eye(num_free, dtype=np.bool_)])
    values_M = meter.bit_values(scan_MF)
    ranks_F = np.argsort(np.argsort(-values_M[1:], kind="stable"))
    together_MF = ranks_F < np.arange(2, min(MAX_TOGETHER, num_free) + 1)[:, None]
    return np.vstack([scan_MF, together_MF]), np.concatenate([values_M, meter.bit_values(together_MF)])


def _ask_and_tell(
    sampler: BaseSampler,
    meter: Meter,
    bits_MF: BoolArray,
    values_M: NDArray[np.float64],
    attrs: dict[str, Any] | None = None,
) -> None:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = {f"{index:03d}": CategoricalDistribution((0, 1)) for index in range(bits_MF.shape[1])}
    for bits_F, value in zip(bits_MF.astype(int).tolist(), values_M.tolist(), strict=True):
        params = dict(zip(space, bits_F, strict=True))
        study.add_trial(optuna.create_trial(params=params, distributions=dict(space), value=value, system_attrs=attrs))
    while True:
        trials = [study.ask(dict(space)) for _ in range(meter.width or 1)]
        asked_MF = np.array([[trial.params[name] for name in space] for trial in trials], dtype=np.bool_)
        for trial, value in zip(trials, meter.bit_values(asked_MF).tolist(), strict=True):
            study.tell(trial, value)


_PYMOO = {
    "ga": "algorithms.soo.nonconvex.ga",
    "crossover": "operators.crossover.ux",
    "mutation": "operators.mutation.bitflip",
    "problem": "core.problem",
    "evaluator": "core.evaluator",
    "static": "problems.static",
}


def _extra(package: str, module: str) -> Any:
    """Return a module of a package that comes with the extra `bench`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"this contestant needs {package}, which is not installed: pip install '.[bench]'") from error
