"""What each part measures, and what of it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks.validity import clusters, control, differences, null, planted, refined, shuffled
from benchmarks.validity.bench import Bench
from benchmarks.validity.differences import Searched
from benchmarks.validity.null import Draw, Sizes
from benchmarks.validity.refined import NullRefinement
from benchmarks.validity.searches import Workload
from benchmarks.validity.shares import most_by_chance, share
from benchmarks.validity.shuffled import NullSearch
from orchestrator.statistics.paired import MAX_P_VALUE, MIN_CLUSTERS, MIN_DIFFERING

MASKS = 200
"""Budget of a search."""
SIZES = {"search": 150, "confirm": 250, "test": 1000}
"""Scenes of each split."""
POOL = 1500
"""Scenes that masks are scored on for null draws: one gallery, whose scenes are drawn into splits."""
NULL_SIZES = (Sizes(150, 250, 200), Sizes(150, 250, 1000))
SMALL_SIZES = {"search": 100, "confirm": 100, "test": 400}
"""Scenes of each split where nothing can be learnt."""
SMALL_MASKS = 120
DRAWS_IN_JOB = 50
WRONG_WAYS = (null.reported_on_confirm, null.reported_on_search)
WRONG_DRAWS = 200
LINKED_DRAWS = 200
CLAIMED = ("above", "would_claim", "claims")
"""Intervals above zero; improvements that would be claimed of any number of clusters; those that are claimed."""
REFINED_MASKS = 60
"""Budget of a search whose mask is refined."""
SEEDS = {
    "planted": 1000,
    "shuffled": 2000,
    "random": 3000,
    "null": 4000,
    "refined": 5000,
    "refined-shuffled": 6000,
    "refined-null": 8000,
}
"""First data seed of each part."""


def measure_null(bench: Bench, draws: int) -> dict[str, Any]:
    """Return how often improvements are claimed on null draws of two searches' differences."""
    workload = Workload(bench.model, MASKS, {**SIZES, "test": POOL})
    jobs = [(workload, SEEDS["null"] + index) for index in range(2)]
    stored = bench.each("searches for null draws", differences.measure, jobs)
    rows = [_null_row(bench, stored, sizes, draws) for sizes in NULL_SIZES]
    return {
        "num_masks": [len(each.masks) for each in stored],
        "num_scenes": POOL,
        "bootstrap_draws": null.BOOTSTRAP_DRAWS,
        "claims": [row["claims"] for row in rows],
        "passed": all(row["claims"]["count"] <= row["allowed"] for row in rows),
        "rows": rows,
        "wrong_ways": [_null_row(bench, stored, NULL_SIZES[0], min(draws, WRONG_DRAWS), way) for way in WRONG_WAYS],
    }


def _null_row(
    bench: Bench, stored: Sequence[Searched], sizes: Sizes, draws: int, draw: Draw = null.three_splits
) -> dict[str, Any]:
    """Return how often improvements are claimed; the draws are shared out among the stored differences."""
    jobs = [
        (stored[index % len(stored)], sizes, range(start, min(start + DRAWS_IN_JOB, draws)), draw)
        for index, start in enumerate(range(0, draws, DRAWS_IN_JOB))
    ]
    counts = bench.each(f"null draws, {draw.__name__}, {sizes.test} test scenes", _count_claims, jobs)
    claims = share(sum(counts), draws)
    return {"splits": draw.__name__, **asdict(sizes), "claims": claims, "allowed": most_by_chance(draws)}


def _count_claims(_: Path, *arguments: Any) -> int:
    """Return what `null.count_claims` returns, which needs no folder."""
    return null.count_claims(*arguments)


def measure_clusters(bench: Bench, draws: int) -> dict[str, Any]:
    """Return how often few clusters claim what is not there, and what rules of linking images make of shared captions.

    It passes if the product claims no more than chance allows where losses are like gains, and in every world.
    """
    kinds = [(kind, "of one size", count) for kind in clusters.DIFFERENCES for count in clusters.COUNTS]
    kinds += [("normally distributed", sizes, count) for sizes in list(clusters.SIZES)[1:] for count in (41, 401)]
    counted = bench.each("few clusters", _count_few, [(*kind, range(draws)) for kind in kinds])
    few = [
        {
            "differences": kind,
            "sizes": sizes,
            "clusters": count,
            **{
                name: share(number, draws) for name, number in zip(("above", "would_claim", "claims"), row, strict=True)
            },
        }
        for (kind, sizes, count), row in zip(kinds, counted, strict=True)
    ]
    num_linked = min(draws, LINKED_DRAWS)
    jobs = [(world, range(num_linked)) for world in clusters.WORLDS]
    linked = [
        {
            "world": world,
            "rule": rule,
            "above": share(found.above, num_linked),
            "claims": share(found.claimed, num_linked),
            "clusters": found.clusters,
            "width_points": 100 * found.width,
        }
        for (world, _), row in zip(jobs, bench.each("linked images", _count_linked, jobs), strict=True)
        for rule, found in row.items()
    ]
    fair = [row for row in few if not row["differences"].startswith("losses")]
    ours = [row for row in linked if row["rule"] == "product"]
    return {
        "min_clusters": MIN_CLUSTERS,
        "min_differing": MIN_DIFFERING,
        "max_p_value": MAX_P_VALUE,
        "bootstrap_draws": [clusters.DRAWS, clusters.LINKED_DRAWS],
        "passed": all(row["claims"]["count"] <= most_by_chance(row["claims"]["of"]) for row in (*fair, *ours)),
        "few": few,
        "linked": linked,
    }


def _count_few(_: Path, *arguments: Any) -> tuple[int, int, int]:
    """Return what `clusters.count_few` returns, which needs no folder."""
    return clusters.count_few(*arguments)


def _count_linked(_: Path, *arguments: Any) -> dict[str, clusters.Linked]:
    """Return what `clusters.count_linked` returns, which needs no folder."""
    return clusters.count_linked(*arguments)


def measure_shuffled(bench: Bench, searches: int) -> dict[str, Any]:
    """Return how often full searches on shuffled captions claim an improvement."""
    workload = Workload(bench.model, SMALL_MASKS, SMALL_SIZES)
    jobs = [(workload, SEEDS["shuffled"] + index) for index in range(searches)]
    found = bench.each("searches on shuffled captions", shuffled.search_nothing, jobs)
    return _claimed(workload, found)


def measure_planted(bench: Bench, plantings: int) -> dict[str, Any]:
    """Return how often a search on a planted model is not inferior to removing exactly the planted heads."""
    workload = Workload(bench.model, MASKS, SIZES)
    jobs = [(workload, SEEDS["planted"] + index, bench.galleries) for index in range(plantings)]
    found = bench.each("plantings", planted.recover, jobs)
    points = [100 * (each.selected_removed - each.planted_removed) for each in found]
    return {
        **_about(workload),
        "margin": planted.MARGIN,
        "galleries": bench.galleries,
        "not_inferior": share(sum(each.not_inferior for each in found), plantings),
        "not_below": share(sum(each.not_below for each in found), plantings),
        "reliable": share(sum(each.is_reliable for each in found), plantings),
        "median_difference_points": float(np.median(points)),
        "smallest_difference_points": min(points),
        "rows": [each.to_json() for each in found],
    }


def measure_random(bench: Bench, data_sets: int) -> dict[str, Any]:
    """Return what a search gains on test over random search at equal budget."""
    workload = Workload(bench.model, MASKS, SIZES)
    jobs = [(workload, SEEDS["random"] + index) for index in range(data_sets)]
    found = bench.each("searches against random search", control.compare, jobs)
    points = 100 * np.array([each.difference for each in found])
    half = student.ppf(0.975, len(points) - 1) * points.std(ddof=1) / len(points) ** 0.5
    return {
        **_about(workload),
        "mean_gain_searched_points": 100 * float(np.mean([each.gain_searched for each in found])),
        "mean_gain_random_points": 100 * float(np.mean([each.gain_random for each in found])),
        "mean_difference_points": float(points.mean()),
        "interval_points": [float(points.mean() - half), float(points.mean() + half)],
        "rows": [asdict(each) for each in found],
    }


def measure_refined(bench: Bench, data_sets: int) -> dict[str, Any]:
    """Return what scales gain on test over the mask that they were refined from."""
    workload = Workload(bench.model, REFINED_MASKS, SIZES, bench.shift)
    jobs = [(workload, SEEDS["refined"] + index) for index in range(data_sets)]
    found = bench.each("refinements of masks", refined.refine_mask, jobs)
    points = [100 * (each.gain_of_scales - each.gain_of_mask) for each in found]
    return {
        **_about(workload),
        "median_gain_of_mask_points": 100 * float(np.median([each.gain_of_mask for each in found])),
        "median_gain_of_scales_points": 100 * float(np.median([each.gain_of_scales for each in found])),
        "mean_difference_points": float(np.mean(points)),
        "median_difference_points": float(np.median(points)),
        "kept_the_mask": share(sum(each.selected == "the mask" for each in found), data_sets),
        "rows": [asdict(each) for each in found],
    }


def measure_refined_shuffled(bench: Bench, refinements: int) -> dict[str, Any]:
    """Return how often refinements on shuffled captions claim an improvement."""
    workload = Workload(bench.model, 0, SMALL_SIZES)
    jobs = [(workload, SEEDS["refined-shuffled"] + index) for index in range(refinements)]
    found = bench.each("refinements on shuffled captions", refined.refine_nothing, jobs)
    return _claimed(workload, found)


def measure_refined_null(bench: Bench, draws: int) -> dict[str, Any]:
    """Return how often improvements are claimed on null draws of the differences of two refinements' candidates."""
    workload = Workload(bench.model, REFINED_MASKS, {**SIZES, "test": POOL})
    jobs = [(workload, SEEDS["refined-null"] + index) for index in range(2)]
    stored = bench.each("refinements for null draws", refined.candidate_differences, jobs)
    rows = []
    for sizes in NULL_SIZES:
        parts = [
            (*stored[index % len(stored)], sizes, range(start, min(start + DRAWS_IN_JOB, draws)))
            for index, start in enumerate(range(0, draws, DRAWS_IN_JOB))
        ]
        counts = bench.each(f"null draws, {sizes.test} test scenes", _count_refined, parts)
        rows.append({**asdict(sizes), "claims": share(sum(counts), draws), "allowed": most_by_chance(draws)})
    return {
        "num_candidates": [len(scales) for scales, _ in stored],
        "num_scenes": POOL,
        "bootstrap_draws": null.BOOTSTRAP_DRAWS,
        "claims": [row["claims"] for row in rows],
        "passed": all(row["claims"]["count"] <= row["allowed"] for row in rows),
        "rows": rows,
    }


def _count_refined(_: Path, *arguments: Any) -> int:
    """Return what `refined.count_claims` returns, which needs no folder."""
    return refined.count_claims(*arguments)


def measure_halved(bench: Bench, plantings: int) -> dict[str, Any]:
    """Return what refinements make of noise that a scale of one half undoes better than ablating does."""
    workload = Workload(bench.model, 0, SIZES)
    jobs = [(workload, SEEDS["planted"] + index) for index in range(plantings)]
    found = bench.each("noise that half a head undoes", refined.undo, jobs)
    points = [100 * (each.refined - max(each.baseline, each.halved, each.ablated)) for each in found]
    return {
        **_about(workload),
        "median_gain_points": 100 * float(np.median([each.refined - each.baseline for each in found])),
        "median_below_best_points": float(np.median(points)),
        "median_scale": float(np.median([scale for each in found for scale in each.scales.values()])),
        "reliable": share(sum(each.is_reliable for each in found), plantings),
        "rows": [each.to_json() for each in found],
    }


def _claimed(workload: Workload, found: Sequence[NullSearch | NullRefinement]) -> dict[str, Any]:
    """Return how often an improvement was claimed where there is none."""
    claims, allowed = sum(each.is_reliable for each in found), most_by_chance(len(found))
    return {
        **_about(workload),
        "claims": share(claims, len(found)),
        "allowed": allowed,
        "passed": claims <= allowed,
        "rows": [asdict(each) for each in found],
    }


def _about(workload: Workload) -> dict[str, Any]:
    return {"num_masks": workload.masks, "sizes": dict(workload.sizes), "shift": workload.shift}
