"""Masks as a trie over their words: what a set of masks shares, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from headmask.mask import HeadMask
from headmask.views import TowerView


def shared_layers(first: HeadMask, second: HeadMask) -> int:
    """Return the number of layers, from the first on, in which two masks have the same word."""
    for layer, (a, b) in enumerate(zip(first.words, second.words, strict=True)):
        if a != b:
            return layer
    return len(first.words)


@dataclass(frozen=True)
class TowerCost:
    """Multiply-adds of one input's way through the pieces of a tower, as fractions of the plain forward pass.

    A set of masks costs, per input: the embedding once, `enter` once for every distinct prefix before a layer, `leave`
    once for every distinct prefix that includes it.
    """

    plain_macs: float
    """Multiply-adds of the plain forward pass."""
    embed: float
    enter_L: tuple[float, ...]
    leave_L: tuple[float, ...]
    head_L: tuple[float, ...]
    """Added to `leave` for every ablated head."""
    pool: float
    numbers_per_node: int
    """Numbers that a node keeps of one input."""

    @classmethod
    @torch.no_grad()
    def of(cls, view: TowerView, inputs: Tensor) -> TowerCost:
        """Return the costs of a view, counted while a few inputs run through it."""
        plain = _count(view.stock, inputs)[0]
        embed, sequences = _count(view.embed, inputs)
        last = view.grid.layers - 1
        pieces, numbers = [], 0
        for layer in sorted({0, last}):
            enter, entered = _count(view.enter, layer, sequences, sequences.x_BTD, "zero")
            leave, x_BQD = _count(view.leave, layer, entered, 0, "zero")
            head = _count(view.leave, layer, entered, 1, "zero")[0] - leave
            pieces.append((enter / plain, leave / plain, head / plain))
            if layer == 0:
                kept = entered.x_BQD, entered.y_BQD, *entered.attended
                numbers = sum(tensor.numel() for tensor in kept if tensor is not None) // len(inputs)
        # All layers but the last cost the same.
        enter_L, leave_L, head_L = zip(*[pieces[0]] * last, pieces[-1], strict=True)
        pool = _count(view.pool, x_BQD)[0]
        return cls(plain / 2 / len(inputs), embed / plain, enter_L, leave_L, head_L, pool / plain, numbers)

    def __call__(self, masks: Iterable[HeadMask]) -> float:
        """Return the cost of a set of masks in plain forward passes of every input."""
        return self.embed + sum(self.steps(sorted(masks)))

    def steps(self, masks: Sequence[HeadMask]) -> list[float]:
        """Return what each of some masks, sorted by words, adds to those before it; without the embedding."""
        shared = [-1, *(shared_layers(first, second) for first, second in pairwise(masks))]
        return [self._added(mask, layer) for mask, layer in zip(masks, shared, strict=False)]

    def _added(self, mask: HeadMask, shared: int) -> float:
        """Return the cost of a mask whose nodes up to `enter` of layer `shared` exist; -1 where none does."""
        if shared == len(mask.words):
            return 0.0
        left = slice(max(shared, 0), None)
        heads = sum(cost * word.bit_count() for cost, word in zip(self.head_L[left], mask.words[left], strict=True))
        return sum(self.enter_L[shared + 1 :]) + sum(self.leave_L[left]) + heads + self.pool


def _count(piece: Any, *arguments: Any) -> tuple[float, Any]:
    """Return the floating-point operations of a call in products and convolutions, and its result."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            result = piece(*arguments)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops()), result
