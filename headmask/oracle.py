"""Zero ablation written into stock weights, without our attention code: what a tower view is proven against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from headmask.attention import HeadAttention, head_columns, output_weight
from headmask.mask import HeadMask


@contextmanager
def stock_ablation(attentions: Sequence[HeadAttention], mask: HeadMask) -> Iterator[None]:
    """Zero the ablated heads of a live model through its weights, and restore them on leaving.

    W_O columns are zeroed; where the tower normalises the concatenated heads before W_O, open_clip's `head_scale` is
    set instead, which acts before that norm.
    """
    saved: list[tuple[Tensor, Tensor]] = []
    scaled: list[HeadAttention] = []
    try:
        for layer in {head.layer for head in mask.heads}:
            attention = attentions[layer]
            ablated = [head.head for head in mask.heads if head.layer == layer]
            if attention.normalises_heads and attention.head_scale_H() is None:
                attention.module.head_scale = _scale_without(attention, ablated)
                scaled.append(attention)
                continue
            weight = attention.module.head_scale if attention.normalises_heads else output_weight(attention)[0]
            assert isinstance(weight, Tensor)
            saved.append((weight, weight.detach().clone()))
            with torch.no_grad():
                for head in ablated:
                    if attention.normalises_heads:
                        weight[head] = 0
                    else:
                        weight[:, head_columns(attention, head)] = 0
        yield
    finally:
        for weight, original in saved:
            with torch.no_grad():
                weight.copy_(original)
        for attention in scaled:
            attention.module.head_scale = None


def _scale_without(attention: HeadAttention, ablated: list[int]) -> torch.nn.Parameter:
    weight = output_weight(attention)[0]
    scale_H11 = torch.ones(attention.num_heads, 1, 1, dtype=weight.dtype, device=weight.device)
    scale_H11[ablated] = 0
    return torch.nn.Parameter(scale_H11, requires_grad=False)
