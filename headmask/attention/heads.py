"""One attention module of a tower, opened at z: the heads' outputs before the output projection.

What attention does is written once, on z, so that fused attention stays on and no ablation needs the T x T weights.
Where the weights of a module lie and what it normalises is said by its adapter in `headmask.attention.adapters`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

from headmask.attention.values import AbsorbedValues, OfValues, ProjectedValues, keep_none
from headmask.errors import ModelError

# B batch, H heads, h ablated heads, T tokens, Q queries (all tokens, or one), D width, d head width

Linear = tuple[Tensor, Tensor | None]
"""Weight (out, in) and bias (out,)."""
SeeZ = Callable[["Attended"], Tensor]
"""Takes what attention read; returns the z to continue with."""


class Attended(NamedTuple):
    """What attention read for every head, before any ablation."""

    z_BHQd: Tensor
    """Outputs of the heads: softmax(q k^T / sqrt(d)) v."""
    kept_BHQd: Tensor | None
    """What an ablation keeps of the values (broadcasts over Q); None where it needs none."""

    def z_of(self, heads: list[int]) -> Tensor:
        """Return the outputs of some heads (B, h, Q, d)."""
        return take_heads(self.z_BHQd, heads)

    def kept_of(self, heads: list[int]) -> Tensor | None:
        """Return what was kept for some heads."""
        return None if self.kept_BHQd is None else take_heads(self.kept_BHQd, heads)


class HeadAttention(ABC):
    """The steps of one self-attention module, for all heads at once.

    Args:
        module: the attention module.
        out_proj: its output projection W_O, one block of columns per head.
        query_norm: norm of q per head, if any.
        key_norm: norm of k per head, if any.
        inner_norm: norm of the concatenated z before W_O, if any.
    """

    num_prefix_tokens = 0
    """Number of tokens that rotary embeddings leave alone."""

    def __init__(
        self,
        module: nn.Module,
        out_proj: nn.Module,
        *,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
        inner_norm: nn.Module | None = None,
    ) -> None:
        if not isinstance(out_proj, nn.Linear):
            raise ModelError(f"the output projection is a {type(out_proj).__name__}, not a linear layer")
        opened: Any = module
        self.module = opened
        self.num_heads: int = opened.num_heads
        self.out_proj = out_proj
        self.query_norm, self.key_norm, self.inner_norm = map(_unless_identity, (query_norm, key_norm, inner_norm))

    @property
    def normalises_query(self) -> bool:
        """Whether q is normalised per head, so that a zero query row does not give uniform attention."""
        return self.query_norm is not None

    @property
    def normalises_heads(self) -> bool:
        """Whether the concatenated z is normalised before W_O, so that zero z is not zero columns."""
        return self.inner_norm is not None

    @property
    def head_scale_H(self) -> Tensor | None:
        """The module's factor on z per head, or None if it has none."""
        return None

    @abstractmethod
    def packed_projection(self) -> Linear | None:
        """Return the three projections as one, if they are in one tensor."""

    def projections(self) -> tuple[Linear, Linear, Linear]:
        """Return the q, k and v projections, one block of rows per head; views of the weights, not copies."""
        packed = self.packed_projection()
        if packed is None:
            raise ModelError(f"{type(self.module).__name__} has neither one packed projection nor three of its own")
        weight, bias = packed
        biases = (None, None, None) if bias is None else bias.chunk(3)
        return tuple(zip(weight.chunk(3), biases, strict=True))  # type: ignore[return-value]

    @abstractmethod
    def forward(self, see: SeeZ, of_values: OfValues, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own `forward`, with z passed through `see`."""

    def query_parameters(self) -> list[Tensor]:
        """Return weight and bias of the q projection, for editing in place."""
        weight, bias = self.projections()[0]
        return [weight] if bias is None else [weight, bias]

    def columns(self, head: int) -> slice:
        """Return the columns of W_O, and the rows of each of q, k and v, that belong to a head."""
        width = self.out_proj.in_features // self.num_heads
        return slice(head * width, (head + 1) * width)

    def attend(
        self,
        x_BTD: Tensor,
        *,
        bias: Tensor | None = None,
        rope: Tensor | None = None,
        of_values: OfValues = keep_none,
    ) -> Attended:
        """Return z at every token.

        Args:
            x_BTD: what the module is given: the residual stream, normalised by the block.
            bias: additive attention mask (T, T) or (B, H, T, T): 0 where a query may see a token, -inf where not.
            rope: rotary embedding of the tokens after the prefix.
            of_values: what is kept of the values.
        """
        q, k, v = self._queries_keys_values(x_BTD)
        if rope is not None:
            q, k = self._rotated(q, rope), self._rotated(k, rope)
        return Attended(scaled_attention(q, k, v, bias), of_values(ProjectedValues(v, bias)))

    def attend_at(
        self,
        x_BTD: Tensor,
        token_B: Tensor,
        *,
        bias: Tensor | None = None,
        rope: Tensor | None = None,
        of_values: OfValues = keep_none,
    ) -> Attended:
        """Return z at one token of each sequence (Q = 1); the arguments are those of `attend`."""
        rows_B = torch.arange(len(x_BTD), device=x_BTD.device)
        bias_row = None if bias is None else _rows_of_bias(bias, rows_B, token_B)
        q_BH1d = self._split(F.linear(x_BTD[rows_B, token_B][:, None], *self.projections()[0]))
        if self.query_norm is not None:
            q_BH1d = self.query_norm(q_BH1d)
        if self.key_norm is None and rope is None:
            return self._absorbed(q_BH1d, x_BTD, bias_row, of_values)
        _, of_k, of_v = self.projections()
        k_BHTd, v_BHTd = self._split(F.linear(x_BTD, *of_k)), self._split(F.linear(x_BTD, *of_v))
        if self.key_norm is not None:
            k_BHTd = self.key_norm(k_BHTd)
        if rope is not None:
            # Pooling reads a prefix token, which is not rotated: only the keys are.
            k_BHTd = self._rotated(k_BHTd, rope)
        z_BH1d = scaled_attention(q_BH1d, k_BHTd, v_BHTd, bias_row)
        return Attended(z_BH1d, of_values(ProjectedValues(v_BHTd, bias_row)))

    def _absorbed(self, q_BH1d: Tensor, x_BTD: Tensor, bias_row: Tensor | None, of_values: OfValues) -> Attended:
        """Return z of one query without any token's key or value.

        In the scores q.k = (W_K^T q).x + q.b_K, the last term is the same for all tokens and cancels in the softmax;
        the weighted sum of values is W_V applied to the weighted sum of x, plus b_V once. Neither holds where k is
        normalised or rotated.
        """
        weight_HdD = torch.unflatten(self.projections()[1][0], 0, (self.num_heads, -1))
        absorbed_BHD = torch.einsum("bhd,hdw->bhw", q_BH1d[:, :, 0], weight_HdD)
        scores_BHT = torch.matmul(absorbed_BHD, x_BTD.transpose(1, 2)) * q_BH1d.shape[-1] ** -0.5
        if bias_row is not None:
            scores_BHT = scores_BHT + bias_row[:, :, 0]
        z_BH1d = self._values_of(torch.matmul(scores_BHT.softmax(-1), x_BTD))
        return Attended(z_BH1d, of_values(AbsorbedValues(x_BTD, bias_row, self._values_of)))

    def weights(self, x_BTD: Tensor, head: int, token_B: Tensor | None, *, rope: Tensor | None = None) -> Tensor:
        """Return one head's attention weights (B, Q, T), of one token of each sequence, or of all where that is None.

        The other arguments are those of `attend`; for towers without an attention mask.
        """
        q, k, _ = self._queries_keys_values(x_BTD)
        if rope is not None:
            q, k = self._rotated(q, rope), self._rotated(k, rope)
        q_BQd = q[:, head]
        if token_B is not None:
            q_BQd = q_BQd[torch.arange(len(x_BTD), device=x_BTD.device), token_B][:, None]
        scores_BQT = torch.matmul(q_BQd, k[:, head].transpose(1, 2)) * q_BQd.shape[-1] ** -0.5
        return torch.softmax(scores_BQT, dim=-1)

    def project(self, z_BHQd: Tensor) -> Tensor:
        """Return the attention output (B, Q, D) of the heads' outputs."""
        if self.head_scale_H is not None:
            z_BHQd = z_BHQd * self.head_scale_H[:, None, None]
        z_BQD = z_BHQd.transpose(1, 2).flatten(2)
        if self.inner_norm is not None:
            z_BQD = self.inner_norm(z_BQD)
        return F.linear(z_BQD, self.out_proj.weight, self.out_proj.bias)

    def corrected(self, y_BQD: Tensor, heads: list[int], change_BhQd: Tensor | None, z_BHQd: Tensor) -> Tensor:
        """Return the attention output after the z of some heads has changed: a product of their columns alone.

        Args:
            y_BQD: the output with no head ablated. Only where nothing is normalised between z and W_O.
            heads: the heads whose z changes.
            change_BhQd: what is added to their z; None takes them away.
            z_BHQd: z of all heads.
        """
        factor = -1.0 if change_BhQd is None else 1.0
        change_BhQd = take_heads(z_BHQd, heads) if change_BhQd is None else change_BhQd
        if self.head_scale_H is not None:
            change_BhQd = change_BhQd * self.head_scale_H[heads][:, None, None]
        width = self.out_proj.in_features // self.num_heads
        columns_Dhd = take_heads(torch.unflatten(self.out_proj.weight, 1, (self.num_heads, width)), heads)
        product = torch.addmm(
            y_BQD.flatten(0, 1),
            change_BhQd.transpose(1, 2).reshape(-1, len(heads) * width),
            columns_Dhd.reshape(len(y_BQD[0, 0]), -1).T,
            alpha=factor,
        )
        return product.view_as(y_BQD)

    def _queries_keys_values(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        packed = self.packed_projection()
        if packed is not None:
            parts = F.linear(x_BTD, *packed).chunk(3, dim=-1)
        else:
            parts = tuple(F.linear(x_BTD, weight, bias) for weight, bias in self.projections())
        q, k, v = (self._split(part) for part in parts)
        if self.query_norm is not None:
            q = self.query_norm(q)
        if self.key_norm is not None:
            k = self.key_norm(k)
        return q, k, v

    def _values_of(self, mixed: Tensor) -> Tensor:
        """Return values (B, H, 1, d) of one mixture of inputs per head (B, H, D), or of one for all heads (B, 1, D)."""
        weight, bias = self.projections()[2]
        mixed_BHD = mixed.expand(-1, self.num_heads, -1)
        values_BHd = torch.einsum("bhw,hdw->bhd", mixed_BHD, torch.unflatten(weight, 0, (self.num_heads, -1)))
        if bias is not None:
            values_BHd = values_BHd + torch.unflatten(bias, 0, (self.num_heads, -1))
        return values_BHd[:, :, None]

    def _split(self, x_BTD: Tensor) -> Tensor:
        return torch.unflatten(x_BTD, -1, (self.num_heads, -1)).transpose(1, 2)

    def _rotated(self, x_BHTd: Tensor, rope: Tensor) -> Tensor:
        prefix, rest = x_BHTd[:, :, : self.num_prefix_tokens], x_BHTd[:, :, self.num_prefix_tokens :]
        half = bool(getattr(self.module, "rotate_half", False))
        return torch.cat([prefix, apply_rot_embed_cat(rest, rope, half=half)], dim=2).type_as(x_BHTd)


def scaled_attention(q_BHQd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + bias) v, by the fused kernel or, if that is slower, by two products."""
    if q_BHQd.device.type == "cpu" and q_BHQd.dtype != torch.float32:
        # Torch's fused kernel takes twice the time of two products there (benchmarks/README.md).
        scores_BHQT = torch.matmul(q_BHQd, k_BHTd.transpose(-2, -1)).mul_(q_BHQd.shape[-1] ** -0.5)
        return torch.matmul((scores_BHQT if bias is None else scores_BHQT + bias).softmax(-1), v_BHTd)
    return F.scaled_dot_product_attention(q_BHQd, k_BHTd, v_BHTd, attn_mask=bias)


def take_heads(x: Tensor, heads: list[int]) -> Tensor:
    """Return some heads of a tensor whose second dimension is heads: a view if they are adjacent."""
    if heads == list(range(heads[0], heads[0] + len(heads))):
        return x[:, heads[0] : heads[0] + len(heads)]
    return x[:, torch.tensor(heads, device=x.device)]


def _rows_of_bias(bias: Tensor, rows_B: Tensor, token_B: Tensor) -> Tensor:
    """Return an additive mask's rows for one query of each sequence, (B, 1 or H, 1, T)."""
    return bias[token_B][:, None, None] if bias.ndim == 2 else bias[rows_B, :, token_B][:, :, None]


def _unless_identity(norm: nn.Module | None) -> Any:
    return None if norm is None or isinstance(norm, nn.Identity) else norm
