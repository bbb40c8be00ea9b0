"""The transformer blocks of towers: what attention reads in them, and what becomes of what it gives."""

from __future__ import annotations

from typing import Any

from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from headmask.errors import ModelError

# B batch, T tokens, Q tokens that are computed, D width


class OpenClipBlock:
    """open_clip's blocks, standard and custom."""

    def __init__(self, block: Any) -> None:
        self._block = block

    def read(self, x_BTD: Tensor) -> Tensor:
        """Return what attention reads."""
        read_BTD: Tensor = self._block.ln_1(x_BTD)
        return read_BTD

    def finish(self, x_BQD: Tensor, y_BQD: Tensor) -> Tensor:
        """Return the residual stream after a block, given what enters it and its attention output."""
        block = self._block
        if hasattr(block, "ln_attn"):
            y_BQD = block.ln_attn(y_BQD)
        x_BQD = x_BQD + block.ls_1(y_BQD)
        left_BQD: Tensor = x_BQD + block.ls_2(block.mlp(block.ln_2(x_BQD)))
        return left_BQD


class _TimmBlock(OpenClipBlock):
    """timm's `Block`."""

    def read(self, x_BTD: Tensor) -> Tensor:
        read_BTD: Tensor = self._block.norm1(x_BTD)
        return read_BTD

    def finish(self, x_BQD: Tensor, y_BQD: Tensor) -> Tensor:
        block = self._block
        x_BQD = x_BQD + block.ls1(y_BQD)
        left_BQD: Tensor = x_BQD + block.ls2(block.mlp(block.norm2(x_BQD)))
        return left_BQD


class _EvaBlock(_TimmBlock):
    """timm's `EvaBlock`: layer scales are bare parameters."""

    def finish(self, x_BQD: Tensor, y_BQD: Tensor) -> Tensor:
        block = self._block
        x_BQD = x_BQD + (y_BQD if block.gamma_1 is None else block.gamma_1 * y_BQD)
        y_BQD = block.mlp(block.norm2(x_BQD))
        return x_BQD + (y_BQD if block.gamma_2 is None else block.gamma_2 * y_BQD)


class _EvaBlockPostNorm(OpenClipBlock):
    """timm's `EvaBlockPostNorm`: norms after attention and MLP."""

    def read(self, x_BTD: Tensor) -> Tensor:
        return x_BTD

    def finish(self, x_BQD: Tensor, y_BQD: Tensor) -> Tensor:
        block = self._block
        x_BQD = x_BQD + block.norm1(y_BQD)
        left_BQD: Tensor = x_BQD + block.norm2(block.mlp(x_BQD))
        return left_BQD


_BLOCKS: dict[type, type[OpenClipBlock]] = {
    ResidualAttentionBlock: OpenClipBlock,
    CustomResidualAttentionBlock: OpenClipBlock,
    TimmBlock: _TimmBlock,
    EvaBlock: _EvaBlock,
    EvaBlockPostNorm: _EvaBlockPostNorm,
}


def open_block(block: nn.Module) -> OpenClipBlock:
    """Return a transformer block, opened where attention reads and writes.

    Raises:
        ModelError: it is of a kind that is not known.
    """
    if type(block) not in _BLOCKS:
        raise ModelError(f"blocks of type {type(block).__name__} are not supported")
    return _BLOCKS[type(block)](block)
