"""Folding a mask or scales into the weights, so that a stock loader needs no headmask code."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from headmask.ablation.rules import Ablation, find_ablation
from headmask.attention.heads import HeadAttention
from headmask.errors import AblationError
from headmask.mask import HeadMask
from headmask.maskfile import HeadFile
from headmask.scales import HeadScales, scales_of
from headmask.tower.towers import TowerName, check_grid, view_of

# B batch, L layers, H heads, d width of one head


def fold(
    model: nn.Module,
    mask: HeadMask | HeadScales | HeadFile,
    *,
    ablation: str = "zero",
    tower: TowerName = "image",
    means_LHd: Tensor | None = None,
) -> nn.Module:
    """Return a copy of the model with a mask or scales written into its weights.

    See `fold` of the ablations in `headmask.ablation.rules`.

    Raises:
        GridError: they are of another grid.
        AblationError: the ablation cannot be written into these weights; the message says why.
    """
    if isinstance(mask, HeadFile):
        ablation, tower, means_LHd, mask = mask.ablation, mask.tower, mask.means_tensor(), mask.head_scales
    folded: nn.Module = deepcopy(model)
    view = view_of(folded, tower)
    check_grid(mask, view.grid, f"this model's {tower} tower")
    rule = find_ablation(ablation)
    rule.check(has_class_token=view.has_class_token, means=means_LHd)
    with torch.no_grad():
        for (layer, head), scale in scales_of(mask).heads.items():
            if reason := why_not_folded(rule, view.attentions[layer], tower, scale):
                raise AblationError(reason)
            rule.fold(view.attentions[layer], head, None if means_LHd is None else means_LHd[layer, head], scale)
    return folded


def why_not_folded(ablation: Ablation, attention: HeadAttention, tower: TowerName, scale: float = 0.0) -> str | None:
    """Return why no weights of an attention module equal it with a scaled head; None where some do."""
    if attention.normalises_heads:
        what = "an ablated" if scale == 0 else "a scaled"
        return (
            f"this tower normalises the heads' outputs before W_O: no weights equal {what} head there. "
            "headmask.load(MODEL, FILE) gives the model with the heads changed while it runs"
        )
    return ablation.why_not_folded(attention, tower, scale)


def probe_images(model: Any, count: int, *, seed: int = 0) -> Tensor:
    """Return normalised random images (count, 3, Y, X) float32 of the model's input size, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *model.visual.image_size, generator=generator)
