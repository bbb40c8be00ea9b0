"""Attention modules of open_clip and timm: where their weights are, and what they normalise.

open_clip builds its blocks on `torch.nn.MultiheadAttention` or on its own `Attention`, timm on an `Attention`, a rotary
one and EVA's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from open_clip.transformer import Attention as OpenClipAttention
from timm.layers import Attention as TimmAttention
from timm.layers import AttentionRope as TimmAttentionRope
from timm.models.eva import EvaAttention
from torch import Tensor, nn

from headmask.attention.heads import HeadAttention, Linear, SeeZ
from headmask.attention.values import OfValues
from headmask.errors import AblationError, ModelError

# B batch, H heads, T tokens, D width

SUPPORTED = "torch.nn.MultiheadAttention, open_clip's Attention, timm's Attention, AttentionRope and EvaAttention"


class MultiheadAttention(HeadAttention):
    """`torch.nn.MultiheadAttention` with packed projections, as in open_clip's standard blocks."""

    def __init__(self, module: nn.MultiheadAttention) -> None:
        if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
            raise ModelError("nn.MultiheadAttention with separate projections or extra key tokens is not supported")
        super().__init__(module, module.out_proj)

    def packed_projection(self) -> Linear | None:
        """Return the three projections as one."""
        return self.module.in_proj_weight, self.module.in_proj_bias

    def forward(self, see: SeeZ, of_values: OfValues, *args: Any, **kwargs: Any) -> Any:
        """Run the self-attention of `nn.MultiheadAttention.forward`."""
        query, key, value = args
        if key is not query or value is not query:
            raise AblationError(
                "ablation acts on self-attention only; this module was called with other keys or values"
            )
        x_BTD = query if self.module.batch_first else query.transpose(0, 1)
        bias = additive(kwargs.get("attn_mask"), x_BTD, self.num_heads)
        y_BTD = self.project(see(self.attend(x_BTD, bias=bias, of_values=of_values)))
        return (y_BTD if self.module.batch_first else y_BTD.transpose(0, 1)), None


class CustomAttention(HeadAttention):
    """open_clip's own `Attention`: query and key norms, a factor per head, an inner norm."""

    def __init__(self, module: OpenClipAttention) -> None:
        if module.logit_scale is not None:
            raise ModelError("scaled-cosine attention is not supported: open_clip's own forward pass fails on it")
        super().__init__(
            module, module.out_proj, query_norm=module.ln_q, key_norm=module.ln_k, inner_norm=module.ln_inner
        )

    @property
    def head_scale_H(self) -> Tensor | None:
        """The module's factor on z per head, or None if it has none."""
        scale_H11: Tensor | None = self.module.head_scale
        return None if scale_H11 is None else scale_H11.flatten()

    def packed_projection(self) -> Linear | None:
        """Return the three projections as one."""
        return self.module.in_proj_weight, self.module.in_proj_bias

    def forward(self, see: SeeZ, of_values: OfValues, x: Tensor, attn_mask: Tensor | None = None) -> Any:
        """Run open_clip's `Attention.forward`."""
        return self.project(see(self.attend(x, bias=additive(attn_mask, x, self.num_heads), of_values=of_values)))


class TimmHeadAttention(HeadAttention):
    """timm's `Attention` and `AttentionRope`, as in SigLIP's and PE's towers."""

    def __init__(self, module: nn.Module) -> None:
        opened: Any = module
        if getattr(opened, "gate", None) is not None:
            raise ModelError("gated attention is not supported: its output is not a sum over heads")
        if getattr(opened, "num_kv_groups", 1) > 1:
            raise ModelError("attention with fewer key and value heads than query heads is not supported")
        super().__init__(module, opened.proj, query_norm=opened.q_norm, key_norm=opened.k_norm, inner_norm=opened.norm)
        self.num_prefix_tokens = getattr(opened, "num_prefix_tokens", 0)

    def projections(self) -> tuple[Linear, Linear, Linear]:
        """Return the q, k and v projections."""
        if self.module.qkv is not None:
            return super().projections()
        q, k, v = self.module.q_proj, self.module.k_proj, self.module.v_proj
        return (q.weight, q.bias), (k.weight, k.bias), (v.weight, v.bias)

    def packed_projection(self) -> Linear | None:
        """Return the three projections as one, if they are in one tensor."""
        return None if self.module.qkv is None else (self.module.qkv.weight, self.module.qkv.bias)

    def forward(self, see: SeeZ, of_values: OfValues, x: Tensor, rope: Tensor | None = None, **kwargs: Any) -> Any:
        """Run timm's `forward`, without an attention mask."""
        if kwargs.get("attn_mask") is not None or kwargs.get("is_causal"):
            raise AblationError("attention masks are not supported in timm's image towers")
        return self.project(see(self.attend(x, rope=rope, of_values=of_values)))


class EvaHeadAttention(TimmHeadAttention):
    """timm's `EvaAttention`: biases kept apart from the packed weight, none on k; EVA02 normalises z."""

    def packed_projection(self) -> Linear | None:
        """Return the three projections as one, if they are in one tensor; the bias is assembled."""
        module = self.module
        if module.qkv is None:
            return None
        bias = None if module.q_bias is None else torch.cat((module.q_bias, module.k_bias, module.v_bias))
        return module.qkv.weight, bias

    def query_parameters(self) -> list[Tensor]:
        """Return weight and bias of the q projection, for editing in place."""
        weight, *bias = super().query_parameters()
        return [weight, *([self.module.q_bias] if self.module.q_bias is not None else bias)]


_ADAPTERS: dict[type, Callable[[Any], HeadAttention]] = {
    nn.MultiheadAttention: MultiheadAttention,
    OpenClipAttention: CustomAttention,
    TimmAttention: TimmHeadAttention,
    TimmAttentionRope: TimmHeadAttention,
    EvaAttention: EvaHeadAttention,
}


def open_attention(module: nn.Module) -> HeadAttention:
    """Return the steps of an attention module.

    Raises:
        ModelError: the module is of another kind.
    """
    if type(module) not in _ADAPTERS:
        raise ModelError(f"attention of type {type(module).__name__} is not supported; supported are {SUPPORTED}")
    return _ADAPTERS[type(module)](module)


def additive(attn_mask: Tensor | None, x_BTD: Tensor, num_heads: int) -> Tensor | None:
    """Return a mask of `nn.MultiheadAttention` (True or -inf: not seen) as an additive one, (T, T) or (B, H, T, T)."""
    if attn_mask is None:
        return None
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=x_BTD.dtype).masked_fill(attn_mask, -torch.inf)
    attn_mask = attn_mask.to(x_BTD.dtype)
    return attn_mask if attn_mask.ndim == 2 else torch.unflatten(attn_mask, 0, (-1, num_heads))
