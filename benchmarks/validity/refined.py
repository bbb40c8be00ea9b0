"""Refinements through the product: against a search's mask, with nothing to find, on noise in useful heads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.validity.differences import Differences
from benchmarks.validity.null import BOOTSTRAP_DRAWS, Sizes, three_splits
from benchmarks.validity.planted import plant, write_model
from benchmarks.validity.searches import Workload, searched, write_scenes
from headmask.models.loading import load_model
from headmask.scales import HeadScales
from headmask.tower.towers import view_of
from orchestrator.demo import DEMO_CHUNK
from orchestrator.demo.scenes import CUE
from orchestrator.outcome.schema import RELIABLE
from orchestrator.refine.choosing import candidates
from orchestrator.refine.content import RefineResult
from orchestrator.refine.refining import order_of, refine
from orchestrator.refine.training import MASK, MODEL, Trainer
from orchestrator.run.display import Quiet
from orchestrator.search.preparing import prepare
from orchestrator.search.session import SPLITS
from orchestrator.search.tasks import KeptTasks
from orchestrator.settings.config import read_config
from orchestrator.settings.options import flags_of
from orchestrator.statistics.paired import evidence
from orchestrator.statistics.selection import smallest_as_good
from orchestrator.verdict.decide import TEST, improved_outcomes
from workers.pool.inline import InlinePool

HALF = 0.5
"""Scale of heads whose noise weakening undoes better than ablating."""


@dataclass(frozen=True)
class Refined:
    """What a refinement of a search's mask gains on test; scores are mean recall."""

    seed: int
    selected: str
    """Which of the candidates was selected."""
    gain_of_mask: float
    gain_of_scales: float
    interval: tuple[float, float] | None
    """Two-sided 95 % interval of what the scales score more than the mask."""
    is_reliable: bool
    image_forwards: int


@dataclass(frozen=True)
class NullRefinement:
    """What a refinement has found where there is nothing."""

    seed: int
    num_changed: int
    gain_on_search: float
    gain_on_test: float
    is_reliable: bool


@dataclass(frozen=True)
class Undone:
    """What a refinement makes of a model with noise in heads that it also needs; scores are mean recall on test."""

    seed: int
    planted: tuple[str, ...]
    baseline: float
    halved: float
    """With a scale of one half on exactly these heads."""
    ablated: float
    """With exactly these heads ablated."""
    refined: float
    scales: dict[str, float]
    """Selected scales of these heads."""
    is_reliable: bool

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def refine_mask(folder: Path, workload: Workload, seed: int) -> Refined:
    """Return what refining the mask of a full search gains."""
    data = write_scenes(folder / f"refined{seed}.parquet", seed, workload.sizes, shift=workload.shift)
    run = folder / f"refined{seed}"
    searched(workload, data, run)
    found = refine(order_of(run, {}), Quiet())
    test, over, name = found.splits.test, found.over_mask, found.objective
    baseline = test.baseline[name]
    return Refined(
        seed=seed,
        selected=found.selected_name,
        gain_of_mask=0.0 if over is None else over.metrics[name] - baseline,
        gain_of_scales=test.delta[name],
        interval=None if over is None else over.interval,
        is_reliable=found.verdict == RELIABLE,
        image_forwards=found.image_forwards,
    )


def refine_nothing(folder: Path, workload: Workload, seed: int) -> NullRefinement:
    """Return what a refinement finds on shuffled captions; without the precheck, which refuses them."""
    data = write_scenes(folder / f"refined{seed}.parquet", seed, workload.sizes, shuffled=True)
    found = _refined(workload.model, data, folder / f"refined{seed}")
    splits = found.splits
    return NullRefinement(
        seed=seed,
        num_changed=len(found.selected),
        gain_on_search=splits.search.delta[found.objective],
        gain_on_test=splits.test.delta[found.objective],
        is_reliable=found.verdict == RELIABLE,
    )


def candidate_differences(folder: Path, workload: Workload, seed: int) -> tuple[tuple[HeadScales, ...], Differences]:
    """Return the candidates of a refinement, the model as it is first, and the differences that they make on test."""
    data = write_scenes(folder / f"candidates{seed}.parquet", seed, workload.sizes)
    outcome = searched(workload, data, folder / f"candidates{seed}")
    session, mask = outcome.session, HeadScales.of(outcome.verdict.selected)
    with closing(InlinePool(session.payload)) as pool:
        session = session.settled(pool.settle(session.wanted)).embedded(pool, SPLITS)
        tasks, baseline = KeptTasks(session, pool), HeadScales.ones(session.grid)
        trainer = Trainer(session, tasks, {MODEL: baseline, MASK: mask})
        listed = candidates(trainer.trained(trainer.held_out()), baseline, mask, keeps_mask=False)
        scores = tasks.scores(TEST, [each.scales.to_array() for each in listed])
    before, *after = (improved_outcomes(session, TEST.split, score, session.objective)[0] for score in scores)
    deltas = [np.zeros_like(before.hits_CK), *(each.hits_CK - before.hits_CK for each in after)]
    return tuple(each.scales for each in listed), Differences(before, np.stack(deltas))


def count_claims(scales: tuple[HeadScales, ...], stored: Differences, sizes: Sizes, seeds: Iterable[int]) -> int:
    """Return on how many null draws a reliable improvement by some candidate is claimed."""
    return sum(_claims(scales, stored, sizes, seed) for seed in seeds)


def _claims(scales: tuple[HeadScales, ...], stored: Differences, sizes: Sizes, seed: int) -> bool:
    rng = np.random.default_rng((seed, sizes.test))
    signs_C = rng.choice((-1.0, 1.0), size=stored.num_clusters)
    parts = three_splits(sizes, stored.num_clusters, rng)
    judged = stored.judged(range(len(scales)), signs_C, parts.confirm)
    departures, order = [each.departure for each in scales], [each.values for each in scales]
    selected = smallest_as_good(departures, order, judged.values, judged.standard_error)
    before, after = (stored.outcomes(index, signs_C, parts.test) for index in (0, selected))
    return selected != 0 and evidence(before, after, draws=BOOTSTRAP_DRAWS).improves


def undo(folder: Path, workload: Workload, seed: int) -> Undone:
    """Return what a refinement makes of noise in a quarter of all heads, of which half of each head is worth most."""
    data = write_scenes(folder / f"halved{seed}.parquet", seed, workload.sizes, cue=CUE)
    original = load_model(f"local-dir:{workload.model}")
    num_heads = len(view_of(original.clip, "image").grid)
    planting = plant(original, data, seed, count=num_heads // 4, remedy=HALF)
    model = write_model(planting.model, workload.model, folder / f"halved{seed}-model")
    found = _refined(model, data, folder / f"halved{seed}")
    half = HeadScales.from_heads(planting.mask.grid, dict.fromkeys(planting.mask.heads, HALF))
    halved, ablated = _on_test(model, data, folder / f"halved{seed}", [half, HeadScales.of(planting.mask)])
    shutil.rmtree(model)
    test, name = found.splits.test, found.objective
    return Undone(
        seed=seed,
        planted=tuple(map(str, planting.mask.heads)),
        baseline=test.baseline[name],
        halved=halved,
        ablated=ablated,
        refined=test.selected[name],
        scales={str(head): found.selected.get(str(head), 1.0) for head in planting.mask.heads},
        is_reliable=found.verdict == RELIABLE,
    )


def _flags(model: Path, data: Path, out: Path) -> dict[str, Any]:
    options = {"model": f"local-dir:{model}", "data": data, "out": out}
    return flags_of({**options, "pool": "inline", "image_chunk": DEMO_CHUNK, "precheck": False})


def _refined(model: Path, data: Path, out: Path) -> RefineResult:
    """Return a refinement of a model without a search, in this process."""
    return refine(order_of(None, _flags(model, data, out)), Quiet())


def _on_test(model: Path, data: Path, out: Path, scales: list[HeadScales]) -> list[float]:
    """Return the mean recall on test with scales."""
    session = prepare(read_config(None, _flags(model, data, out)))
    with closing(InlinePool(session.payload)) as pool:
        session = session.settled(pool.settle(session.wanted)).embedded(pool, SPLITS)
        scores = KeptTasks(session, pool).scores(TEST, [each.to_array() for each in scales])
    return [score.metrics["mean_recall"] for score in scores]
