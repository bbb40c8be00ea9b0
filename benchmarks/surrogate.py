"""How well cheap predictions order masks, against exact evaluation, and what they cost.

python -m benchmarks.surrogate                                        the demo's model and data
python -m benchmarks.surrogate --random                               12 layers x 12 heads with random weights
python -m benchmarks.surrogate --model local-dir:FOLDER --data FILE   another model

Masks of 2 to 12 heads, drawn at random, and evolved at their size until they are good; by Spearman's rank correlation
with the exact objective. Half of the evolved masks are there to be learned from, the other half is predicted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import chain, combinations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.record import save
from headmask.ablation.rules import ZERO
from headmask.mask import Head, HeadGrid, HeadMask
from orchestrator.run.bench import hardware
from workers.scoring.displacement import Displacements, Predictor, displacement
from workers.scoring.engine import Engine
from workers.tasks.base import Targets

SIZES = (2, 3, 4, 6, 8, 10, 12)
PER_SIZE = 40
GENERATIONS = 2
PAIR_HEADS = (8, 16, 24)
"""Pairs among this many of the best single heads have terms of their own."""
REBASED_HEADS = 8
NUM_LEARNED = (32, 128)
"""Good masks that pair terms are learned from."""
RIDGE = 0.1

Predict = Callable[[HeadMask], Tensor]


class Landscape:
    """Exact and predicted values of masks, each computed once.

    Args:
        engine: embeds under masks.
        targets: measure embeddings.
        other_E: normalised embeddings of the other side.
        metric: the objective.
    """

    def __init__(self, engine: Engine, targets: Targets, other_E: Tensor, metric: str) -> None:
        self.engine, self.targets, self.other_E, self.metric = engine, targets, other_E, metric
        self.grid = engine.view.grid
        self.known: dict[HeadMask, float] = {}

    def value(self, embedding_NE: Tensor) -> float:
        """Return the metric that embeddings earn."""
        ranks = self.targets.measure(F.normalize(embedding_NE, dim=-1), self.other_E)
        return self.targets.values(ranks)[self.metric]

    def exact(self, masks: Iterable[HeadMask]) -> list[float]:
        """Return exact values."""
        masks = list(masks)
        new = sorted(set(masks) - self.known.keys())
        for start in range(0, len(new), 64):
            part = new[start : start + 64]
            self.known |= {m: self.value(e) for m, e in zip(part, self.engine.embed(part), strict=True)}
        return [self.known[mask] for mask in masks]

    def scan(self) -> Displacements:
        """Return the displacements of all heads, with the scan's values remembered."""
        masks = HeadMask.singles(self.grid)
        embedding_MNE = self.engine.embed(masks)
        self.known |= {mask: self.value(embedding_NE) for mask, embedding_NE in zip(masks, embedding_MNE, strict=True)}
        baseline_NE, *others = (embedding_NE.numpy() for embedding_NE in embedding_MNE)
        moved = [displacement(embedding_NE, baseline_NE) for embedding_NE in others]
        return Displacements(baseline_NE, dict(zip(self.grid, moved, strict=True)))


def random_mask(grid: HeadGrid, size: int, rng: np.random.Generator, among: list[Head] | None = None) -> HeadMask:
    heads = among or list(grid)
    return HeadMask.from_heads(grid, [heads[index] for index in rng.choice(len(heads), size, replace=False)])


def evolved_masks(landscape: Landscape, size: int, rng: np.random.Generator) -> list[HeadMask]:
    """Return good masks of one size: the best of a few generations in which a head or two are exchanged."""
    grid = landscape.grid
    empty, heads = HeadMask.empty(grid), list(grid)
    gains = {head: landscape.known[empty.flipped(head)] for head in heads}
    best = sorted(heads, key=lambda head: -gains[head])[: max(2 * size, len(heads) // 3)]
    masks = sorted({random_mask(grid, size, rng, best) for _ in range(PER_SIZE)})
    for _ in range(GENERATIONS):
        children = set(masks)
        while len(children) < len(masks) + PER_SIZE:
            child = masks[min(rng.integers(len(masks), size=2))]
            for _ in range(rng.integers(1, 3)):
                child = child.flipped(child.heads[rng.integers(size)])
                absent = [head for head in heads if head not in child]
                child = child.flipped(absent[rng.integers(len(absent))])
            children.add(child)
        ranked = sorted(children)
        values = landscape.exact(ranked)
        masks = [ranked[index] for index in np.argsort(np.negative(values), kind="stable")[:PER_SIZE]]
    return masks


def pair_terms(landscape: Landscape, predictor: Predictor, heads: list[Head]) -> dict[tuple[Head, Head], Tensor]:
    """Return what pairs do beyond the sum of their heads."""
    masks = [HeadMask.from_heads(landscape.grid, pair) for pair in combinations(sorted(heads), 2)]
    terms = {}
    for start in range(0, len(masks), 64):
        part = masks[start : start + 64]
        for mask, embedding_NE in zip(part, landscape.engine.embed(part), strict=True):
            first, second = mask.heads
            terms[first, second] = (embedding_NE - predictor.embed(mask)).half()
    return terms


def learned_pairs(landscape: Landscape, predictor: Predictor, masks: list[HeadMask]) -> Predict:
    """Return predictions with pair terms learned from exact embeddings: a ridge on all pairs, solved in its dual.

    What masks do beyond the sums of their heads is a sum over their pairs, so the kernel of two masks is the number of
    pairs that they share.
    """
    exact_MNE = torch.cat([landscape.engine.embed(masks[start : start + 64]) for start in range(0, len(masks), 64)])
    residual_MNE = exact_MNE - torch.stack([predictor.embed(mask) for mask in masks])
    kernel_MM = _shared_pairs(masks, masks)
    inverse_MM = np.linalg.inv(kernel_MM + RIDGE * np.eye(len(masks)))

    def predict(mask: HeadMask) -> Tensor:
        weights_M = torch.from_numpy(_shared_pairs([mask], masks)[0] @ inverse_MM).float()
        return predictor.embed(mask) + torch.tensordot(weights_M, residual_MNE, 1)

    return predict


def _shared_pairs(first: list[HeadMask], second: list[HeadMask]) -> np.ndarray:
    bits = [np.stack([mask.to_bools().ravel() for mask in masks]).astype(np.float64) for masks in (first, second)]
    shared = bits[0] @ bits[1].T
    return shared * (shared - 1) / 2


@torch.inference_mode()
def contributions(engine: Engine, *, mean_ablated: bool) -> Predict:
    """Return predictions by direct contributions: heads taken out of what pooling reads, nothing propagated.

    After Gandelsman et al. 2024 (arXiv 2310.05916), with the last norm applied anew.
    """
    view, inputs = engine.view, engine.inputs.take(slice(0, len(engine.inputs)))
    sequences = view.embed(inputs)
    x, written = sequences.x_BTD, {}
    for layer, attention in enumerate(view.attentions):
        entered = view.enter(layer, sequences, x, ZERO)
        z_BH1d = entered.attended.z_BHQd[:, :, :1]
        nothing = torch.zeros_like(entered.x_BQD[:, :1])
        for head in range(view.grid.heads):
            y_B1D = -attention.corrected(nothing, [head], None, z_BH1d)
            written[Head(layer, head)] = y_B1D - y_B1D.mean(0) if mean_ablated else y_B1D
        x = view.leave(layer, entered, 0, ZERO)
    left = x[:, :1]

    def predict(mask: HeadMask) -> Tensor:
        return view.pool(left - sum(written[head] for head in mask.heads)).float()

    return predict


def study(landscape: Landscape, seed: int) -> dict[str, Any]:
    """Return the correlations of every way to predict, by kind and size of masks."""
    rng = np.random.default_rng(seed)
    displacements = landscape.scan()
    predictor = Predictor(displacements, torch.device("cpu"))
    grid, empty = landscape.grid, HeadMask.empty(landscape.grid)
    singles = {head: landscape.known[empty.flipped(head)] - landscape.known[empty] for head in grid}
    ranked = sorted(grid, key=lambda head: -singles[head])
    ways: dict[str, Callable[[HeadMask], float]] = {
        "metric changes added": lambda mask: sum(singles[head] for head in mask.heads),
        "direct contributions": _measured(landscape, contributions(landscape.engine, mean_ablated=False)),
        "direct contributions, mean": _measured(landscape, contributions(landscape.engine, mean_ablated=True)),
        "displacements": _measured(landscape, predictor.embed),
    }
    largest = [count for count in PAIR_HEADS if count <= len(ranked)]
    terms = pair_terms(landscape, predictor, ranked[: max(largest)])
    for count in largest:
        chosen = set(ranked[:count])

        def with_pairs(mask: HeadMask, chosen: set[Head] = chosen) -> Tensor:
            pairs = combinations([head for head in mask.heads if head in chosen], 2)
            return sum((terms[pair].float() for pair in pairs), predictor.embed(mask))

        ways[f"displacements, pairs of {count}"] = _measured(landscape, with_pairs)
    evolved = {size: evolved_masks(landscape, size, rng) for size in SIZES}
    lesson = [mask for masks in evolved.values() for mask in masks[::2]]
    for count in NUM_LEARNED:
        chosen_masks = [lesson[index] for index in rng.choice(len(lesson), count, replace=False)]
        learned = learned_pairs(landscape, predictor, chosen_masks)
        ways[f"displacements, pairs learned from {count}"] = _measured(landscape, learned)
    kinds = {
        "random": {size: [random_mask(grid, size, rng) for _ in range(PER_SIZE)] for size in SIZES},
        "evolved": {size: masks[1::2] for size, masks in evolved.items()},
    }
    found = {kind: correlations(landscape, by_size, ways) for kind, by_size in kinds.items()}
    base = max(evolved[REBASED_HEADS], key=landscape.known.__getitem__)
    return {**found, "near": near(landscape, predictor, base, rng, ways["displacements"])}


def _measured(landscape: Landscape, predict: Predict) -> Callable[[HeadMask], float]:
    return lambda mask: landscape.value(predict(mask))


def correlations(
    landscape: Landscape, by_size: dict[int, list[HeadMask]], ways: dict[str, Callable[[HeadMask], float]]
) -> dict[str, Any]:
    """Return rank correlations with the exact values, for every size and over all of them."""
    exact = {size: landscape.exact(masks) for size, masks in by_size.items()}
    found: dict[str, Any] = {}
    for name, predict in ways.items():
        predicted = {size: [predict(mask) for mask in masks] for size, masks in by_size.items()}
        by = {str(size): spearman(exact[size], predicted[size]) for size in by_size}
        found[name] = {**by, "all": spearman([*chain(*exact.values())], [*chain(*predicted.values())])}
        print(f"{name:38}", *(f"{size} {value}" for size, value in found[name].items()), sep="  ", flush=True)
    return found


def near(
    landscape: Landscape, predictor: Predictor, base: HeadMask, rng: np.random.Generator, plain: Callable
) -> dict[str, Any]:
    """Return correlations among masks that differ from a good one in 1 to 6 heads, predicted from there or not."""
    heads = list(landscape.grid)
    around = [base, *(base.flipped(head) for head in heads)]
    base_NE, *moved = landscape.engine.embed(around)
    offset_NE = base_NE - predictor.embed(base)
    scanned = {head: (embedding_NE - base_NE) for head, embedding_NE in zip(heads, moved, strict=True)}
    by_distance = {}
    for distance in range(1, 7):
        masks = set()
        while len(masks) < PER_SIZE:
            mask = base
            for index in rng.choice(len(heads), distance, replace=False):
                mask = mask.flipped(heads[index])
            masks.add(mask)
        by_distance[distance] = sorted(masks)

    def rescanned(mask: HeadMask) -> Tensor:
        flipped = [head for head in heads if (head in mask) != (head in base)]
        return sum((scanned[head] for head in flipped), base_NE)

    ways = {
        "displacements": plain,
        "displacements from the good mask": _measured(landscape, lambda mask: predictor.embed(mask) + offset_NE),
        "scanned again at the good mask": _measured(landscape, rescanned),
    }
    return correlations(landscape, by_distance, ways)


def spearman(first: list[float], second: list[float]) -> float | None:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return round(float(spearmanr(first, second).statistic), 3)


def costs(landscape: Landscape, rounds: int, seed: int) -> dict[str, Any]:
    """Return seconds per mask, exact and predicted, rounds of both alternating."""
    rng = np.random.default_rng(seed)
    predictor = Predictor(landscape.scan(), torch.device("cpu"))
    masks = sorted({random_mask(landscape.grid, 6, rng) for _ in range(32)})
    timed = []
    for number in range(rounds + 1):
        exact_s = _seconds(lambda: [landscape.value(each) for each in landscape.engine.embed(masks)]) / len(masks)
        predicted_s = _seconds(lambda: [landscape.value(predictor.embed(mask)) for mask in masks]) / len(masks)
        if number:
            timed.append((exact_s, predicted_s))
    return {
        "exact_s_per_mask": median(exact_s for exact_s, _ in timed),
        "predicted_s_per_mask": median(predicted_s for _, predicted_s in timed),
        "ratio": median(exact_s / predicted_s for exact_s, predicted_s in timed),
    }


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def of_session(model: str, data: str) -> Landscape:
    """Return the landscape of a model on the search split of a data set."""
    from orchestrator.search.preparing import prepare
    from orchestrator.settings.config import read_config
    from orchestrator.settings.options import flags_of
    from workers.scoring.replica import Replica

    session = prepare(read_config(None, flags_of({"model": model, "data": data, "out": "runs/unused"})))
    (split,) = session.payload.splits["search"].values()
    engine = Replica(session.payload).engine("search", "float32", 64)
    return Landscape(engine, split.targets, torch.from_numpy(split.other_E), split.targets.default_objective)


def of_demo(folder: Path) -> Landscape:
    """Return the landscape of the demo."""
    from orchestrator.demo import unpack_demo

    paths = unpack_demo(folder)
    return of_session(f"local-dir:{paths.model}", str(paths.data))


def of_random(seed: int, num_images: int = 300) -> Landscape:
    """Return the landscape of random weights on drawn scenes, whose captions are embedded near their images."""
    import open_clip

    from headmask.tower.towers import view_of
    from orchestrator.demo.scenes import render, unique_scenes
    from workers.data.pixels import Pixels
    from workers.scoring.inputs import ImageInputs, Normalisation
    from workers.tasks.retrieval import RetrievalTargets

    torch.manual_seed(seed)
    vision = {"image_size": 48, "patch_size": 12, "width": 192, "layers": 12, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    visual = open_clip.model.CLIP(64, vision, text).visual.requires_grad_(False).eval()
    for name, parameter in visual.named_parameters():
        if "attn" in name:
            parameter.normal_(std=0.12)
    rng = np.random.default_rng(seed)
    scenes = unique_scenes(rng, num_images, cue=0.0)
    pixels_NCYX = np.stack([np.asarray(render(scene, rng)).transpose(2, 0, 1) for scene in scenes])
    view = view_of(visual)
    normalisation = Normalisation(np.full(3, 0.45, np.float32), np.full(3, 0.2, np.float32))
    inputs = ImageInputs(Pixels(pixels_NCYX, np.arange(num_images)), normalisation, view.device, view.dtype)
    engine = Engine(view, inputs, chunk=64)
    embedding_NE = engine.embed([HeadMask.empty(view.grid)])[0]
    embedding_NE = (embedding_NE - embedding_NE.mean(0)).repeat_interleave(2, 0)
    noise_QE = torch.randn(embedding_NE.shape, generator=torch.Generator().manual_seed(seed))
    text_QE = F.normalize(embedding_NE + 0.7 * embedding_NE.std() * noise_QE, dim=-1)
    targets = RetrievalTargets(np.arange(num_images).repeat(2))
    return Landscape(engine, targets, text_QE, "mean_recall")


def main() -> None:
    """Measure, and write one dated file."""
    parser = argparse.ArgumentParser(description="How well cheap predictions order masks.")
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.random:
            name, landscape = "random", of_random(arguments.seed)
        elif arguments.model:
            name, landscape = "model", of_session(arguments.model, arguments.data)
        else:
            name, landscape = "demo", of_demo(Path(scratch))
        cost = costs(landscape, arguments.rounds, arguments.seed)
        found = study(landscape, arguments.seed)
    content = {
        "grid": str(landscape.grid),
        "objective": landscape.metric,
        "baseline": landscape.known[HeadMask.empty(landscape.grid)],
        "masks_per_size": PER_SIZE,
        **cost,
        "spearman": found,
        "hardware": hardware(torch.device("cpu")),
    }
    print(save(f"surrogate-{name}", content, sys.argv[1:]))


if __name__ == "__main__":
    main()
