"""Objectives on masks with a known best one."""

from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import TrialState

from headmask.mask import HeadGrid
from strategies import Exhausted, distributions, mask_of


@dataclass
class Landscape:
    """Some heads hurt, most help, a few pairs only hurt together, and too many ablated heads ruin everything."""

    grid: HeadGrid
    seed: int = 0
    cliff: int = 10

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        count = self.grid.layers * self.grid.heads
        self.gains = rng.normal(-0.004, 0.005, size=count)
        self.pair_gains = np.triu(
            rng.normal(0, 0.004, size=(count, count)) * (rng.random((count, count)) < 2 / count), 1
        )

    def __call__(self, mask):
        ablated = mask.to_bools().ravel().astype(float)
        value = 0.4 + ablated @ self.gains + ablated @ self.pair_gains @ ablated
        return float(value - 0.02 * max(0, len(mask) - self.cliff) ** 2)


class Slopes:
    """Gradients of a landscape without its cliff, as losses on micro-batches that differ a little from each other."""

    num_batches = 5
    masks_per_step = 0.5

    def __init__(self, landscape, noise=0.001):
        self.landscape, self.calls = landscape, 0
        shape = self.num_batches, len(landscape.gains)
        self.slopes_BF = np.random.default_rng(landscape.seed + 1).normal(0, noise, size=shape)

    def __call__(self, batch, scales_F):
        self.calls += 1
        pair_gains = self.landscape.pair_gains + self.landscape.pair_gains.T
        ablated_F, gains_F = 1 - scales_F, self.landscape.gains + self.slopes_BF[batch]
        loss = -ablated_F @ gains_F - ablated_F @ pair_gains @ ablated_F / 2
        return float(loss), gains_F + pair_gains @ ablated_F


def run(sampler, objective, count, *, study=None, ahead=True):
    """Drive a sampler by ask and tell, with results told as late as blocks allow; return the study."""
    study = study or optuna.create_study(direction="maximize", sampler=sampler)
    waiting, done = [], len(study.get_trials(deepcopy=False))
    for number in range(done, count):
        known = sampler.blocks.num_known(sampler.blocks.of(number)) if ahead else number
        while waiting and waiting[0].number < known:
            tell(study, waiting.pop(0), objective)
        try:
            waiting.append(study.ask(dict(distributions(sampler.grid))))
        except Exhausted:
            break
    for trial in waiting:
        tell(study, trial, objective)
    return study


def tell(study, trial, objective):
    value = objective(mask_of(trial.params, objective.grid))
    if value is None:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)


def masks_of(study, grid):
    """Return the masks of a study by proposal. A refused proposal leaves a trial without parameters behind."""
    return [mask_of(trial.params, grid) for trial in study.get_trials(deepcopy=False) if trial.params]


def best_value(study):
    return max(trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None)


class Failing:
    """A landscape on which every mask of some kind fails."""

    def __init__(self, landscape, fails):
        self.landscape, self.fails, self.grid = landscape, fails, landscape.grid

    def __call__(self, mask):
        return None if self.fails(mask) else self.landscape(mask)


class Constant:
    """Every mask is as good as any other."""

    def __init__(self, grid):
        self.grid = grid

    def __call__(self, mask):
        return 0.5
