"""Find the attention heads that hurt a CLIP model, prove it on unseen data, and fold them away.

    import headmask

    run = headmask.search(model="ViT-B-32", pretrained="laion2b_s34b_b79k", data="my.parquet", out="runs/first")
    print(run)

    model = headmask.load_model("ViT-B-32", "laion2b_s34b_b79k")
    with headmask.ablate(model.clip, run.mask):
        ...
    headmask.export(model, run.mask, "refined.safetensors")

Names are loaded when first used: `import headmask` brings in neither torch nor Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headmask.ablation.rules import ABLATIONS as ABLATIONS
    from headmask.ablation.rules import Ablation as Ablation
    from headmask.apply.exporting import export as export
    from headmask.apply.folding import fold as fold
    from headmask.apply.live import ablate as ablate
    from headmask.apply.live import calibrate_means as calibrate_means
    from headmask.apply.masked import load as load
    from headmask.apply.masked import load_pruned as load_pruned
    from headmask.apply.proof import ExportProof as ExportProof
    from headmask.apply.pruning import prune as prune
    from headmask.errors import HeadmaskError as HeadmaskError
    from headmask.mask import Head as Head
    from headmask.mask import HeadGrid as HeadGrid
    from headmask.mask import HeadMask as HeadMask
    from headmask.maskfile import MaskFile as MaskFile
    from headmask.models.loading import LoadedModel as LoadedModel
    from headmask.models.loading import load_model as load_model
    from headmask.scales import HeadScales as HeadScales
    from headmask.scalesfile import ScalesFile as ScalesFile
    from headmask.tower.towers import grid_of as grid_of
    from orchestrator.api import refine as refine
    from orchestrator.api import resume as resume
    from orchestrator.api import scan as scan
    from orchestrator.api import search as search
    from orchestrator.outcome.run import SearchRun as SearchRun
    from orchestrator.refine.run import RefineRun as RefineRun

_HOMES = {
    "ABLATIONS": "headmask.ablation.rules",
    "Ablation": "headmask.ablation.rules",
    "ExportProof": "headmask.apply.proof",
    "Head": "headmask.mask",
    "HeadGrid": "headmask.mask",
    "HeadMask": "headmask.mask",
    "HeadScales": "headmask.scales",
    "ScalesFile": "headmask.scalesfile",
    "HeadmaskError": "headmask.errors",
    "LoadedModel": "headmask.models.loading",
    "MaskFile": "headmask.maskfile",
    "ablate": "headmask.apply.live",
    "calibrate_means": "headmask.apply.live",
    "export": "headmask.apply.exporting",
    "fold": "headmask.apply.folding",
    "grid_of": "headmask.tower.towers",
    "load": "headmask.apply.masked",
    "load_model": "headmask.models.loading",
    "load_pruned": "headmask.apply.masked",
    "prune": "headmask.apply.pruning",
    "refine": "orchestrator.api",
    "RefineRun": "orchestrator.refine.run",
    "resume": "orchestrator.api",
    "SearchRun": "orchestrator.outcome.run",
    "scan": "orchestrator.api",
    "search": "orchestrator.api",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'headmask' has no attribute {name!r}")
    if _HOMES[name].startswith("orchestrator"):
        importlib.import_module("headmask.border.names").check_names()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
