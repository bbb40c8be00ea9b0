"""What a search works on, made ready once: model, data, caption embeddings, the replicas' payload, the fingerprint."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headmask.ablation import check_ablation
from headmask.live import calibrate_means
from headmask.mask import HeadGrid
from headmask.models import LoadedModel, load_model
from headmask.towers import VisionTowerView
from orchestrator.config import SearchConfig
from strategies import Limits
from workers.engine import Normalisation
from workers.preprocess import UInt8Preprocess
from workers.replica import PackedTower, Payload
from workers.retrieval import RetrievalSplit, load_retrieval
from workers.scorer import ScorerSettings, SplitArrays, embed_texts, proven_view

SPLITS = ("search", "confirm", "test")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """Model and data of a search, ready for a pool."""

    config: SearchConfig
    model: LoadedModel
    view: VisionTowerView
    """Of the model's image tower, proven."""
    limits: Limits
    splits: Mapping[str, RetrievalSplit]
    payload: Payload
    fingerprint: Mapping[str, Any]

    @property
    def grid(self) -> HeadGrid:
        """Layers and heads of the image tower."""
        return self.view.grid

    @property
    def digest(self) -> str:
        """The fingerprint as one short digest."""
        return fingerprint_digest(self.fingerprint)


def fingerprint_digest(fingerprint: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits of a fingerprint's SHA-256."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of what decides a score or a study."""
    packages = ("headmask", "torch", "open_clip_torch", "optuna", "numpy", "pillow")
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def prepare(config: SearchConfig) -> Session:
    """Return the session of a configuration: load, decode, embed captions, prove the tower.

    Raises:
        HeadmaskError: the model, its tower, the data or the limits do not fit; raised before any replica is started.
    """
    model = load_model(config.model.name, config.model.pretrained)
    view = VisionTowerView(model.clip.visual)
    check_ablation(config.search.ablation, has_class_token=view.has_class_token, means=())
    limits = _limits(config, view.grid)
    preprocess = UInt8Preprocess(model.preprocess)
    splits = load_splits(config, preprocess)
    settings = ScorerSettings(config.search.ablation, config.search.image_chunk, config.search.threads)
    payload = make_payload(model, preprocess, splits, settings, calibrate_on="search")
    view = proven_view(model.clip.visual, splits["search"].pixels, payload.normalisation)
    fingerprint = {
        "model": model.reference.weights_sha256,
        "tower": "image",
        "grid": str(view.grid),
        "data": {name: split.digest for name, split in splits.items()},
        "preprocess": preprocess.description,
        "task": "retrieval",
        "objective": config.search.objective,
        "ablation": config.search.ablation,
        "precision": config.search.precision,
        "image_chunk": config.search.image_chunk,
        "threads": config.search.threads,
        "strategy": config.search.strategy,
        "layers": list(config.search.layers) if config.search.layers is not None else None,
        "protect": sorted(config.search.protect),
        "max_heads": config.search.max_heads,
        "block_size": config.search.block_size,
        "seed": config.search.seed,
        "finalists": config.search.finalists,
    }
    return Session(config, model, view, limits, splits, payload, fingerprint)


def load_splits(config: SearchConfig, preprocess: UInt8Preprocess) -> Mapping[str, RetrievalSplit]:
    """Return the three splits of a configuration's data, decoded."""
    data = config.data
    return load_retrieval(
        Path(data.path),
        preprocess,
        seed=data.split_seed,
        draw_splits=data.draw_splits,
        image_column=data.image_column,
        caption_column=data.caption_column,
        split_column=data.split_column,
    )


def make_payload(
    model: LoadedModel,
    preprocess: UInt8Preprocess,
    splits: Mapping[str, RetrievalSplit],
    settings: ScorerSettings,
    *,
    calibrate_on: str | None = None,
) -> Payload:
    """Return what replicas need: the packed image tower, pixels, caption embeddings, calibrated means."""
    normalisation = Normalisation(preprocess.mean, preprocess.std)
    arrays = {
        name: SplitArrays(
            split.pixels,
            embed_texts(model.clip, model.tokenizer(list(split.captions)), threads=settings.threads),
            split.image_of_caption_Q,
        )
        for name, split in splits.items()
    }
    means_LHd = None
    if settings.ablation == "mean" and calibrate_on is not None:
        means_LHd = _means(model, splits[calibrate_on], normalisation, settings).numpy()
    return Payload(PackedTower.pack(model.clip.visual), arrays, normalisation, settings, means_LHd)


def _means(
    model: LoadedModel, split: RetrievalSplit, normalisation: Normalisation, settings: ScorerSettings
) -> torch.Tensor:
    torch.set_num_threads(settings.threads)

    def encode() -> None:
        for start in range(0, len(split.pixels), settings.image_chunk):
            pixels = split.pixels[start : start + settings.image_chunk]
            model.clip.visual(normalisation(pixels, torch.device("cpu")))

    return calibrate_means(model.clip, encode)


def _limits(config: SearchConfig, grid: HeadGrid) -> Limits:
    search = config.search
    layers = None if search.layers is None else frozenset(search.layers)
    limits = Limits(layers=layers, protect=frozenset(search.protect), max_heads=search.max_heads)
    limits.check(grid)
    return limits
