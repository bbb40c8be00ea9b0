"""Landscapes of random weights: 12 x 12 or 24 x 16 heads, of which some were planted to hurt."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from filelock import FileLock
from numpy.typing import NDArray
from open_clip.model import CLIP
from safetensors.torch import save_file

from benchmarks.strategies.measured import Measured, folder_of, session_of
from headmask.mask import HeadGrid, HeadMask
from orchestrator.demo import DEMO_CHUNK
from orchestrator.demo.scenes import downstream_rows
from orchestrator.search.session import Session
from strategies import Limits
from workers.data.dataset import Row, write_dataset
from workers.scoring.replica import Replica
from workers.tasks.retrieval import RetrievalTargets

# N images, Q captions, E embedding

HEAD_WIDTH = 4
SCALE = 50
"""Of the logits: a trained CLIP ends near 100."""
SEED = 0
PLANTED = 0.125
"""Part of the heads that hurt."""
NOISE = 0.4
"""Of caption embeddings, as part of the spread of image embeddings."""


@dataclass(frozen=True)
class Shape:
    """Size of a landscape."""

    grid: HeadGrid
    num_images: int

    @property
    def clip_config(self) -> dict[str, Any]:
        """The architecture, as open_clip reads it."""
        width = HEAD_WIDTH * self.grid.heads
        return {
            "embed_dim": width,
            "vision_cfg": {
                "image_size": 48,
                "patch_size": 12,
                "width": width,
                "layers": self.grid.layers,
                "head_width": HEAD_WIDTH,
            },
            "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        }


SHAPES = {"random-144": Shape(HeadGrid(12, 12), 1_000), "random-384": Shape(HeadGrid(24, 16), 2_000)}


@cache
def random_landscape(name: str) -> Measured:
    """Return heads with random weights on drawn scenes, all of them free.

    The captions of a scene are embedded near what its image would be without the planted heads: those hurt.
    """
    folder, shape = folder_of(name), SHAPES[name]
    with FileLock(folder / ".lock"):
        if not (folder / "scenes.parquet").exists():
            write_random_model(folder / "model", shape)
            write_scenes(folder / "scenes.parquet", shape.num_images)
    session = session_of(folder / "model", folder / "scenes.parquet")
    arrays = session.payload.splits["search"][""]
    planted = replace(arrays, other_E=_captions(session, planted_mask(session.grid)))
    splits = {**session.payload.splits, "search": {"": planted}}
    return Measured(replace(session, payload=replace(session.payload, splits=splits)), Limits())


def write_random_model(folder: Path, shape: Shape) -> None:
    """Write a small CLIP with random weights, whose heads all matter, as a folder that open_clip loads."""
    torch.manual_seed(SEED)
    model = CLIP(**shape.clip_config, init_logit_scale=math.log(SCALE)).requires_grad_(False)
    for name, parameter in model.visual.named_parameters():
        if "attn" in name:
            parameter.normal_(std=0.2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": shape.clip_config, "preprocess_cfg": {"size": 48}})
    )
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def write_scenes(path: Path, num_images: int) -> None:
    """Write drawn scenes; only those of the search split count."""
    sizes = {"search": num_images, "confirm": 8, "test": 8}
    rows = enumerate(downstream_rows(SEED, sizes=sizes))
    temporary = path.with_suffix(".part")
    write_dataset(temporary, (Row(f"{i}.webp", image, captions, split) for i, (image, captions, split) in rows))
    temporary.replace(path)


def planted_mask(grid: HeadGrid) -> HeadMask:
    """Return the heads that were planted."""
    heads = list(grid)
    chosen = np.random.default_rng(SEED).choice(len(heads), round(PLANTED * len(heads)), replace=False)
    return HeadMask.from_heads(grid, [heads[index] for index in chosen])


def _captions(session: Session, mask: HeadMask) -> NDArray[np.float32]:
    """Return embeddings (Q, E) of captions, each near its image's under a mask."""
    (split,) = session.splits["search"]
    if not isinstance(split.targets, RetrievalTargets):
        raise TypeError(f"captions are for retrieval, not for {split.targets.task}")
    engine = Replica(session.payload).engine("search", "float32", DEMO_CHUNK)
    embedding_NE = engine.embed([mask])[0].numpy()
    embedding_QE = (embedding_NE - embedding_NE.mean(0))[np.asarray(split.targets.image_of_caption_Q)]
    noise_QE = np.random.default_rng(SEED).normal(0, NOISE * embedding_QE.std(), embedding_QE.shape)
    text_QE = torch.from_numpy(embedding_QE + noise_QE)
    return F.normalize(text_QE, dim=-1).float().numpy()
