"""Heads replaced by what an ablation puts in their place, in what attention has read."""

from __future__ import annotations

import torch
from torch import Tensor

from headmask.ablation.rules import Ablation
from headmask.attention.heads import Attended, HeadAttention

# B batch, H heads, Q queries, D width, d width of one head


def replace_heads(attended: Attended, word: int, ablation: Ablation, means_Hd: Tensor | None = None) -> Tensor:
    """Return z (B, H, Q, d) with the heads of a word replaced; z itself when the word is 0.

    Args:
        attended: z of one layer, and what the ablation kept of its values.
        word: bit h set ablates head h.
        ablation: the rule; the one that `attended` was made for.
        means_Hd: mean output of each head of this layer, where the ablation needs them.
    """
    heads = heads_of(word)
    if not heads:
        return attended.z_BHQd
    edited_BHQd = attended.z_BHQd.clone()
    instead = ablation.replacement(attended, heads, means_Hd)
    edited_BHQd[:, torch.tensor(heads, device=edited_BHQd.device)] = 0.0 if instead is None else instead
    return edited_BHQd


def corrected_output(
    attention: HeadAttention,
    y_BQD: Tensor,
    attended: Attended,
    word: int,
    ablation: Ablation,
    means_Hd: Tensor | None = None,
) -> Tensor:
    """Return the attention output with the heads of a word replaced, from the one with none replaced.

    It costs a product of the ablated heads' columns of W_O instead of all: a node of the trie does the whole product
    once for all its children. Not for towers that normalise z before W_O.
    """
    heads = heads_of(word)
    if not heads:
        return y_BQD
    instead = ablation.replacement(attended, heads, means_Hd)
    change = None if instead is None else instead - attended.z_of(heads)
    return attention.corrected(y_BQD, heads, change, attended.z_BHQd)


def scale_heads(attended: Attended, scales_H: Tensor, ablation: Ablation, means_Hd: Tensor | None = None) -> Tensor:
    """Return g z + (1 - g) r (B, H, Q, d) for scales g of all heads, r being what the ablation puts in place of z."""
    scales_HQd = scales_H.to(attended.z_BHQd)[:, None, None]
    instead = ablation.replacement(attended, list(range(len(scales_H))), means_Hd)
    if instead is None:
        return attended.z_BHQd * scales_HQd
    return instead + scales_HQd * (attended.z_BHQd - instead)


def heads_of(word: int) -> list[int]:
    """Return the heads whose bit is set."""
    return [head for head in range(word.bit_length()) if word >> head & 1]
