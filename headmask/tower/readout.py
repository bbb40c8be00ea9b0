"""From the residual stream to the embedding, if that is a norm, a mean of tokens, a norm, and linear maps.

All of these are affine once the statistics of the norms are given, so what is added to the stream can be followed to
the embedding part by part: `affine` says what becomes of the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from headmask.attention.heads import Linear
from headmask.errors import ModelError

# B batch, P parts of a sum, Q tokens, D width, E embedding


class Readout(NamedTuple):
    """The steps from the output of the last block to the embedding."""

    before: nn.Module
    """Norm of every token."""
    tokens: slice
    """Tokens that are averaged, among those that are computed."""
    after: nn.Module
    """Norm of that mean."""
    linear: tuple[Linear, ...]

    def __call__(self, parts_BPQD: Tensor) -> Tensor:
        """Return the parts (B, P, E) of the embedding that come from parts of the residual stream."""
        parts_BPD = affine(self.before, parts_BPQD)[:, :, self.tokens].mean(2)
        parts_BPE = affine(self.after, parts_BPD)
        for weight, bias in self.linear:
            parts_BPE = linear(parts_BPE, weight, bias)
        return parts_BPE


def affine(norm: nn.Module, parts: Tensor) -> Tensor:
    """Return the parts that a norm makes of parts, at the statistics of their sum; its bias goes to the first.

    Args:
        norm: a layer norm, or an identity.
        parts: (B, P, ..., D).

    Raises:
        ModelError: the norm is of another kind.
    """
    if isinstance(norm, nn.Identity):
        return parts
    if not isinstance(norm, nn.LayerNorm):
        raise ModelError(f"a {type(norm).__name__} is no norm of which headmask knows what it makes of a part of a sum")
    deviation = (parts.sum(1, keepdim=True).var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    normed = (parts - parts.mean(-1, keepdim=True)) / deviation
    return _with_bias(normed if norm.weight is None else normed * norm.weight, norm.bias)


def linear(parts: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the parts that a linear map makes of parts; its bias goes to the first."""
    return _with_bias(F.linear(parts, weight), bias)


def _with_bias(parts: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return parts
    return torch.cat((parts[:, :1] + bias, parts[:, 1:]), dim=1)


def open_clip_readout(tower: Any) -> Readout:
    """Return the readout of open_clip's `VisionTransformer`.

    Raises:
        ModelError: it pools by attention.
    """
    if tower.attn_pool is not None:
        raise _pools_by_attention()
    tokens = slice(1, None) if tower.pool_type == "avg" else slice(0, 1)
    norms = (nn.Identity(), tower.ln_post) if tower.final_ln_after_pool else (tower.ln_post, nn.Identity())
    return Readout(norms[0], tokens, norms[1], () if tower.proj is None else ((tower.proj.T, None),))


def timm_readout(tower: Any) -> Readout:
    """Return the readout of open_clip's wrapper around a timm model.

    Raises:
        ModelError: it pools by attention or by maxima, or projects by an MLP.
    """
    trunk = tower.trunk
    if trunk.attn_pool is not None:
        raise _pools_by_attention()
    if trunk.global_pool not in ("token", "avg"):
        raise ModelError(f"its pooling is {trunk.global_pool!r}, which is not a mean of tokens")
    first = 0 if getattr(trunk, "pool_include_prefix", False) else trunk.num_prefix_tokens
    tokens = slice(0, 1) if trunk.global_pool == "token" else slice(first, None)
    return Readout(trunk.norm, tokens, trunk.fc_norm, _linears([trunk.head, *tower.head]))


def _linears(modules: Sequence[nn.Module]) -> tuple[Linear, ...]:
    maps = [module for module in modules if not isinstance(module, nn.Identity | nn.Dropout)]
    for module in maps:
        if not isinstance(module, nn.Linear):
            raise ModelError(f"its projection is a {type(module).__name__}, which is not a linear map")
    return tuple((module.weight, module.bias) for module in maps if isinstance(module, nn.Linear))


def _pools_by_attention() -> ModelError:
    return ModelError(
        "it pools by attention: how much of a token it takes depends on what all heads wrote there, so the embedding "
        "is not a sum of what each head adds"
    )
