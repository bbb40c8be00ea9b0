"""The values that the heads of a layer attend over, for rules that mix them anew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

# B batch, H heads, T tokens, Q queries (all tokens, or one), D width, d head width


class Values(ABC):
    """The values v of all heads of a layer at all tokens."""

    @abstractmethod
    def at(self, token: int) -> Tensor:
        """Return the values at one token of the sequence (B, H, 1, d)."""

    @abstractmethod
    def mean(self) -> Tensor:
        """Return the mean of the values that each query may see (B, H, Q, d); Q is 1 where all queries see the same."""


OfValues = Callable[[Values], Tensor | None]
"""Given a layer's values, returns what is kept of them (B, H, 1 or Q, d); None where nothing is."""


def keep_none(_: Values) -> None:
    """Keep nothing of a layer's values."""


class ProjectedValues(Values):
    """Values that have been computed at every token.

    Args:
        v_BHTd: the values.
        bias: additive attention mask (T, T) or (B, H, Q, T); None where every query sees all.
    """

    def __init__(self, v_BHTd: Tensor, bias: Tensor | None) -> None:
        self._v_BHTd, self._bias = v_BHTd, bias

    def at(self, token: int) -> Tensor:
        """Return the values at one token; a tensor of its own, so that v can go."""
        return self._v_BHTd[:, :, token : token + 1].clone()

    def mean(self) -> Tensor:
        """Return the mean of the values that each query may see."""
        if self._bias is None:
            return self._v_BHTd.mean(dim=2, keepdim=True)
        return torch.matmul(_uniform_weights(self._bias).to(self._v_BHTd), self._v_BHTd)


class AbsorbedValues(Values):
    """Values of one query that are never computed token by token: W_V is applied to what is mixed.

    Args:
        x_BTD: what the values are projections of.
        bias_row: the query's row of an additive attention mask (B, 1 or H, 1, T); None where it sees all.
        values_of: returns the values (B, H, 1, d) of one mixture of x per head (B, H, D), or of one for all (B, 1, D).
    """

    def __init__(self, x_BTD: Tensor, bias_row: Tensor | None, values_of: Callable[[Tensor], Tensor]) -> None:
        self._x_BTD, self._bias_row, self._values_of = x_BTD, bias_row, values_of

    def at(self, token: int) -> Tensor:
        """Return the values at one token."""
        return self._values_of(self._x_BTD[:, token : token + 1])

    def mean(self) -> Tensor:
        """Return the mean of the values that the query may see."""
        x_BTD = self._x_BTD
        seen = x_BTD.new_full((1, 1, x_BTD.shape[1]), 1 / x_BTD.shape[1])
        if self._bias_row is not None:
            seen = _uniform_weights(self._bias_row[:, :, 0]).to(x_BTD)
        return self._values_of(torch.matmul(seen.expand(len(x_BTD), -1, -1), x_BTD))


def _uniform_weights(bias: Tensor) -> Tensor:
    """Return equal weights on the tokens that an additive mask lets a query see, summing to 1."""
    visible = bias.isfinite().float()
    return visible / visible.sum(-1, keepdim=True)
