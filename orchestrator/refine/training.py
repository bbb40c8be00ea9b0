"""Training of head scales, for as long and with the pull that held-out parts of the search split call for.

The search split is cut into folds by clusters of images. For each fold, scales are trained on the other folds; the
fold's queries are ranked with them, among all images. So every query of the split is ranked by scales that did not see
it, and the guide of these ranks decides the number of steps and the pull toward 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headmask.border.shown import counted
from headmask.errors import DataError
from headmask.mask import HeadMask
from headmask.scales import DECIMALS, HIGHEST, HeadScales
from orchestrator.search.gradients import batches_of
from orchestrator.search.session import Session
from orchestrator.search.tasks import KeptTasks
from strategies.scales import Descent
from workers.data.loading import Split
from workers.scoring.messages import MaskScore, ScaleGradient, ScaleTask, Stage
from workers.tasks.losses import Indices

# L layers, H heads, F scaled heads, N images, Q queries

FOLDS = 3
"""Parts of the search split of which each is held out once."""
PULLS = (0.003, 0.03)
"""Weights of the pull toward 1 that are tried, in nats: docs/decisions/0022."""
FIRST_STEPS = 8
"""Steps before held-out parts are looked at for the first time; then at twice as many, and so on."""
GAIN = 0.001
"""What more steps must add to the guide on held-out parts to be worth it."""
MAX_STEPS = 256
"""Default for the largest number of steps."""
SEARCH = Stage("search", "float32", ranks=True)
Start = Literal["model", "mask"]
"""Where training may begin: from the model as it is, or from the mask of a search."""
MODEL: Start = "model"
MASK: Start = "mask"


@dataclass(frozen=True)
class Recipe:
    """How scales are trained."""

    start: Start
    pull: float


@dataclass(frozen=True)
class HeldOut:
    """What a recipe is worth on held-out parts."""

    recipe: Recipe
    values: Mapping[int, float]
    """The guide by number of steps."""

    @property
    def best(self) -> float:
        """The best value."""
        return max(self.values.values())

    @property
    def steps(self) -> int:
        """The smallest number of steps whose value is about the best."""
        return min(steps for steps, value in self.values.items() if value >= self.best - GAIN)

    @property
    def goes_on(self) -> bool:
        """Whether the last steps were worth it, so that twice as many may be."""
        *before, last = self.values.values()
        return not before or last > max(before) + GAIN


@dataclass(frozen=True)
class Trained:
    """Scales trained on the whole search split."""

    recipe: Recipe
    steps: int
    scales: HeadScales
    losses: tuple[float, ...]


class Trainer:
    """Trains scales from several starts.

    Args:
        session: the session, settled, with the other side of the search split embedded.
        tasks: computes gradients and scores.
        starts: the scales to begin from, by name.
        fixed: heads that keep the scale that they begin with.
        max_steps: the largest number of steps.
        say: told how far training is.

    Raises:
        DataError: the search split has too few clusters to hold parts of it out.
    """

    def __init__(
        self,
        session: Session,
        tasks: KeptTasks,
        starts: Mapping[Start, HeadScales],
        *,
        fixed: HeadMask | None = None,
        max_steps: int = MAX_STEPS,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._session, self._tasks, self._starts, self._say = session, tasks, starts, say
        self._checkpoints = checkpoints(max_steps)
        free = [head for head in session.limits.free_heads(session.grid) if fixed is None or head not in fixed]
        self._places: Any = tuple(np.array(free).T)
        """Layers and heads that are trained."""
        self._folds = [folds_of(split, session.config.search.seed) for split in session.splits["search"]]

    def held_out(self) -> list[HeldOut]:
        """Return what every recipe is worth on held-out parts, for as many steps as it took to know."""
        recipes = [Recipe(start, pull) for start in self._starts for pull in PULLS]
        values: dict[Recipe, dict[int, float]] = {recipe: {} for recipe in recipes}
        if MODEL in self._starts:
            # Nothing was fitted to the model on these images; a mask was.
            (score,) = self._tasks.scores(SEARCH, [self._starts[MODEL].to_array()])
            untrained = self._value([score] * FOLDS)
            values |= {recipe: {0: untrained} for recipe in recipes if recipe.start == MODEL}
        courses = {recipe: [self._course(recipe, fold) for fold in range(FOLDS)] for recipe in recipes}
        for steps in self._checkpoints:
            self._say(f"training on {FOLDS - 1} of {FOLDS} parts, {counted(len(recipes), 'recipe')}: step {steps}")
            self._advance([course for recipe in recipes for course in courses[recipe]], steps)
            found = self._scored([course for recipe in recipes for course in courses[recipe]])
            for place, recipe in enumerate(recipes):
                values[recipe][steps] = self._value(found[FOLDS * place : FOLDS * (place + 1)])
            recipes = [recipe for recipe in recipes if HeldOut(recipe, values[recipe]).goes_on]
            if not recipes:
                break
        return [HeldOut(recipe, by_steps) for recipe, by_steps in values.items()]

    def trained(self, found: Sequence[HeldOut]) -> list[Trained]:
        """Return the scales of the best recipe of every start, trained on the whole split.

        A start of which no training was worth more is left out.
        """
        best = [
            max((each for each in found if each.recipe.start == start), key=lambda each: (each.best, each.recipe.pull))
            for start in self._starts
        ]
        courses = [(self._course(each.recipe, None), each) for each in best if each.steps]
        for course, each in courses:
            self._say(f"training on the whole split from the {each.recipe.start}: {counted(each.steps, 'step')}")
            self._advance([course], each.steps)
        return [
            Trained(each.recipe, each.steps, course.scales, tuple(course.losses[: each.steps]))
            for course, each in courses
        ]

    def _course(self, recipe: Recipe, fold: int | None) -> _Course:
        parts = self._session.payload.splits["search"].values()
        units: list[Indices | None] = [
            None if fold is None else np.flatnonzero(fold_N[part.targets.image_of_units] != fold)
            for part, fold_N in zip(parts, self._folds, strict=True)
        ]
        batches = batches_of(self._session, units)
        return _Course(self._starts[recipe.start].to_array(), self._places, batches, recipe.pull)

    def _advance(self, courses: Sequence[_Course], steps: int) -> None:
        """Train courses, which are equally far, until they have done a number of steps."""
        while courses and courses[0].step < steps:
            gradients = self._tasks.gradients([course.task for course in courses])
            for course, gradient in zip(courses, gradients, strict=True):
                course.take(gradient)

    def _scored(self, courses: Sequence[_Course]) -> list[MaskScore]:
        return self._tasks.scores(SEARCH, [course.scales.to_array() for course in courses])

    def _value(self, scores: Sequence[MaskScore]) -> float:
        """Return the guide of the ranks that every query has in its own fold, from a score per fold."""
        if any(score.ranks is None for score in scores):
            return -math.inf
        metrics: dict[str, float] = {}
        for place, (prefix, part) in enumerate(self._session.payload.splits["search"].items()):
            of_folds = [score.ranks[place] for score in scores if score.ranks is not None]
            ranks = {
                kind: np.choose(self._folds[place][image_q].clip(0), [each[kind] for each in of_folds])
                for kind, image_q in part.targets.image_of_queries.items()
            }
            metrics |= {f"{prefix}{name}": value for name, value in part.targets.values(ranks).items()}
        return self._session.search_value(metrics)


class _Course:
    """One training, step by step."""

    def __init__(
        self, start_LH: NDArray[np.float64], places: Any, batches: list[tuple[int, Indices]], pull: float
    ) -> None:
        self._start_LH, self._places, self._batches = start_LH, places, batches
        self._descent = Descent(start_LH[places], highest=HIGHEST, pull=pull)
        self.losses: list[float] = []

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self._descent.step

    @property
    def task(self) -> ScaleTask:
        """The gradient that the next step needs."""
        return ScaleTask(*self._batches[self.step % len(self._batches)], self._spread(self._descent.now_F))

    def take(self, found: ScaleGradient) -> None:
        """Take a step."""
        self.losses.append(found.loss)
        self._descent.descend(found.gradient_LH[self._places])

    @property
    def scales(self) -> HeadScales:
        """The scales, averaged over the second half of all steps."""
        averaged_LH = self._spread(self._descent.averaged(self.step))
        return HeadScales.from_array(averaged_LH.round(DECIMALS).clip(0, HIGHEST))

    def _spread(self, scales_F: NDArray[np.float64]) -> NDArray[np.float64]:
        scales_LH = self._start_LH.copy()
        scales_LH[self._places] = scales_F
        return scales_LH


def checkpoints(max_steps: int) -> list[int]:
    """Return the numbers of steps after which held-out parts are looked at."""
    doubled = [FIRST_STEPS << power for power in range(max_steps.bit_length())]
    return [steps for steps in doubled if steps <= max_steps] or [max_steps]


def folds_of(split: Split, seed: int) -> NDArray[np.int64]:
    """Return the fold (N) of every image of a split, the same for all images of a cluster; -1 without a query.

    Raises:
        DataError: there are fewer clusters than folds.
    """
    clusters_N = split.clusters_N
    num_clusters = int(clusters_N.max()) + 1
    if num_clusters < FOLDS:
        raise DataError(
            f"a refinement holds out parts of the search split, which needs at least {FOLDS} independent groups of "
            f"images; got {num_clusters}"
        )
    fold_of_clusters = np.random.default_rng((seed, FOLDS)).permutation(num_clusters) % FOLDS
    return np.where(clusters_N >= 0, fold_of_clusters[clusters_N], -1)
