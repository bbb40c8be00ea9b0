"""What single heads add to an image's embedding, and where they look.

The residual stream is a sum: the token embedding, what every head of every layer writes, what every MLP writes, and
biases. From there to the embedding everything is affine at the statistics that the norms take of that image. So the
embedding is a sum, too, of one *direct contribution* per head and the rest (Elhage et al. 2021; Gandelsman et al. 2024,
arXiv 2310.05916). How later layers use a head's output counts as theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from headmask.ablation.rules import ZERO
from headmask.attention.heads import HeadAttention
from headmask.errors import ModelError
from headmask.mask import Head
from headmask.tower.readout import affine, linear
from headmask.tower.views import Sequences, TowerView

# B batch, h heads, P parts of a sum: the rest first, then heads; T tokens, Q tokens that pooling reads, D width,
# E embedding, H heads of a layer, d head width, Y by X patches


class Contributions(NamedTuple):
    """Embeddings, and parts that add up to them; nothing is normalised."""

    embedding_BE: Tensor
    heads_BhE: Tensor
    """The direct contribution of each requested head."""
    rest_BE: Tensor
    """Contribution of everything else: the token embedding, MLPs, biases, other heads."""


def direct_contributions(view: TowerView, inputs: Tensor, heads: Sequence[Head]) -> Contributions:
    """Return the embeddings of images, and the direct contributions of some heads to them.

    Args:
        view: view of an image tower that pools by a token or by a mean of tokens.
        inputs: normalised images (B, 3, Y, X).
        heads: the heads whose contributions are wanted.

    Raises:
        ModelError: the tower pools in another way, or its norms are not layer norms.
    """
    readout, sequences = view.readout(), view.embed(inputs)
    x_BTD = sequences.x_BTD
    rest_BQD = _read(x_BTD, sequences)
    of_heads: dict[Head, Tensor] = {}
    for layer, block in enumerate(view.blocks):
        x_BTD, attended, y_BTD = view.enter(layer, sequences, x_BTD, ZERO)
        attention = view.attentions[layer]
        own = [head for head in dict.fromkeys(heads) if head.layer == layer]
        parts_BPQD = _output_parts(attention, _read(attended.z_BHQd, sequences, dim=2), [head.head for head in own])
        if block.output_norm is not None:
            parts_BPQD = affine(block.output_norm, parts_BPQD)
        others_BQD, *written = block.scale(parts_BPQD).unbind(1)
        of_heads.update(zip(own, written, strict=True))
        x_BTD = block.add(x_BTD, attention.project(attended.z_BHQd) if y_BTD is None else y_BTD)
        fed_BTD = block.feed(x_BTD)
        x_BTD = x_BTD + fed_BTD
        rest_BQD = rest_BQD + others_BQD + _read(fed_BTD, sequences)
    parts_BPE = readout(torch.stack([rest_BQD, *(of_heads[head] for head in heads)], dim=1))
    return Contributions(view.pool(x_BTD), parts_BPE[:, 1:], parts_BPE[:, 0])


def prove_contributions(view: TowerView, inputs: Tensor, *, tolerance: float) -> None:
    """Prove on a probe batch that direct contributions add up to the embeddings, or refuse the tower.

    Args:
        view: view of the tower.
        inputs: normalised images.
        tolerance: largest difference allowed, as a share of the largest value among contributions and embeddings:
            large ones may cancel.

    Raises:
        ModelError: they do not.
    """
    found = direct_contributions(view, inputs, list(view.grid))
    difference = (found.heads_BhE.sum(1) + found.rest_BE - found.embedding_BE).abs().max()
    error = (difference / max(values.abs().max() for values in found)).item()
    if not error <= tolerance:
        raise ModelError(
            f"what this tower's parts contribute does not add up to its embeddings: they differ by {error:.1e} of the "
            f"largest (allowed {tolerance:.0e})"
        )


def attention_maps(view: TowerView, inputs: Tensor, head: Head) -> Tensor:
    """Return how much attention a head pays to every patch (B, Y, X), from the token that pooling reads.

    Where pooling reads all tokens, it is the mean over their attention. The rest up to 1 goes to tokens that are not
    patches, such as the class token.

    Args:
        view: view of an image tower.
        inputs: normalised images (B, 3, Y, X).
        head: the head.
    """
    sequences = view.embed(inputs)
    x_BTD = sequences.x_BTD
    for layer in range(head.layer):
        x_BTD = view.leave(layer, view.enter(layer, sequences, x_BTD, ZERO), 0, ZERO)
    weights_BQT = view.attentions[head.layer].weights(
        view.blocks[head.layer].read(x_BTD), head.head, sequences.token_B, rope=sequences.rope_of(head.layer)
    )
    rows, columns = view.patches
    return torch.unflatten(weights_BQT.mean(1)[:, -rows * columns :], 1, (rows, columns))


def _read(values: Tensor, sequences: Sequences, dim: int = 1) -> Tensor:
    """Return values at the tokens that pooling reads; the last layer's are there already."""
    if sequences.token_B is None or values.shape[dim] == 1:
        return values
    rows_B = torch.arange(len(values), device=values.device)
    return values.movedim(dim, 1)[rows_B, sequences.token_B].unsqueeze(dim)


def _output_parts(attention: HeadAttention, z_BHQd: Tensor, heads: Sequence[int]) -> Tensor:
    """Return the parts (B, P, Q, D) of an attention output: first what no head contributes, then one per head."""
    if attention.head_scale_H is not None:
        z_BHQd = z_BHQd * attention.head_scale_H[:, None, None]
    is_of_PH = torch.zeros(1 + len(heads), attention.num_heads, dtype=torch.bool, device=z_BHQd.device)
    is_of_PH[range(1, 1 + len(heads)), heads] = True
    is_of_PH[0] = ~is_of_PH.any(0)
    parts_BPHQd = z_BHQd[:, None] * is_of_PH[:, :, None, None]
    parts_BPQD = parts_BPHQd.transpose(2, 3).flatten(3)
    if attention.inner_norm is not None:
        parts_BPQD = affine(attention.inner_norm, parts_BPQD)
    return linear(parts_BPQD, attention.out_proj.weight, attention.out_proj.bias)
