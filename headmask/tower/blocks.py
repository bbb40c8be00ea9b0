"""The transformer blocks of towers: what attention reads in them, and how its output is used."""

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

    @property
    def output_norm(self) -> nn.Module | None:
        """The norm of the attention output, if there is one."""
        norm: nn.Module | None = getattr(self._block, "ln_attn", None)
        return norm

    def replace_attention(self, module: nn.Module) -> None:
        """Put another attention module into the block."""
        self._block.attn = module

    def read(self, x_BTD: Tensor) -> Tensor:
        """Return the input of attention."""
        read_BTD: Tensor = self._block.ln_1(x_BTD)
        return read_BTD

    def scale(self, y_BQD: Tensor) -> Tensor:
        """Return the attention output, after its norm if any, as it is added to the residual stream."""
        scaled_BQD: Tensor = self._block.ls_1(y_BQD)
        return scaled_BQD

    def feed(self, x_BQD: Tensor) -> Tensor:
        """Return what the MLP adds to the residual stream."""
        fed_BQD: Tensor = self._block.ls_2(self._block.mlp(self._block.ln_2(x_BQD)))
        return fed_BQD

    def add(self, x_BQD: Tensor, y_BQD: Tensor) -> Tensor:
        """Return the residual stream between attention and MLP; the arguments are those of `finish`."""
        return x_BQD + self.scale(y_BQD if self.output_norm is None else self.output_norm(y_BQD))

    def finish(self, x_BQD: Tensor, y_BQD: Tensor) -> Tensor:
        """Return the residual stream after a block, given what enters it and its attention output."""
        x_BQD = self.add(x_BQD, y_BQD)
        return x_BQD + self.feed(x_BQD)


class _TimmBlock(OpenClipBlock):
    """timm's `Block`."""

    def read(self, x_BTD: Tensor) -> Tensor:
        read_BTD: Tensor = self._block.norm1(x_BTD)
        return read_BTD

    def scale(self, y_BQD: Tensor) -> Tensor:
        scaled_BQD: Tensor = self._block.ls1(y_BQD)
        return scaled_BQD

    def feed(self, x_BQD: Tensor) -> Tensor:
        fed_BQD: Tensor = self._block.ls2(self._block.mlp(self._block.norm2(x_BQD)))
        return fed_BQD


class _EvaBlock(_TimmBlock):
    """timm's `EvaBlock`: layer scales are bare parameters."""

    def scale(self, y_BQD: Tensor) -> Tensor:
        gamma_D: Tensor | None = self._block.gamma_1
        return y_BQD if gamma_D is None else gamma_D * y_BQD

    def feed(self, x_BQD: Tensor) -> Tensor:
        gamma_D: Tensor | None = self._block.gamma_2
        fed_BQD: Tensor = self._block.mlp(self._block.norm2(x_BQD))
        return fed_BQD if gamma_D is None else gamma_D * fed_BQD


class _EvaBlockPostNorm(OpenClipBlock):
    """timm's `EvaBlockPostNorm`: norms after attention and MLP."""

    @property
    def output_norm(self) -> nn.Module | None:
        norm: nn.Module = self._block.norm1
        return norm

    def read(self, x_BTD: Tensor) -> Tensor:
        return x_BTD

    def scale(self, y_BQD: Tensor) -> Tensor:
        return y_BQD

    def feed(self, x_BQD: Tensor) -> Tensor:
        fed_BQD: Tensor = self._block.norm2(self._block.mlp(x_BQD))
        return fed_BQD


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
        ModelError: its kind is not supported.
    """
    if type(block) not in _BLOCKS:
        raise ModelError(f"blocks of type {type(block).__name__} are not supported")
    return _BLOCKS[type(block)](block)
