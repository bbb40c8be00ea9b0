"""Zero ablation written into stock weights, without headmask's attention code: the reference for tower views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from headmask.attention.heads import HeadAttention
from headmask.mask import HeadMask


@contextmanager
def stock_ablation(attentions: Sequence[HeadAttention], mask: HeadMask) -> Iterator[None]:
    """Zero the ablated heads of a live model through its weights, and restore them on leaving.

    W_O columns are zeroed; where the tower normalises the concatenated heads before W_O, they are zeroed as they enter
    that norm.
    """
    with ExitStack() as stack:
        for layer in {head.layer for head in mask.heads}:
            attention = attentions[layer]
            columns = [attention.columns(head.head) for head in mask.heads if head.layer == layer]
            if attention.inner_norm is not None:
                stack.enter_context(_zeroed_input(attention.inner_norm, columns))
            else:
                stack.enter_context(_zeroed_columns(attention.out_proj.weight, columns))
        yield


@contextmanager
def _zeroed_columns(weight: Tensor, columns: list[slice]) -> Iterator[None]:
    original = weight.detach().clone()
    try:
        with torch.no_grad():
            for part in columns:
                weight[:, part] = 0
        yield
    finally:
        with torch.no_grad():
            weight.copy_(original)


@contextmanager
def _zeroed_input(norm: nn.Module, columns: list[slice]) -> Iterator[None]:
    def zero(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        z_BTD = inputs[0].clone()
        for part in columns:
            z_BTD[..., part] = 0
        return (z_BTD, *inputs[1:])

    handle = norm.register_forward_pre_hook(zero)
    try:
        yield
    finally:
        handle.remove()
