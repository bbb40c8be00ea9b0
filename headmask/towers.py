"""Towers: where a model's heads are, and the pieces of its forward pass.

A *tower view* exposes the pieces of every block (attention up to z, everything after z), so that a scoring engine can
run them itself instead of hanging hooks on the model. `prove` shows that a view is the model: a mask that is silently
never applied cannot happen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from headmask.ablation import Ablation, replace_heads
from headmask.attention import Attended, HeadAttention, open_attention
from headmask.errors import GridError, ModelError
from headmask.mask import HeadGrid, HeadMask
from headmask.oracle import stock_ablation

# B batch, T tokens, D width, E embedding, H heads, d width of one head

TowerName = Literal["image", "text"]
SUPPORTED = "open_clip's VisionTransformer (ViT-*, and its variants) for images, its text transformer for text"


def attentions(model: nn.Module, tower: TowerName = "image") -> list[HeadAttention]:
    """Return the attention modules of a tower, layer by layer.

    Raises:
        ModelError: the tower is not a transformer whose heads headmask knows; the message lists what is supported.
    """
    return [open_attention(block.attn) for block in _resblocks(model, tower)]


def grid_of(model: nn.Module, tower: TowerName = "image") -> HeadGrid:
    """Return the (layers, heads) of a tower.

    Raises:
        ModelError: the tower is not supported, or its layers differ in their number of heads.
    """
    counts = [attention.num_heads for attention in attentions(model, tower)]
    if len(set(counts)) != 1:
        raise ModelError(f"all layers of a tower must have the same number of heads; this one has {counts}")
    return HeadGrid(len(counts), counts[0])


def check_grid(mask: HeadMask, grid: HeadGrid, what: str) -> None:
    """Check that a mask belongs on a tower's grid.

    Raises:
        GridError: it does not; the message says both sides.
    """
    if mask.grid != grid:
        raise GridError(
            f"mask grid is {mask.grid} but {what} has {grid.layers} layers x {grid.heads} heads; "
            "use the mask with the model it was made for"
        )


def _resblocks(model: Any, tower: TowerName) -> Sequence[Any]:
    root = model.visual if tower == "image" and hasattr(model, "visual") else model
    if tower == "text":
        root = model.text if isinstance(getattr(model, "text", None), TextTransformer) else model
        if not hasattr(root, "transformer") or not hasattr(root, "token_embedding"):
            raise ModelError(f"the text tower is a {_kind(getattr(model, 'text', model))}; supported: {SUPPORTED}")
    elif not isinstance(root, VisionTransformer):
        raise ModelError(f"the image tower is a {_kind(root)}; supported: {SUPPORTED}")
    return list(root.transformer.resblocks)


def _kind(module: Any) -> str:
    trunk = getattr(module, "trunk", None)
    return type(module).__name__ + (f" around timm's {type(trunk).__name__}" if trunk is not None else "")


class VisionTowerView:
    """The pieces of open_clip's `VisionTransformer`, in evaluation mode.

    Args:
        visual: the image tower; it is put into evaluation mode.

    Raises:
        ModelError: the tower is of another kind.
    """

    has_class_token = True

    def __init__(self, visual: nn.Module) -> None:
        if not isinstance(visual, VisionTransformer):
            raise ModelError(f"the image tower is a {_kind(visual)}; supported: {SUPPORTED}")
        self.visual = visual.eval()
        self.blocks: list[Any] = list(visual.transformer.resblocks)
        self.attentions = [open_attention(block.attn) for block in self.blocks]
        self.grid = HeadGrid(len(self.blocks), self.attentions[0].num_heads)
        self.image_size: tuple[int, int] = visual.image_size

    def embed(self, images_BCYX: Tensor) -> Tensor:
        """Return the residual stream (B, T, D) that enters the first block."""
        x_BTD: Tensor = self.visual._embeds(images_BCYX)
        return x_BTD

    def attend(self, layer: int, x_BTD: Tensor) -> Attended:
        """Return what the heads of a layer read from the residual stream that enters it."""
        return self.attentions[layer].attend(self.blocks[layer].ln_1(x_BTD))

    def finish(self, layer: int, x_BTD: Tensor, z_BHTd: Tensor) -> Tensor:
        """Return the residual stream that leaves a layer, given its heads' (possibly ablated) outputs."""
        block = self.blocks[layer]
        y_BTD = self.attentions[layer].project(z_BHTd)
        if hasattr(block, "ln_attn"):
            y_BTD = block.ln_attn(y_BTD)
        x_BTD = x_BTD + block.ls_1(y_BTD)
        left_BTD: Tensor = x_BTD + block.ls_2(block.mlp(block.ln_2(x_BTD)))
        return left_BTD

    def pool(self, x_BTD: Tensor) -> Tensor:
        """Return the image embeddings (B, E), not normalised."""
        pooled, _ = self.visual._pool(x_BTD)
        embedding_BE: Tensor = pooled if self.visual.proj is None else pooled @ self.visual.proj
        return embedding_BE

    def encode(self, images_BCYX: Tensor, mask: HeadMask, ablation: Ablation, means_LHd: Tensor | None) -> Tensor:
        """Return the embeddings (B, E) with a mask applied: one pass through all pieces."""
        x_BTD = self.embed(images_BCYX)
        for layer, word in enumerate(mask.words):
            attended = self.attend(layer, x_BTD)
            means_Hd = None if means_LHd is None else means_LHd[layer]
            x_BTD = self.finish(layer, x_BTD, replace_heads(attended, word, ablation, means_Hd))
        return self.pool(x_BTD)


@torch.no_grad()
def prove(view: VisionTowerView, images_BCYX: Tensor, *, tolerance: float, seed: int = 0) -> None:
    """Show on a probe batch that the view is the model, else refuse the tower.

    The baseline must equal the stock forward pass, and one random mask per layer the stock forward pass with edited
    weights; differences are of L2-normalised embeddings.

    Args:
        view: the view to be proven.
        images_BCYX: normalised images of the tower's size; at least three.
        tolerance: largest difference allowed.
        seed: of the random masks.

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
            stock_BE = _stock_embeddings(view.visual, images_BCYX)
        if mask.is_empty and not bool(stock_BE.isfinite().all()):
            raise ModelError(
                f"{_kind(view.visual)} gives non-finite embeddings with nothing ablated; check its weights"
            )
        difference = (_normalised(view.encode(images_BCYX, mask, "zero", None)) - stock_BE).abs().max().item()
        if not difference <= tolerance:
            raise ModelError(
                f"the view of {_kind(view.visual)} is not the model: with mask {str(mask) or '(empty)'} its embeddings "
                f"differ from stock open_clip by {difference:.1e} (allowed {tolerance:.0e}); this tower is refused"
            )


def _stock_embeddings(visual: nn.Module, images_BCYX: Tensor) -> Tensor:
    output = visual(images_BCYX)
    return _normalised(output[0] if isinstance(output, tuple) else output)


def _normalised(embedding_BE: Tensor) -> Tensor:
    return F.normalize(embedding_BE.float(), dim=-1)
