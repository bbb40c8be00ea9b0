"""Ablations: what replaces an ablated head, exactly.

For a head with attention weights A and values v, z = A v is its output before the output projection W_O.

========== ============================================= =============================================
ablation   A becomes                                     z becomes
========== ============================================= =============================================
`zero`     0                                             0
`uniform`  equal weight on every token the query may see mean of v over those tokens
`cls`      every row = class token                       v of the class token, at every query
`mean`     -                                             the head's mean output over a calibration set
========== ============================================= =============================================

Lin et al. 2025 (arXiv 2507.00537) act on post-softmax attention weights without publishing the value; the rule is
therefore an explicit, recorded choice here, and `zero` the default because it costs nothing at inference.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from headmask.attention.heads import Attended, HeadAttention, take_heads
from headmask.errors import AblationError

# B batch, H heads, Q queries, D width, d width of one head

Ablation = Literal["zero", "mean", "uniform", "cls"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)


def check_ablation(ablation: str, *, has_class_token: bool, means: object | None) -> None:
    """Check that an ablation is defined for a tower.

    Raises:
        AblationError: unknown name, `cls` without a class token, or `mean` without calibrated means.
    """
    if ablation not in ABLATIONS:
        raise AblationError(f"ablation must be one of {', '.join(ABLATIONS)}; got {ablation!r}")
    if ablation == "cls" and not has_class_token:
        raise AblationError("ablation cls needs a class token, and this tower has none; use zero, mean or uniform")
    if ablation == "mean" and means is None:
        raise AblationError("ablation mean needs the heads' mean outputs; make them with headmask.calibrate_means")


def replace_heads(attended: Attended, word: int, ablation: Ablation, means_Hd: Tensor | None = None) -> Tensor:
    """Return z (B, H, Q, d) with the heads of a word replaced; z itself when the word is 0.

    Args:
        attended: z and what takes its place, of one layer.
        word: bit h set ablates head h.
        ablation: the rule; the one that `attended` was made for.
        means_Hd: mean output of each head of this layer, for `mean` only.
    """
    heads = heads_of(word)
    if not heads:
        return attended.z_BHQd
    edited_BHQd = attended.z_BHQd.clone()
    instead = _instead(attended, heads, ablation, means_Hd)
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
    instead = _instead(attended, heads, ablation, means_Hd)
    change = None if instead is None else instead - take_heads(attended.z_BHQd, heads)
    return attention.corrected(y_BQD, heads, change, attended.z_BHQd)


def gate_heads(attended: Attended, gates_H: Tensor, ablation: Ablation, means_Hd: Tensor | None = None) -> Tensor:
    """Return g z + (1 - g) r (B, H, Q, d) for gates g of all heads, r being what the ablation puts in place of z."""
    gates_HQd = gates_H.to(attended.z_BHQd)[:, None, None]
    instead = _instead(attended, list(range(len(gates_H))), ablation, means_Hd)
    if instead is None:
        return attended.z_BHQd * gates_HQd
    return instead + gates_HQd * (attended.z_BHQd - instead)


def heads_of(word: int) -> list[int]:
    """Return the heads whose bit is set."""
    return [head for head in range(word.bit_length()) if word >> head & 1]


def _instead(attended: Attended, heads: list[int], ablation: Ablation, means_Hd: Tensor | None) -> Tensor | None:
    """Return what takes the place of some heads' z, to be broadcast; None for zero."""
    if ablation == "zero":
        return None
    if ablation == "mean":
        if means_Hd is None:
            raise AblationError("ablation mean needs the heads' mean outputs; make them with headmask.calibrate_means")
        return means_Hd[heads][None, :, None].to(attended.z_BHQd)
    if attended.instead_BHQd is None:
        raise AblationError(f"what ablation {ablation} puts in place of a head was not kept")
    return take_heads(attended.instead_BHQd, heads)
