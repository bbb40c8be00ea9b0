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

from headmask.attention import Attended, edited_clone
from headmask.errors import AblationError

# B batch, H heads, T tokens, d width of one head

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
    """Return z (B, H, T, d) with the heads of a word replaced; z itself when the word is 0.

    Args:
        attended: z, v and the additive attention mask of one layer.
        word: bit h set ablates head h.
        ablation: the rule.
        means_Hd: mean output of each head of this layer, for `mean` only.
    """
    heads = [head for head in range(attended.z_BHTd.shape[1]) if word >> head & 1]
    if not heads:
        return attended.z_BHTd
    return edited_clone(attended.z_BHTd, heads, _replacement(attended, heads, ablation, means_Hd))


def _replacement(attended: Attended, heads: list[int], ablation: Ablation, means_Hd: Tensor | None) -> Tensor | float:
    if ablation == "zero":
        return 0.0
    if ablation == "mean":
        if means_Hd is None:
            raise AblationError("ablation mean needs the heads' mean outputs; make them with headmask.calibrate_means")
        return means_Hd[heads][None, :, None].to(attended.z_BHTd)
    v_BhTd = attended.v_BHTd[:, heads]
    if ablation == "cls":
        return v_BhTd[:, :, :1]
    if attended.bias_TT is None:
        return v_BhTd.mean(dim=2, keepdim=True)
    # Every visible token has the same additive mask, so the softmax of the mask alone is the uniform weight.
    visible_TT = attended.bias_TT.isfinite().to(v_BhTd)
    return torch.matmul(visible_TT / visible_TT.sum(-1, keepdim=True), v_BhTd)
