"""Pruning: attention without the ablated heads' rows of q, k and v and columns of W_O.

A pruned model computes what the masked one does with less, but no stock loader knows layers of different numbers of
heads: `headmask.load_pruned` loads it.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from headmask.ablation.rules import Ablation, find_ablation
from headmask.apply.folding import fold, why_not_folded
from headmask.attention.adapters import TimmHeadAttention, additive
from headmask.attention.heads import HeadAttention, Linear, SeeZ
from headmask.attention.values import OfValues, keep_none
from headmask.errors import AblationError
from headmask.mask import HeadMask
from headmask.maskfile import HeadFile
from headmask.scales import HeadScales, scales_of
from headmask.tower.towers import TowerName, check_grid, view_of

# B batch, H heads, T tokens, D width, d width of one head


class PrunedAttention(nn.Module):
    """Self-attention with a subset of a stock module's heads; it replaces that module in a block.

    It is called as the stock module is. A factor per head is multiplied into W_O. There is no dropout.

    Args:
        attention: the stock module, opened.
        heads: numbers of the heads that stay; with none, what remains of attention is its output bias.
    """

    def __init__(self, attention: HeadAttention, heads: list[int]) -> None:
        super().__init__()
        stock = attention.module
        self.heads = heads
        self.num_heads, self.num_stock_heads = len(heads), attention.num_heads
        out_proj = attention.out_proj
        rows_Hd = torch.arange(out_proj.in_features, device=out_proj.weight.device).view(attention.num_heads, -1)
        rows = rows_Hd[heads].flatten()
        weight, bias = _packed(attention, rows)
        self.in_proj_weight = nn.Parameter(weight)
        self.in_proj_bias = None if bias is None else nn.Parameter(bias)
        self.query_norm, self.key_norm = deepcopy(attention.query_norm), deepcopy(attention.key_norm)
        self.out_proj = _narrowed(attention, rows)
        self.batch_first: bool = getattr(stock, "batch_first", True)
        self.rotate_half: bool = getattr(stock, "rotate_half", False)
        self.num_prefix_tokens = attention.num_prefix_tokens
        self.returns_pair = isinstance(stock, nn.MultiheadAttention)
        self.takes_mask = not isinstance(attention, TimmHeadAttention)
        self.requires_grad_(out_proj.weight.requires_grad).train(stock.training)

    def forward(
        self,
        x: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        need_weights: bool = False,
    ) -> Any:
        """Return the attention output as the stock module does: paired with None if that returns weights."""
        if any(other is not None and other is not x for other in (key, value)):
            raise AblationError("pruned attention is self-attention; it was called with other keys or values")
        if is_causal or (attn_mask is not None and not self.takes_mask):
            raise AblationError("attention masks are not supported in timm's image towers")
        x_BTD = x if self.batch_first else x.transpose(0, 1)
        y_BTD = self._attend(x_BTD, attn_mask, rope)
        y_BTD = y_BTD if self.batch_first else y_BTD.transpose(0, 1)
        return (y_BTD, None) if self.returns_pair else y_BTD

    def extra_repr(self) -> str:
        """Return what printing the model shows of this module."""
        return f"{self.num_heads} of {self.num_stock_heads} heads"

    def _attend(self, x_BTD: Tensor, attn_mask: Tensor | None, rope: Tensor | None) -> Tensor:
        if not self.heads:
            nothing_BTD = torch.zeros_like(x_BTD[..., :1]).expand(-1, -1, self.out_proj.out_features)
            return nothing_BTD if self.out_proj.bias is None else nothing_BTD + self.out_proj.bias
        bias = additive(attn_mask, x_BTD, self.num_stock_heads)
        if bias is not None and bias.ndim == 4:
            bias = bias[:, self.heads]
        y_BTD: Tensor = _PrunedHeads(self).forward(lambda attended: attended.z_BHQd, keep_none, x_BTD, bias, rope)
        return y_BTD


class _PrunedHeads(HeadAttention):
    """The steps of pruned attention."""

    def __init__(self, module: PrunedAttention) -> None:
        super().__init__(module, module.out_proj, query_norm=module.query_norm, key_norm=module.key_norm)
        self.num_prefix_tokens = module.num_prefix_tokens

    def packed_projection(self) -> Linear | None:
        return self.module.in_proj_weight, self.module.in_proj_bias

    def forward(self, see: SeeZ, of_values: OfValues, x: Tensor, bias: Tensor | None, rope: Tensor | None) -> Any:
        return self.project(see(self.attend(x, bias=bias, rope=rope, of_values=of_values)))


def prune(
    model: nn.Module,
    mask: HeadMask | HeadScales | HeadFile,
    *,
    ablation: str = "zero",
    tower: TowerName = "image",
    means_LHd: Tensor | None = None,
) -> nn.Module:
    """Return a copy of the model without a mask's heads, or without those whose scale is 0; the others are folded.

    Layers that lose none are as `fold` leaves them. What `mean` puts in place of a head is added to the output bias.

    Raises:
        GridError: the mask is of another grid.
        AblationError: the ablation needs something of an ablated head, or the heads are normalised together; the
            message says why.
    """
    if isinstance(mask, HeadFile):
        ablation, tower, means_LHd, mask = mask.ablation, mask.tower, mask.means_tensor(), mask.head_scales
    if reason := find_ablation(ablation).why_not_pruned():
        raise AblationError(reason)
    pruned = fold(model, mask, ablation=ablation, tower=tower, means_LHd=means_LHd)
    take_out(pruned, scales_of(mask).ablated, tower)
    return pruned


def why_not_pruned(ablation: Ablation, attention: HeadAttention, tower: TowerName) -> str | None:
    """Return why an ablated head cannot be taken out of an attention module; None where it can."""
    return ablation.why_not_pruned() or why_not_folded(ablation, attention, tower)


def take_out(model: nn.Module, mask: HeadMask, tower: TowerName) -> None:
    """Remove a mask's heads from a model, in place.

    Raises:
        GridError: the mask is of another grid.
    """
    view = view_of(model, tower)
    check_grid(mask, view.grid, f"this model's {tower} tower")
    for layer, word in enumerate(mask.words):
        if word:
            kept = [head for head in range(mask.grid.heads) if not word >> head & 1]
            view.blocks[layer].replace_attention(PrunedAttention(view.attentions[layer], kept))


def _packed(attention: HeadAttention, rows: Tensor) -> Linear:
    """Return the three projections as one, with some rows of each; a bias missing in some is zero there."""
    projections = attention.projections()
    weight = torch.cat([weight.detach()[rows] for weight, _ in projections])
    if all(bias is None for _, bias in projections):
        return weight, None
    zeros = weight.new_zeros(len(rows))
    return weight, torch.cat([zeros if bias is None else bias.detach()[rows] for _, bias in projections])


def _narrowed(attention: HeadAttention, columns: Tensor) -> nn.Linear:
    """Return the output projection with a subset of its columns."""
    stock, scale_H = attention.out_proj, attention.head_scale_H
    weight: Tensor = stock.weight.detach()
    if scale_H is not None:
        weight = weight * scale_H.detach().repeat_interleave(len(weight[0]) // attention.num_heads)
    narrow = deepcopy(stock)
    narrow.in_features, narrow.weight = len(columns), nn.Parameter(weight[:, columns])
    return narrow
