"""One attention module of a tower, opened at z: the heads' outputs before the output projection.

open_clip builds its blocks on `torch.nn.MultiheadAttention` or, with custom options, on its own `Attention`. Both are
read here through the same three steps, so that an ablation is written once, on z, and fused attention stays on.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.transformer import Attention as OpenClipAttention
from torch import Tensor, nn

from headmask.errors import ModelError

# B batch, H heads, T tokens, D width, d width of one head


class Attended(NamedTuple):
    """What attention read for every head, before any ablation."""

    z_BHTd: Tensor
    """Outputs of the heads: softmax(q k^T / sqrt(d)) v."""
    v_BHTd: Tensor
    """Values, from which `uniform` and `cls` make their replacements."""
    bias_TT: Tensor | None
    """Additive attention mask: 0 where a query may see a token, -inf where not; None when it sees all."""


class HeadAttention(Protocol):
    """The steps of one self-attention module."""

    module: Any
    """The attention module itself."""
    num_heads: int
    normalises_query: bool
    """q is normalised per head, so a zero query row does not give uniform attention."""
    normalises_heads: bool
    """The concatenated z is normalised before the output projection, so zero z is not zero columns."""

    def attend(self, x_BTD: Tensor, bias_TT: Tensor | None = None) -> Attended:
        """Return z and v of all heads for the normalised residual stream."""
        ...

    def project(self, z_BHTd: Tensor) -> Tensor:
        """Return the attention output (B, T, D) of the heads' outputs."""
        ...

    def head_scale_H(self) -> Tensor | None:
        """Return the factor that the module puts on z per head, or None where it has none."""
        ...


def _split_heads(x_BTD: Tensor, num_heads: int) -> Tensor:
    batch, tokens, _ = x_BTD.shape
    return x_BTD.view(batch, tokens, num_heads, -1).transpose(1, 2)


def _join_heads(z_BHTd: Tensor) -> Tensor:
    return z_BHTd.transpose(1, 2).flatten(2)


class MultiheadAttention:
    """`torch.nn.MultiheadAttention` with packed projections, as in open_clip's standard blocks."""

    normalises_query = False
    normalises_heads = False

    def __init__(self, module: nn.MultiheadAttention) -> None:
        if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
            raise ModelError("nn.MultiheadAttention with separate projections or extra key tokens is not supported")
        self.module: Any = module
        self.num_heads: int = module.num_heads

    def attend(self, x_BTD: Tensor, bias_TT: Tensor | None = None) -> Attended:
        """Return z and v of all heads for the normalised residual stream."""
        qkv_BTD = F.linear(x_BTD, self.module.in_proj_weight, self.module.in_proj_bias)
        q, k, v = (_split_heads(part, self.num_heads) for part in qkv_BTD.chunk(3, dim=-1))
        return Attended(F.scaled_dot_product_attention(q, k, v, attn_mask=bias_TT), v, bias_TT)

    def project(self, z_BHTd: Tensor) -> Tensor:
        """Return the attention output (B, T, D) of the heads' outputs."""
        projection = self.module.out_proj
        return F.linear(_join_heads(z_BHTd), projection.weight, projection.bias)

    def head_scale_H(self) -> Tensor | None:
        """Return None: this module scales no heads."""
        return None


class CustomAttention:
    """open_clip's own `Attention`: query and key norms, a factor per head, an inner norm."""

    def __init__(self, module: OpenClipAttention) -> None:
        if module.logit_scale is not None:
            raise ModelError("scaled-cosine attention is not supported: open_clip's own forward pass fails on it")
        self.module: Any = module
        self.num_heads: int = module.num_heads
        self.normalises_query = not isinstance(module.ln_q, nn.Identity)
        self.normalises_heads = not isinstance(module.ln_inner, nn.Identity)

    def attend(self, x_BTD: Tensor, bias_TT: Tensor | None = None) -> Attended:
        """Return z and v of all heads for the normalised residual stream."""
        qkv_BTD = F.linear(x_BTD, self.module.in_proj_weight, self.module.in_proj_bias)
        q, k, v = (_split_heads(part, self.num_heads) for part in qkv_BTD.chunk(3, dim=-1))
        z_BHTd = F.scaled_dot_product_attention(self.module.ln_q(q), self.module.ln_k(k), v, attn_mask=bias_TT)
        return Attended(z_BHTd, v, bias_TT)

    def project(self, z_BHTd: Tensor) -> Tensor:
        """Return the attention output (B, T, D) of the heads' outputs."""
        if self.module.head_scale is not None:
            z_BHTd = z_BHTd * self.module.head_scale
        projected: Tensor = self.module.out_proj(self.module.ln_inner(_join_heads(z_BHTd)))
        return projected

    def head_scale_H(self) -> Tensor | None:
        """Return the factor that the module puts on z per head, or None where it has none."""
        scale_H11: Tensor | None = self.module.head_scale
        return None if scale_H11 is None else scale_H11.flatten()


def open_attention(module: nn.Module) -> HeadAttention:
    """Return the steps of an attention module.

    Raises:
        ModelError: the module is of another kind.
    """
    if isinstance(module, nn.MultiheadAttention):
        return MultiheadAttention(module)
    if isinstance(module, OpenClipAttention):
        return CustomAttention(module)
    raise ModelError(
        f"attention of type {type(module).__name__} is not supported; "
        "supported are torch.nn.MultiheadAttention and open_clip's Attention"
    )


def output_weight(attention: HeadAttention) -> tuple[Tensor, Tensor | None]:
    """Return W_O (D, H*d), one block of columns per head, and b_O (D,)."""
    projection = attention.module.out_proj
    if not isinstance(projection, nn.Linear):
        raise ModelError(f"the output projection is a {type(projection).__name__}, not a linear layer")
    return projection.weight, projection.bias


def head_columns(attention: HeadAttention, head: int) -> slice:
    """Return the columns of W_O (and the rows of each third of the packed projection) that belong to a head."""
    width = output_weight(attention)[0].shape[1] // attention.num_heads
    return slice(head * width, (head + 1) * width)


def edited_clone(z_BHTd: Tensor, heads: list[int], replacement: Tensor | float) -> Tensor:
    """Return a copy of z with the given heads replaced, by a number or by a tensor that broadcasts."""
    edited_BHTd = z_BHTd.clone()
    edited_BHTd[:, torch.tensor(heads, device=z_BHTd.device)] = replacement
    return edited_BHTd
