"""Folding a mask into the weights, so that a stock loader needs no code of ours."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from headmask.ablation.rules import Ablation, check_ablation
from headmask.attention.heads import HeadAttention
from headmask.errors import AblationError
from headmask.mask import HeadMask
from headmask.maskfile import MaskFile
from headmask.tower.towers import TowerName, check_grid, view_of

# B batch, L layers, H heads, d width of one head


def fold(
    model: nn.Module,
    mask: HeadMask | MaskFile,
    *,
    ablation: Ablation = "zero",
    tower: TowerName = "image",
    means_LHd: Tensor | None = None,
) -> nn.Module:
    """Return a copy of the model with the mask written into its weights.

    `zero` clears the heads' columns of W_O; `mean` moves the constant output into b_O as well; `uniform` (image towers)
    clears the heads' query rows, so that every token weighs the same.

    Raises:
        GridError: the mask is of another grid.
        AblationError: the ablation cannot be written into these weights; the message says why.
    """
    if isinstance(mask, MaskFile):
        ablation, tower, means_LHd, mask = mask.ablation, mask.tower, mask.means_tensor(), mask.mask
    folded: nn.Module = deepcopy(model)
    view = view_of(folded, tower)
    check_grid(mask, view.grid, f"this model's {tower} tower")
    check_ablation(ablation, has_class_token=view.has_class_token, means=means_LHd)
    with torch.no_grad():
        for layer, head in mask.heads:
            mean_d = means_LHd[layer, head] if means_LHd is not None else None
            _fold_head(view.attentions[layer], head, ablation, tower, mean_d)
    return folded


def _fold_head(
    attention: HeadAttention, head: int, ablation: Ablation, tower: TowerName, mean_d: Tensor | None
) -> None:
    if attention.normalises_heads:
        raise AblationError(
            "this tower normalises the heads' outputs before W_O: no weights equal an ablated head there"
        )
    columns = attention.columns(head)
    weight, bias = attention.out_proj.weight, attention.out_proj.bias
    if ablation == "uniform":
        if tower != "image":
            raise AblationError("ablation uniform folds into image towers only; a causal mask needs z itself")
        if attention.normalises_query:
            raise AblationError("this tower normalises its queries: a zero query row does not give uniform attention")
        for parameter in attention.query_parameters():
            parameter[columns] = 0
    elif ablation == "cls":
        raise AblationError(
            "ablation cls does not fold into weights; use it live, or search with zero, mean or uniform"
        )
    else:
        if ablation == "mean" and mean_d is not None:
            if bias is None:
                raise AblationError("ablation mean folds into the output bias, and this tower has none")
            scale_H = attention.head_scale_H
            scaled_d = mean_d.to(weight) * (1 if scale_H is None else scale_H[head])
            bias.add_(weight[:, columns] @ scaled_d)
        weight[:, columns] = 0


def probe_images(model: Any, count: int, *, seed: int = 0) -> Tensor:
    """Return normalised random images (count, 3, Y, X) float32 of the model's input size, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *model.visual.image_size, generator=generator)
