"""A mask or scales on a live open_clip model, inside a `with`, always undone.

    with headmask.ablate(model, mask):
        embeddings = model.encode_image(images)

Only the attention modules of layers with changed heads are touched: with the empty mask the model is bit-equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from headmask.ablation.replacing import replace_heads, scale_heads
from headmask.ablation.rules import Ablation, find_ablation
from headmask.attention.heads import Attended, HeadAttention, SeeZ
from headmask.attention.values import OfValues, keep_none
from headmask.errors import AblationError
from headmask.mask import HeadMask
from headmask.maskfile import HeadFile
from headmask.scales import HeadScales, scales_of
from headmask.tower.towers import TowerName, attentions, check_grid, view_of

# B batch, T tokens, D width, L layers, H heads, d width of one head


@contextmanager
def ablate(
    model: nn.Module,
    mask: HeadMask | HeadScales | HeadFile,
    *,
    ablation: str = "zero",
    tower: TowerName = "image",
    means_LHd: Tensor | None = None,
) -> Iterator[nn.Module]:
    """Apply a mask or scales to a live model and yield the model; leaving the `with` undoes it, exceptions included.

    Args:
        model: an open_clip model, or its image tower alone.
        mask: the heads to ablate, or a factor on each; a `MaskFile` or `ScalesFile` brings its own ablation, tower and
            means.
        ablation: what replaces an ablated head, by its name in `headmask.ABLATIONS`.
        tower: `image` or `text`.
        means_LHd: (layers, heads, head width) mean outputs, where the ablation needs them; see `calibrate_means`.

    Raises:
        GridError: the mask is of another grid.
        AblationError: the ablation is undefined for this tower.
        ModelError: the tower is not supported.
    """
    with ExitStack() as stack:
        for attention, see, rule in _replacements(model, mask, ablation, tower, means_LHd):
            stack.enter_context(_forward(attention, rule.of_values, see))
        yield model


def ablate_for_good(model: nn.Module, mask: HeadFile) -> nn.Module:
    """Return a copy of a model that applies a mask or scales whenever it runs; its weights do not show it.

    Raises:
        GridError, AblationError, ModelError: as `ablate`.
    """
    masked: nn.Module = deepcopy(model)
    for attention, see, rule in _replacements(masked, mask):
        attention.module.forward = partial(attention.forward, see, rule.of_values)
    return masked


def _replacements(
    model: nn.Module,
    mask: HeadMask | HeadScales | HeadFile,
    ablation: str = "zero",
    tower: TowerName = "image",
    means_LHd: Tensor | None = None,
) -> Iterator[tuple[HeadAttention, SeeZ, Ablation]]:
    """Yield the attention modules whose heads are changed, each with the function that replaces their z."""
    if isinstance(mask, HeadFile):
        ablation, tower, means_LHd, mask = mask.ablation, mask.tower, mask.means_tensor(), mask.head_scales
    view = view_of(model, tower)
    check_grid(mask, view.grid, f"this model's {tower} tower")
    rule = find_ablation(ablation)
    rule.check(has_class_token=view.has_class_token, means=means_LHd)
    scales = scales_of(mask)
    for layer in sorted({head.layer for head in scales.heads}):
        means_Hd = None if means_LHd is None else means_LHd[layer]
        yield view.attentions[layer], _replacing(scales, layer, rule, means_Hd), rule


def _replacing(scales: HeadScales, layer: int, ablation: Ablation, means_Hd: Tensor | None) -> SeeZ:
    if scales.is_mask:
        word = scales.ablated.words[layer]
        return lambda attended: replace_heads(attended, word, ablation, means_Hd)
    scales_H = torch.tensor(scales.values[layer])
    return lambda attended: scale_heads(attended, scales_H, ablation, means_Hd)


@contextmanager
def _forward(attention: HeadAttention, of_values: OfValues, see: SeeZ) -> Iterator[None]:
    """Route the module's forward pass through `see`, which is given z and returns the z to go on with."""
    module = attention.module
    previous = module.__dict__.get("forward")
    module.forward = partial(attention.forward, see, of_values)
    try:
        yield
    finally:
        del module.forward
        if previous is not None:
            module.forward = previous


@torch.no_grad()
def calibrate_means(model: nn.Module, encode: Callable[[], object], *, tower: TowerName = "image") -> Tensor:
    """Return each head's mean output (layers, heads, head width) in float32 over all tokens that `encode` runs through.

    Args:
        model: an open_clip model, or its image tower alone.
        encode: runs the model over the calibration set, such as `lambda: model.encode_image(images)`; use search-split
            data only. It may run several batches.
        tower: `image` or `text`.

    Raises:
        AblationError: `encode` ran nothing through the tower.
    """
    return mean_outputs(attentions(model, tower), encode)


@torch.no_grad()
def mean_outputs(layers: Sequence[HeadAttention], encode: Callable[[], object]) -> Tensor:
    """Return the means of `calibrate_means` for the attention modules of a tower, given layer by layer."""
    sums: list[Tensor | None] = [None] * len(layers)
    counts = [0] * len(layers)

    def watching(layer: int) -> SeeZ:
        def see(attended: Attended) -> Tensor:
            z_BHTd = attended.z_BHQd
            # Apple's GPUs have no float64.
            total_Hd = (z_BHTd.cpu() if z_BHTd.device.type == "mps" else z_BHTd).double().sum(dim=(0, 2))
            previous = sums[layer]
            sums[layer] = total_Hd if previous is None else previous + total_Hd
            counts[layer] += z_BHTd.shape[0] * z_BHTd.shape[2]
            return z_BHTd

        return see

    with ExitStack() as stack:
        for layer, attention in enumerate(layers):
            stack.enter_context(_forward(attention, keep_none, watching(layer)))
        encode()
    if any(total is None for total in sums):
        raise AblationError("calibration ran nothing through the tower")
    return torch.stack([total / count for total, count in zip(sums, counts, strict=True) if total is not None]).float()
