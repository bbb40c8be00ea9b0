"""A pool of scenes embedded under masks once, so that many draws of search, confirm and test splits cost little.

Masks of the candidate set are embedded by the engine. Others are told by displacements: e(baseline) plus the sum, over
the mask's heads, of what ablating that head alone moves. Both are landscapes of their own: search, confirm and test
are measured on the same one.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from headmask.mask import HeadGrid, HeadMask
from headmask.models.loading import LoadedModel, load_model
from headmask.tower.towers import view_of
from orchestrator.demo import unpack_demo
from orchestrator.demo.scenes import render, unique_scenes
from workers.data.pixels import Pixels
from workers.data.preprocess import UInt8Preprocess
from workers.scoring.embedding import embed_texts
from workers.scoring.engine import Engine
from workers.scoring.inputs import Normalisation, make_inputs
from workers.tasks.ranking import logarithmic, reciprocal, within
from workers.tasks.retrieval import DIRECTIONS, RetrievalTargets

# M masks, N images, 2 captions of an image, Q captions, E embedding, K columns of credits

Shift = Literal["none", "noise", "blur"]
CREDITS = {"r1": within(1), "r5": within(5), "r10": within(10), "mrr": reciprocal(), "log_rank": logarithmic()}
COLUMNS = tuple(f"{way}_{name}" for way in DIRECTIONS for name in (*CREDITS, "probability", "likelihood"))
"""What every image earns, itself or by its captions: by ranks, by the probability of what is right, by its logarithm.

The mean likelihood is minus the loss of CLIP's training (Radford et al. 2021).
"""
MASKS_AT_ONCE = 64


@dataclass(frozen=True)
class Pool:
    """Embeddings of the images under the scan and the candidates, and of their captions."""

    grid: HeadGrid
    exact: dict[HeadMask, NDArray[np.float32]]
    """(N, E), as the model gives them, not normalised."""
    text_N2E: Tensor
    """L2-normalised."""
    scale: float
    """The model's logit scale: one over its temperature."""

    def embedding(self, mask: HeadMask, rows: NDArray[np.int64]) -> Tensor:
        """Return (n, E), L2-normalised: exact where the mask was embedded, else by displacements."""
        if mask in self.exact:
            image_nE = self.exact[mask][rows]
        else:
            base_nE = self.exact[HeadMask.empty(self.grid)][rows]
            alone = [self.exact[HeadMask.from_heads(self.grid, [head])][rows] for head in mask.heads]
            image_nE = sum(alone) - (len(alone) - 1) * base_nE
        return torch.nn.functional.normalize(torch.from_numpy(image_nE), dim=-1)

    def displaced(self) -> Pool:
        """Return the pool with the scan alone, so that all other masks are told by displacements."""
        return replace(self, exact={mask: self.exact[mask] for mask in HeadMask.singles(self.grid)})

    def credits(self, mask: HeadMask, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what every image earns, (n, K), `COLUMNS` in order, as `workers` measures it."""
        image_nE, text_QE = self.embedding(mask, rows), self.text_N2E[torch.from_numpy(rows)].flatten(0, 1)
        found = RetrievalTargets(np.arange(len(rows)).repeat(2), self.scale).measure(image_nE, text_QE)
        columns = []
        for way in DIRECTIONS:
            rank_nq, probability_nq = (found[kind].reshape(len(rows), -1) for kind in (way, f"{way}_probability"))
            columns += [credit[rank_nq].mean(1) for credit in CREDITS.values()]
            columns += [probability_nq.mean(1), np.log(probability_nq + 1e-30).mean(1)]
        return np.stack(columns, axis=1).astype(np.float32)


def make_pool(folder: Path, count: int, *, seed: int, cue: float, shift: Shift, num_candidates: int) -> Pool:
    """Return the pool of a model folder: the scan and the candidates, embedded exactly."""
    torch.set_num_threads(1)
    model = load_model(f"local-dir:{folder}")
    rng = np.random.default_rng((seed, 7))
    scenes = unique_scenes(rng, count, cue=cue)
    preprocess = UInt8Preprocess(model.preprocess)
    pixels = np.stack([preprocess(shifted(render(scene, rng), shift, rng)) for scene in scenes])
    captions = [caption for scene in scenes for caption in scene.captions]
    text_QE = torch.from_numpy(np.array(embed_texts(model.clip, model.tokenizer(captions), threads=1)))
    grid = view_of(model.clip, "image").grid
    scan = embedded(model, preprocess, pixels, HeadMask.singles(grid))
    pool = Pool(grid, scan, text_QE.view(count, 2, -1), model.scale)
    more = embedded(model, preprocess, pixels, candidates(pool, num_candidates, rng))
    return replace(pool, exact=scan | more)


def embedded(
    model: LoadedModel, preprocess: UInt8Preprocess, pixels_NCYX: NDArray[np.uint8], masks: list[HeadMask]
) -> dict[HeadMask, NDArray[np.float32]]:
    view = view_of(model.clip, "image")
    inputs = make_inputs(
        Pixels(pixels_NCYX, np.arange(len(pixels_NCYX))), view, Normalisation(preprocess.mean, preprocess.std)
    )
    found = {}
    for start in range(0, len(masks), MASKS_AT_ONCE):
        part = sorted(masks)[start : start + MASKS_AT_ONCE]
        found |= dict(zip(part, Engine(view, inputs, chunk=64).embed(part).numpy(), strict=True))
    return found


def candidates(pool: Pool, count: int, rng: np.random.Generator) -> list[HeadMask]:
    """Return masks as a search would try them: best heads of noisy scans with a few flips, and random ones.

    A noisy scan is the mean reciprocal rank on 200 images drawn at random, so no draw of splits has made them.
    """
    columns = [COLUMNS.index("t2i_mrr"), COLUMNS.index("i2t_mrr")]
    num_images = len(pool.text_N2E)
    found: dict[HeadMask, None] = {}
    heads = list(pool.grid)
    while len(found) < count:
        rows = np.sort(rng.choice(num_images, min(200, num_images), replace=False))
        values = {
            mask: float(pool.credits(mask, rows)[:, columns].mean()) for mask in HeadMask.singles(pool.grid) if mask
        }
        ranked = sorted((mask for mask in values if len(mask) == 1), key=lambda mask: -values[mask])
        for _ in range(count // 20 + 1):
            size = int(rng.integers(2, 13))
            chosen = {mask.heads[0] for mask in ranked[:size]}
            flips = rng.choice(len(heads) // 2, int(rng.integers(0, 5)), replace=False)
            chosen ^= {ranked[flip].heads[0] for flip in flips}
            if rng.random() < 0.3:
                chosen = {heads[index] for index in rng.choice(len(heads), size, replace=False)}
            mask = HeadMask.from_heads(pool.grid, sorted(chosen))
            if len(mask) > 1:
                found[mask] = None
    return list(found)[:count]


def shifted(image: Image.Image, shift: Shift, rng: np.random.Generator) -> Image.Image:
    """Return an image of another domain: grain of a poor camera, or out of focus."""
    if shift == "noise":
        grain = rng.normal(0, 30, size=(*image.size[::-1], 3))
        return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(1.2)) if shift == "blur" else image


def unpacked(name: str, scratch: Path) -> Path:
    """Return a folder that open_clip loads, made in another: the demo's, or one of the training script by its path."""
    if name == "demo":
        return unpack_demo(scratch).model
    scratch.mkdir(parents=True, exist_ok=True)
    for path in Path(name).iterdir():
        content = path.read_bytes()
        (scratch / path.name.removesuffix(".xz")).write_bytes(
            lzma.decompress(content) if path.suffix == ".xz" else content
        )
    return scratch
