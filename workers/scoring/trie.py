"""Masks as a trie over their words: what a set of masks shares, and its cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from headmask.ablation.rules import ZERO
from headmask.apply.footprint import counting_flops
from headmask.mask import HeadMask
from headmask.tower.views import TowerView


def shared_layers(first: HeadMask, second: HeadMask) -> int:
    """Return the number of layers, from the first on, in which two masks have the same word."""
    for layer, (a, b) in enumerate(zip(first.words, second.words, strict=True)):
        if a != b:
            return layer
    return len(first.words)


@dataclass(frozen=True)
class TowerCost:
    """Multiply-adds for one input in the pieces of a tower, as fractions of the plain forward pass.

    A set of masks costs, per input: the embedding once, `enter` once for every distinct prefix before a layer, `leave`
    once for every distinct prefix that includes it.
    """

    plain_macs: float
    """Multiply-adds of the plain forward pass."""
    embed: float
    enter_L: tuple[float, ...]
    leave_L: tuple[float, ...]
    head_L: tuple[float, ...]
    """Cost added to `leave` for every ablated head."""
    pool: float
    numbers_per_node: int
    """Numbers that a node keeps for one input."""
    attention_L: tuple[float, ...]
    """Share of the plain forward pass that the attention of a layer takes, including its projections."""

    @classmethod
    @torch.no_grad()
    def of(cls, view: TowerView, inputs: Tensor) -> TowerCost:
        """Return the costs of a view, counted while a few inputs run through it."""
        plain, attention_L = _count_stock(view, inputs)
        embed, sequences = _count(view.embed, inputs)
        last = view.grid.layers - 1
        pieces, numbers = [], 0
        for layer in sorted({0, last}):
            enter, entered = _count(view.enter, layer, sequences, sequences.x_BTD, ZERO)
            leave, x_BQD = _count(view.leave, layer, entered, 0, ZERO)
            head = _count(view.leave, layer, entered, 1, ZERO)[0] - leave
            pieces.append((enter / plain, leave / plain, head / plain))
            if layer == 0:
                kept = entered.x_BQD, entered.y_BQD, *entered.attended
                numbers = sum(tensor.numel() for tensor in kept if tensor is not None) // len(inputs)
        # All layers but the last cost the same.
        enter_L, leave_L, head_L = zip(*[pieces[0]] * last, pieces[-1], strict=True)
        pool = _count(view.pool, x_BQD)[0]
        macs = plain / 2 / len(inputs)
        return cls(macs, embed / plain, enter_L, leave_L, head_L, pool / plain, numbers, attention_L)

    def __call__(self, masks: Iterable[HeadMask]) -> float:
        """Return the cost of a set of masks in plain forward passes of every input."""
        return self.embed + sum(self.steps(sorted(masks)))

    def steps(self, masks: Sequence[HeadMask]) -> list[float]:
        """Return the cost that each of some sorted masks adds to those before it, without the embedding."""
        shared = [-1, *(shared_layers(first, second) for first, second in pairwise(masks))]
        return [self._added(mask, layer) for mask, layer in zip(masks, shared, strict=False)]

    def saved(self, mask: HeadMask) -> float:
        """Return the share of the plain forward pass that is saved when a mask's heads are pruned.

        Per input of T tokens, a head of width d takes its rows of q, k and v (3 T D d multiply-adds), its two products
        (2 T^2 d) and its columns of the output projection (T d D). The heads of a layer are alike and nothing else in
        its attention multiplies, so each takes an equal part of what is counted there.
        """
        shares = zip(self.attention_L, mask.layer_counts, strict=True)
        return sum(share * count / mask.grid.heads for share, count in shares)

    def _added(self, mask: HeadMask, shared: int) -> float:
        """Return the cost of a mask whose nodes up to `enter` of layer `shared` exist; -1 if none does."""
        if shared == len(mask.words):
            return 0.0
        left = slice(max(shared, 0), None)
        heads = sum(cost * word.bit_count() for cost, word in zip(self.head_L[left], mask.words[left], strict=True))
        return sum(self.enter_L[shared + 1 :]) + sum(self.leave_L[left]) + heads + self.pool


def _count_stock(view: TowerView, inputs: Tensor) -> tuple[float, tuple[float, ...]]:
    """Return the floating-point operations of the tower's own forward pass, and the share of each layer's attention."""
    spent = [0.0] * view.grid.layers
    with counting_flops() as counter, ExitStack() as hooks:

        def add(layer: int, sign: int, *_: Any) -> None:
            spent[layer] += sign * counter.get_total_flops()

        for layer, attention in enumerate(view.attentions):
            for register, sign in (
                (attention.module.register_forward_pre_hook, -1),
                (attention.module.register_forward_hook, 1),
            ):
                hooks.callback(register(partial(add, layer, sign)).remove)
        view.stock(inputs)
        plain = float(counter.get_total_flops())
    return plain, tuple(flops / plain for flops in spent)


def _count(piece: Any, *arguments: Any) -> tuple[float, Any]:
    """Return the floating-point operations of a call in products and convolutions, and its result."""
    with counting_flops() as counter:
        result = piece(*arguments)
    return float(counter.get_total_flops()), result
