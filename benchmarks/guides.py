"""Which metric to search masks by: what is gained on test when confirm chooses among the best of search by each guide.

python -m benchmarks.guides --model demo
python -m benchmarks.guides --model FOLDER --cue 0.95 --shift noise

A model folder other than the demo's is one that `python -m orchestrator.demo.train` wrote. Each draw of splits takes
its search, confirm and test images from one pool at random; a guide orders the masks on search, its 16 finalists go to
confirm, where the objective chooses one, whose gain over the baseline on test is what counts. Guides are compared on
the same draws.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmarks.pools import COLUMNS, Pool, make_pool, unpacked
from benchmarks.record import save
from headmask.mask import HeadMask
from orchestrator.run.bench import hardware
from orchestrator.statistics.selection import Judged, finalists, select
from strategies import distributions, make_sampler, mask_of
from workers.tasks.retrieval import DIRECTIONS

# M masks, n images of a split, K columns of credits

FINALISTS, CONFIRM = 16, 400


def columns(name: str) -> list[int]:
    """Return the columns of credits that a metric is the mean of."""
    way, _, rest = name.partition("_")
    ways, rest = ([way], rest) if way in DIRECTIONS else (["t2i", "i2t"], name)
    rests = ("r1", "r5", "r10") if rest == "mean_recall" else (rest,)
    return [COLUMNS.index(f"{way}_{each}") for way in ways for each in rests]


OBJECTIVES = {
    "mean_recall": ("mean_recall", "r1", "mrr", "log_rank", "probability", "likelihood"),
    "t2i_r1": ("t2i_r1", "mean_recall", "t2i_mrr", "t2i_log_rank", "t2i_probability", "probability", "likelihood"),
    "mrr": ("mrr", "log_rank", "probability"),
}
"""Objectives, with their candidates for a guide; the first is the objective itself."""
SEARCHED = ("mean_recall", "t2i_r1", "mrr", "log_rank", "t2i_probability", "probability", "likelihood")
"""Guides that whole searches are run by."""
VARIANTS = ("plain", "per_head", "less_spread")


def guided(credits_nK: NDArray[np.float32], before_nK: NDArray[np.float32], guide: str) -> NDArray[np.float64]:
    """Return what every image gains by a guide against the baseline, (n,)."""
    return (credits_nK - before_nK)[:, columns(guide)].mean(1, dtype=np.float64)


def value_of(gain_n: NDArray[np.float64], num_heads: int, variant: str, penalty: float) -> float:
    """Return a guide's value of a mask, as a gain over the baseline.

    `less_spread` is the mean over random halves of the images less its standard deviation over them, which is the
    standard error of the mean; `per_head` takes a penalty for every head.
    """
    mean = float(gain_n.mean())
    if variant == "less_spread":
        return mean - float(gain_n.std(ddof=1)) / len(gain_n) ** 0.5
    return mean - (penalty * num_heads if variant == "per_head" else 0.0)


def draws(num_images: int, size: int, count: int, seed: int) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """Yield rows of search, confirm and test, which takes the rest."""
    for number in range(count):
        rows = np.random.default_rng((seed, size, number)).permutation(num_images)
        yield tuple(np.sort(part) for part in np.split(rows, [size, size + CONFIRM]))


class Splits:
    """One draw: what masks gain on each split, computed once."""

    def __init__(self, pool: Pool, rows: Sequence[NDArray[np.int64]]) -> None:
        self.pool, self.rows = pool, rows
        self._rows = dict(zip(("search", "confirm", "test"), rows, strict=True))
        self._credits = cache(self._measure)

    def _measure(self, split: str, mask: HeadMask) -> NDArray[np.float32]:
        return self.pool.credits(mask, self._rows[split])

    def gain(self, split: str, mask: HeadMask, guide: str) -> NDArray[np.float64]:
        """Return what every image of a split gains by a mask, (n,)."""
        empty = HeadMask.empty(self.pool.grid)
        return guided(self._credits(split, mask), self._credits(split, empty), guide)

    def judge(self, masks: Sequence[HeadMask], values: Sequence[float], objective: str) -> dict[str, float]:
        """Return what comes of masks ordered by values: select on confirm, report on test."""
        chosen = finalists(masks, np.array(values), FINALISTS)
        confirmed = [float(self.gain("confirm", mask, objective).mean()) for mask in chosen]
        judged = Judged(np.array(confirmed))
        selected = chosen[select(chosen, judged, judged)]
        best = masks[int(np.argmax(values))]
        return {
            "test": 100 * float(self.gain("test", selected, objective).mean()),
            "test_without_confirm": 100 * float(self.gain("test", best, objective).mean()),
            "search": 100 * float(self.gain("search", selected, objective).mean()),
            "heads": len(selected),
        }


def penalty_per_head(splits: Splits, guide: str) -> float:
    """Return a tenth of the spread of the scan: the median absolute deviation of single heads, as a sigma."""
    gains = [float(splits.gain("search", mask, guide).mean()) for mask in HeadMask.singles(splits.pool.grid)[1:]]
    return 0.1 * 1.4826 * float(np.median(np.abs(np.array(gains) - np.median(gains))))


def best_of_many(splits: Splits, masks: Sequence[HeadMask]) -> Iterator[tuple[tuple[str, str, str], dict[str, float]]]:
    """Yield (objective, guide, variant) with what comes of it, among masks that are the same for all."""
    for objective, guides in OBJECTIVES.items():
        for guide in guides:
            penalty = penalty_per_head(splits, guide)
            gains = [splits.gain("search", mask, guide) for mask in masks]
            for variant in VARIANTS:
                values = [
                    value_of(gain_n, len(mask), variant, penalty) for mask, gain_n in zip(masks, gains, strict=True)
                ]
                yield (objective, guide, variant), splits.judge(masks, values, objective)


def searched(splits: Splits, guide: str, budget: int, seed: int) -> tuple[list[HeadMask], list[float]]:
    """Return the masks that a default search tries, with their values."""
    grid = splits.pool.grid
    study = optuna.create_study(direction="maximize", sampler=make_sampler("mixture", grid, seed=seed))
    masks, values = [], []
    for _ in range(budget):
        trial = study.ask(dict(distributions(grid)))
        mask = mask_of(trial.params, grid)
        value = float(splits.gain("search", mask, guide).mean())
        study.tell(trial, value)
        masks.append(mask)
        values.append(value)
    return masks, values


def genetic(splits: Splits, budget: int, seed: int) -> Iterator[tuple[tuple[str, str, str], dict[str, float]]]:
    """Yield (objective, guide, "plain") with what comes of a whole search by that guide, on displacements."""
    own = Splits(splits.pool.displaced(), splits.rows)
    found: dict[str, tuple[list[HeadMask], list[float]]] = {}
    for objective, guides in OBJECTIVES.items():
        for guide in (guide for guide in guides if guide in SEARCHED):
            found[guide] = found.get(guide) or searched(own, guide, budget, seed)
            yield (objective, guide, "plain"), own.judge(*found[guide], objective)


def summary(found: dict[tuple[str, str, str], list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Return a row per guide: mean test gain in points, and how much more than by the objective itself."""
    rows = []
    for (objective, guide, variant), outcomes in found.items():
        ours, base = (
            np.array([outcome["test"] for outcome in side]) for side in (outcomes, found[objective, objective, "plain"])
        )
        row = {"objective": objective, "guide": guide, "variant": variant}
        row |= {key: round(float(np.mean([each[key] for each in outcomes])), 3) for key in outcomes[0]}
        rows.append(row | {"more_than_by_objective": mean_and_interval(ours - base), "tests": ours.round(3).tolist()})
    return rows


def mean_and_interval(differences: NDArray[np.float64]) -> list[float]:
    """Return the mean and its two-sided 95 % t interval over draws."""
    count, mean = len(differences), float(differences.mean())
    half = float(student.ppf(0.975, count - 1) * differences.std(ddof=1) / count**0.5)
    return [round(number, 3) for number in (mean, mean - half, mean + half)]


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Return all rows of one model on one domain."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpacked(given.model, Path(scratch))
        pool = make_pool(
            folder, given.images, seed=given.seed, cue=given.cue, shift=given.shift, num_candidates=given.candidates
        )
    masks = list(pool.exact)
    rows = []
    for size in given.sizes:
        fixed, evolved = defaultdict(list), defaultdict(list)
        for number, parts in enumerate(draws(given.images, size, given.draws, given.seed)):
            splits = Splits(pool, parts)
            for key, outcome in best_of_many(splits, masks):
                fixed[key].append(outcome)
            if given.budget and size <= given.largest_searched:
                for key, outcome in genetic(splits, given.budget, number):
                    evolved[key].append(outcome)
            print(f"size {size}, draw {number + 1}", file=sys.stderr, flush=True)
        for how, found in (("best of many, exact", fixed), ("genetic, displacements", evolved)):
            rows += [{"how": how, "search_images": size, **row} for row in summary(found)]
    return {"num_masks": len(masks), "rows": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--label", help="of the file that is written; the model's name by default")
    parser.add_argument("--cue", type=float, default=0.0)
    parser.add_argument("--shift", choices=("none", "noise", "blur"), default="none")
    parser.add_argument("--images", type=int, default=3000, help="of the pool")
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--budget", type=int, default=300, help="masks of a genetic search; 0 for none")
    parser.add_argument("--largest-searched", type=int, default=300, help="largest search split of genetic searches")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    content = {**vars(given), "hardware": hardware(torch.device("cpu")), **measure(given)}
    print(save(f"guides-{given.label or given.model}", content, sys.argv[1:]))
