"""Towers: where a model's heads are, and which view opens them.

`prove` shows that a view computes the same as the model, so no mask can silently fail to apply.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from headmask.ablation.oracle import stock_ablation
from headmask.attention.heads import HeadAttention
from headmask.errors import GridError, ModelError
from headmask.mask import HeadGrid, HeadMask
from headmask.scales import HeadScales
from headmask.tower.views import IMAGE_VIEWS, OpenClipImageView, TextView, TowerView

TowerName = Literal["image", "text"]
SUPPORTED = (
    "open_clip's VisionTransformer (ViT-*, CoCa, CLIPA), timm's VisionTransformer and Eva (SigLIP, SigLIP2, EVA02, PE) "
    "for images, open_clip's text transformer for text; `headmask models` lists the architectures"
)


def tower_of(model: Any, tower: TowerName = "image") -> nn.Module:
    """Return a tower of a model as a module that runs by itself; a tower passed alone is returned unchanged.

    Text towers of plain `CLIP` models are spread over the model: what comes back then is the model without its image
    tower, sharing all weights.
    """
    if tower == "image":
        visual: nn.Module = getattr(model, "visual", model)
        return visual
    text = getattr(model, "text", None)
    if isinstance(text, nn.Module):
        return text
    if "visual" not in getattr(model, "_modules", {}):
        root: nn.Module = model
        return root
    alone = copy.copy(model)
    alone._modules = {name: module for name, module in model._modules.items() if name != "visual"}
    rest: nn.Module = alone
    return rest


def view_of(model: nn.Module, tower: TowerName = "image") -> TowerView:
    """Return the view of a model's tower, or of a tower passed alone.

    Raises:
        ModelError: the tower is not supported; the message names it and lists what is.
    """
    module: Any = tower_of(model, tower)
    refusal = f"the {tower} tower is a {_kind(module)}"
    try:
        if tower == "text":
            if isinstance(module, TextTransformer) or hasattr(module, "token_embedding"):
                return TextView(module)
        elif isinstance(module, VisionTransformer):
            return OpenClipImageView(module)
        elif isinstance(module, TimmModel) and type(module.trunk) in IMAGE_VIEWS:
            return IMAGE_VIEWS[type(module.trunk)](module)
    except ModelError as error:
        raise ModelError(f"{refusal}, and {error}; supported: {SUPPORTED}") from None
    raise ModelError(f"{refusal}; supported: {SUPPORTED}")


def attentions(model: nn.Module, tower: TowerName = "image") -> list[HeadAttention]:
    """Return the attention modules of a tower, layer by layer.

    Raises:
        ModelError: the tower is not supported.
    """
    return view_of(model, tower).attentions


def grid_of(model: nn.Module, tower: TowerName = "image") -> HeadGrid:
    """Return the (layers, heads) of a tower.

    Raises:
        ModelError: the tower is not supported, or its layers differ in their number of heads.
    """
    return view_of(model, tower).grid


def check_grid(mask: HeadMask | HeadScales, grid: HeadGrid, what: str) -> None:
    """Check that a mask, or scales, belong on a tower's grid.

    Raises:
        GridError: it does not; the message shows both grids.
    """
    if mask.grid != grid:
        what_grid = "mask grid" if isinstance(mask, HeadMask) else "grid of the scales"
        raise GridError(
            f"{what_grid} is {mask.grid} but {what} has {grid.layers} layers x {grid.heads} heads; "
            "use it with the model it was made for"
        )


@torch.no_grad()
def prove(view: TowerView, inputs: Tensor, *, tolerance: float, seed: int = 0) -> None:
    """Prove on a probe batch that the view computes the same as the model, or refuse the tower.

    The baseline must equal the stock forward pass, and one random mask per layer the stock forward pass with edited
    weights; differences are of L2-normalised embeddings.

    Args:
        view: the view to prove.
        inputs: normalised images of the tower's size, or token ids; at least three.
        tolerance: largest difference allowed.
        seed: seed of the random masks.

    Raises:
        ModelError: the view differs from the model, or the model's own embeddings are not finite.
    """
    rng = np.random.default_rng(seed)
    masks = [HeadMask.empty(view.grid)]
    for layer in range(view.grid.layers):
        ablated = rng.random(view.grid.heads) < 0.5
        ablated[rng.integers(view.grid.heads)] = True
        masks.append(HeadMask.from_heads(view.grid, [(layer, int(head)) for head in np.flatnonzero(ablated)]))
    for mask in masks:
        with stock_ablation(view.attentions, mask):
            stock_BE = _normalised(view.stock(inputs))
        if mask.is_empty and not bool(stock_BE.isfinite().all()):
            raise ModelError(
                f"{_kind(view.module)} gives non-finite embeddings with nothing ablated; check its weights"
            )
        difference = (_normalised(view.encode(inputs, mask)) - stock_BE).abs().max().item()
        if not difference <= tolerance:
            raise ModelError(
                f"the view of {_kind(view.module)} is not the model: with mask {str(mask) or '(empty)'} its embeddings "
                f"differ from stock open_clip by {difference:.1e} (allowed {tolerance:.0e}); this tower is refused"
            )


def _kind(module: Any) -> str:
    trunk = getattr(module, "trunk", None)
    return type(module).__name__ + (f" around timm's {type(trunk).__name__}" if trunk is not None else "")


def _normalised(embedding_BE: Tensor) -> Tensor:
    return F.normalize(embedding_BE.float(), dim=-1)
