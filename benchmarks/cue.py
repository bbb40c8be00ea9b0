"""Do the heads that the demo's search removes track the background cue? Per head, on scenes with random backgrounds.

python -m benchmarks.cue --mask runs/demo/mask.json

What a head adds to the embeddings is projected on the text directions of the six kinds of shapes. Measured are the
share of its variance there that the background explains (`cue`), the share that the two true shapes explain (`shape`),
and how far it moves logits towards captions that begin with the shape that the background gave away in training
(`pull`): of the direct contribution, and of the total effect, which is what embeddings lose when the head is ablated.
Selected heads are compared with the others by the area under the ROC curve and Mann and Whitney's two-sided test.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from benchmarks.record import save
from headmask.mask import HeadMask
from headmask.maskfile import MaskFile
from headmask.models.loading import LoadedModel, load_model
from headmask.tower.attribution import direct_contributions
from headmask.tower.towers import view_of
from headmask.tower.views import TowerView
from orchestrator.demo import DEMO_CHUNK, unpack_demo
from orchestrator.demo.scenes import KINDS, Scene, draw_scene, render, unique_scenes
from orchestrator.run.bench import hardware
from workers.data.pixels import Pixels
from workers.data.preprocess import UInt8Preprocess
from workers.scoring.engine import Engine
from workers.scoring.inputs import Normalisation, make_inputs

# N scenes, h heads, E embedding, K kinds of shapes

CAPTIONS_PER_KIND = 300
MEASURES = ("cue", "cue_of_cue_and_shape", "pull")


def text_directions(model: LoadedModel, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return, per kind, how far captions that begin with it lie from all captions, (K, E)."""
    captions: dict[str, list[str]] = {kind: [] for kind in KINDS}
    while min(map(len, captions.values())) < CAPTIONS_PER_KIND:
        scene = draw_scene(rng, cue=0.0)
        for shape, caption in zip((scene.first, scene.second), scene.captions, strict=True):
            captions[shape.kind].append(caption)
    means = []
    for texts in captions.values():
        tokens = model.tokenizer(texts[:CAPTIONS_PER_KIND])
        means.append(F.normalize(model.clip.encode_text(tokens), dim=-1).mean(0))
    mean_KE = torch.stack(means)
    direction_KE: NDArray[np.float32] = (mean_KE - mean_KE.mean(0)).numpy()
    return direction_KE


def explained(score_NK: NDArray[np.float64], group_N: NDArray[np.int64]) -> float:
    """Return the share of variance between groups, less what groups at random would have on average."""
    centred_NK = score_NK - score_NK.mean(0)
    groups = [centred_NK[group_N == group] for group in np.unique(group_N)]
    between = sum(len(group) * np.square(group.mean(0)).sum() for group in groups)
    share = between / np.square(centred_NK).sum()
    free, left = len(groups) - 1, len(group_N) - len(groups)
    return float(1 - (1 - share) * (free + left) / left)


def measures(
    added_NE: NDArray[np.float32],
    direction_KE: NDArray[np.float32],
    length_N: NDArray[np.float32],
    scale: float,
    scenes: Sequence[Scene],
) -> dict[str, float]:
    """Return the measures of one head.

    Args:
        added_NE: what the head adds to the embeddings.
        direction_KE: of the kinds of shapes.
        length_N: of the embeddings, by which a similarity is divided.
        scale: the model's logit scale.
        scenes: what is in the images.
    """
    background_N = np.array([scene.background for scene in scenes])
    kind_N2 = np.array([[KINDS.index(shape.kind) for shape in (scene.first, scene.second)] for scene in scenes])
    logit_NK = scale * (added_NE.astype(np.float64) @ direction_KE.T) / length_N[:, None]
    cue = explained(logit_NK, background_N)
    shape = sum(explained(logit_NK, kind_N) for kind_N in kind_N2.T)
    # What all images have in common favours no background.
    centred_NK = logit_NK - logit_NK.mean(0)
    pull = centred_NK[np.arange(len(scenes)), background_N].mean()
    parts = max(cue, 0.0), max(shape, 0.0)
    return {"cue": cue, "shape": shape, "cue_of_cue_and_shape": parts[0] / max(sum(parts), 1e-12), "pull": float(pull)}


@torch.inference_mode()
def added(view: TowerView, engine: Engine) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Return what every head adds directly and in total, (h, N, E) each, and the embeddings' lengths (N,)."""
    heads = list(view.grid)
    parts = [slice(start, start + engine.chunk) for start in range(0, len(engine.inputs), engine.chunk)]
    found = [direct_contributions(view, taken, heads) for taken in engine.inputs.stream(parts)]
    direct_hNE = torch.cat([each.heads_BhE for each in found]).transpose(0, 1)
    embedding_NE, *without = engine.embed(HeadMask.singles(view.grid))
    total_hNE = torch.stack([embedding_NE - each for each in without])
    return {"direct": direct_hNE.numpy(), "total": total_hNE.numpy()}, embedding_NE.norm(dim=1).numpy()


def comparison(rows: Sequence[dict[str, Any]], effect: str, measure: str) -> dict[str, float]:
    """Return how surely a selected head has more of a measure than another one."""
    selected, others = ([row[effect][measure] for row in rows if row["selected"] is side] for side in (True, False))
    test = mannwhitneyu(selected, others, alternative="two-sided")
    return {
        "auc": float(test.statistic) / (len(selected) * len(others)),
        "p": float(test.pvalue),
        "median_selected": float(np.median(selected)),
        "median_others": float(np.median(others)),
    }


@torch.inference_mode()
def study(mask: MaskFile, model: LoadedModel, num_scenes: int, seed: int) -> dict[str, Any]:
    """Return the measures of all heads, and the comparisons."""
    rng = np.random.default_rng(seed)
    scenes = unique_scenes(rng, num_scenes, cue=0.0)
    preprocess = UInt8Preprocess(model.preprocess)
    pixels = Pixels(np.stack([preprocess(render(scene, rng)) for scene in scenes]), np.arange(num_scenes))
    view = view_of(model.clip)
    engine = Engine(view, make_inputs(pixels, view, Normalisation(preprocess.mean, preprocess.std)), chunk=DEMO_CHUNK)
    direction_KE = text_directions(model, rng)
    effects, length_N = added(view, engine)
    rows = [
        {"head": str(head), "selected": head in mask.mask}
        | {
            name: measures(of_hNE[place], direction_KE, length_N, model.scale, scenes)
            for name, of_hNE in effects.items()
        }
        for place, head in enumerate(view.grid)
    ]
    compared = {effect: {measure: comparison(rows, effect, measure) for measure in MEASURES} for effect in effects}
    return {"selected": list(mask.heads), "compared": compared, "heads": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mask", type=Path, default=Path("runs/demo/mask.json"), help="of the demo")
    parser.add_argument("--scenes", type=int, default=3000, help="with random backgrounds")
    parser.add_argument("--seed", type=int, default=1000, help="of the scenes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        demo = load_model(f"local-dir:{unpack_demo(Path(scratch)).model}")
        content = MaskFile.read(given.mask)
        content.check_model(demo.reference)
        about = {"scenes": given.scenes, "seed": given.seed, "hardware": hardware(torch.device("cpu"))}
        print(save("cue", {**about, **study(content, demo, given.scenes, given.seed)}, sys.argv[1:]))
