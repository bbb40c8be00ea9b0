"""TextSpan: the texts whose directions explain most of how a head's contribution varies over images.

Gandelsman et al. 2024 (arXiv 2310.05916), algorithm 1: of all texts, projected on the span of the contributions, take
the one along which contributions vary most; remove its direction from contributions and texts; and again. All of it
depends on the contributions' covariance alone, so images can be streamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from headmask.mask import Head
from headmask.tower.attribution import direct_contributions
from headmask.tower.views import TowerView
from workers.scoring.inputs import Inputs

# N images, B images of a chunk, h heads, Q texts, E embedding, r dimensions that contributions vary in

_NOISE = 1e-10
"""Variance that counts as rounding, as a share of the largest along any axis."""


@dataclass(frozen=True)
class Spread:
    """How contributions vary over images, which is all that is kept of them."""

    covariance_hEE: NDArray[np.float64]
    """Covariance of every head's direct contribution."""
    embedding_variance: float
    """Variance of the embeddings: the sum over all dimensions."""

    def size(self, place: int) -> float:
        """Return the standard deviation of a head's contribution as a share of the embedding's."""
        variance = max(float(np.trace(self.covariance_hEE[place])), 0.0)
        return (variance / self.embedding_variance) ** 0.5 if self.embedding_variance > 0 else 0.0


@torch.inference_mode()
def contribution_spread(view: TowerView, inputs: Inputs, heads: Sequence[Head], *, chunk: int) -> Spread:
    """Return how the direct contributions of heads vary over images, a chunk in memory at a time.

    Raises:
        ModelError: see `direct_contributions`.
    """
    parts = [slice(start, start + chunk) for start in range(0, len(inputs), chunk)]
    zero = torch.zeros((), dtype=torch.float64, device=view.device)
    sum_hE, products_hEE, sum_E, squares = zero, zero, zero, zero
    for taken in inputs.stream(parts):
        embedding_BE, heads_BhE, _ = direct_contributions(view, taken, heads)
        heads_hBE, embedding_BE = heads_BhE.transpose(0, 1).double(), embedding_BE.double()
        sum_hE, products_hEE = sum_hE + heads_hBE.sum(1), products_hEE + heads_hBE.transpose(1, 2) @ heads_hBE
        sum_E, squares = sum_E + embedding_BE.sum(0), squares + embedding_BE.square().sum()
    mean_hE = sum_hE / len(inputs)
    covariance_hEE = products_hEE / len(inputs) - mean_hE[:, :, None] * mean_hE[:, None]
    variance = squares / len(inputs) - (sum_E / len(inputs)).square().sum()
    return Spread(covariance_hEE.cpu().numpy(), variance.item())


@dataclass(frozen=True)
class SpannedText:
    """A text of a TextSpan."""

    text: int
    """Index among all texts."""
    share: float
    """Share of the contribution's variance along its direction, after those of the texts before it are removed."""


def text_span(covariance_EE: NDArray[np.float64], text_QE: NDArray[np.float32], count: int) -> list[SpannedText]:
    """Return the texts that explain most of a contribution's variance, best first; fewer if nothing is left.

    Args:
        covariance_EE: covariance of the contribution over images.
        text_QE: L2-normalised embeddings of the texts.
        count: maximum number of texts to return.
    """
    variance_E, axes_EE = np.linalg.eigh(covariance_EE)
    varies_E = variance_E > _NOISE * max(variance_E[-1], 0.0)
    variance_r = variance_E[varies_E]
    text_Qr = text_QE.astype(np.float64) @ axes_EE[:, varies_E]
    covariance_rr = np.diag(variance_r)
    found: list[SpannedText] = []
    while len(found) < min(count, len(variance_r), len(text_QE)):
        along_Q = np.einsum("qr,rs,qs->q", text_Qr, covariance_rr, text_Qr, optimize=True)
        best = int(along_Q.argmax())
        length = float(np.linalg.norm(text_Qr[best]))
        if along_Q[best] <= _NOISE * variance_r.max():
            break
        direction_r = text_Qr[best] / length
        share = direction_r @ covariance_rr @ direction_r / variance_r.sum()
        found.append(SpannedText(best, float(share)))
        removed_rr = np.eye(len(variance_r)) - np.outer(direction_r, direction_r)
        covariance_rr = removed_rr @ covariance_rr @ removed_rr
        text_Qr = text_Qr @ removed_rr
    return found
