"""What a search works on, made ready once: model, data, the other side's embeddings, the payload, the fingerprint."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headmask.ablation import check_ablation
from headmask.mask import HeadGrid
from headmask.models import LoadedModel, load_model
from headmask.towers import TowerName, tower_of, view_of
from headmask.views import TowerView
from orchestrator.config import SearchConfig
from strategies import Limits
from workers.constants import Constants
from workers.embedding import embed_images, embed_texts
from workers.engine import REVISION
from workers.inputs import Normalisation
from workers.preprocess import UInt8Preprocess
from workers.replica import PackedTower, Payload, Wanted
from workers.retrieval import RetrievalSplit, load_retrieval
from workers.scorer import ScorerSettings, SplitArrays, probe_inputs, proven_view
from workers.trie import TowerCost

SPLITS = ("search", "confirm", "test")


@dataclass(frozen=True)
class Session:
    """Model and data of a search, ready for a pool."""

    config: SearchConfig
    model: LoadedModel
    view: TowerView
    """Of the searched tower, proven, in float32."""
    cost: TowerCost
    """What masks cost on that tower."""
    limits: Limits
    splits: Mapping[str, RetrievalSplit]
    payload: Payload
    preprocessing: str
    constants: Constants | None = None
    """Of the study, once a pool has settled them."""

    @property
    def grid(self) -> HeadGrid:
        """Layers and heads of the searched tower."""
        return self.view.grid

    @property
    def wanted(self) -> Wanted:
        """What the configuration says of the constants of the study."""
        return Wanted(self.config.search.precision, self.config.search.image_chunk)

    def settled(self, constants: Constants) -> Session:
        """Return the session with the constants of the study, which its configuration names from then on."""
        search = self.config.search.model_copy(
            update={"precision": constants.precision, "image_chunk": constants.chunk}
        )
        return replace(self, config=self.config.model_copy(update={"search": search}), constants=constants)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All that decides a study, as JSON values; the budget does not."""
        search = self.config.search
        return {
            "model": self.model.reference.weights_sha256,
            "tower": search.tower,
            "grid": str(self.grid),
            "data": {name: split.digest for name, split in self.splits.items()},
            "preprocess": self.preprocessing,
            "task": "retrieval",
            "objective": search.objective,
            "ablation": search.ablation,
            "engine": REVISION,
            "precision": search.precision,
            "image_chunk": search.image_chunk,
            "threads": search.threads,
            "strategy": search.strategy,
            "layers": list(search.layers) if search.layers is not None else None,
            "protect": sorted(search.protect),
            "max_heads": search.max_heads,
            "block_size": search.block_size,
            "seed": search.seed,
            "finalists": search.finalists,
        }

    @property
    def digest(self) -> str:
        """The fingerprint as one short digest: 16 hexadecimal digits of its SHA-256."""
        return hashlib.sha256(json.dumps(self.fingerprint, sort_keys=True).encode()).hexdigest()[:16]


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
    """Return the session of a configuration: load, decode, embed the other side, prove the tower.

    Raises:
        HeadmaskError: the model, its tower, the data or the limits do not fit; raised before any replica is started.
    """
    search = config.search
    model = load_model(config.model.name, config.model.pretrained)
    view = view_of(model.clip, search.tower)
    check_ablation(search.ablation, has_class_token=view.has_class_token, means=())
    limits = _limits(config, view.grid)
    preprocess = UInt8Preprocess(model.preprocess)
    splits = load_splits(config, preprocess)
    settings = ScorerSettings(search.ablation, search.threads)
    payload = make_payload(model, preprocess, splits, settings, search.tower)
    first = payload.splits["search"]
    view = proven_view(tower_of(model.clip, search.tower), first, payload.normalisation, name=search.tower)
    cost = TowerCost.of(view, probe_inputs(first, view, payload.normalisation))
    return Session(config, model, view, cost, limits, splits, payload, preprocess.description)


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
    tower: TowerName,
) -> Payload:
    """Return what replicas need: the packed tower, its inputs, the other side's embeddings."""
    normalisation = Normalisation(preprocess.mean, preprocess.std)

    def arrays(split: RetrievalSplit) -> SplitArrays:
        tokens_QT = model.tokenizer(list(split.captions))
        if tower == "text":
            image_NE = embed_images(model.clip.visual, split.pixels, normalisation, threads=settings.threads)
            return SplitArrays(tokens_QT.numpy(), image_NE, split.image_of_caption_Q)
        text_QE = embed_texts(model.clip, tokens_QT, threads=settings.threads)
        return SplitArrays(split.pixels, text_QE, split.image_of_caption_Q)

    packed = PackedTower.pack(tower_of(model.clip, tower))
    return Payload(packed, tower, {name: arrays(split) for name, split in splits.items()}, normalisation, settings)


def _limits(config: SearchConfig, grid: HeadGrid) -> Limits:
    search = config.search
    layers = None if search.layers is None else frozenset(search.layers)
    limits = Limits(layers=layers, protect=frozenset(search.protect), max_heads=search.max_heads)
    limits.check(grid)
    return limits
