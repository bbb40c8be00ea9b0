"""Gradients by scales, one micro-batch at a time, which replicas compute while a search trains scales."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from headmask.ablation.rules import ZERO, Ablation
from headmask.tower.towers import TowerName
from headmask.tower.views import TextView, TowerView
from workers.scoring.inputs import Inputs
from workers.scoring.messages import ScaleGradient
from workers.tasks.base import Targets
from workers.tasks.losses import Indices

# L layers, H heads, d head width, n inputs of a micro-batch, u units of it, E embedding

REVISION = 2
"""Raised whenever a gradient's last bits may change."""


class ScaleLoss:
    """The loss of one split under scales. A gradient is a function of its micro-batch and scales, to the last bit.

    Args:
        view: of the searched tower on its device, in the precision of the search, proven. Its weights are frozen.
        inputs: inputs of the split.
        other_E: L2-normalised embeddings of the other side.
        targets: what is right.
        ablation: what a scale of 0 puts in place of a head.
        means_LHd: calibrated mean outputs, where the ablation needs them.
    """

    def __init__(
        self,
        view: TowerView,
        inputs: Inputs,
        other_E: Tensor,
        targets: Targets,
        *,
        ablation: Ablation = ZERO,
        means_LHd: Tensor | None = None,
    ) -> None:
        view.module.requires_grad_(False)
        self._view, self._inputs, self._other_E, self._targets = view, inputs, other_E, targets
        self._ablation = ablation
        self._means_LHd = means_LHd
        self._place_N = np.argsort(inputs.order_N)

    def gradient(self, units_u: Indices, scales_LH: NDArray[np.float64]) -> ScaleGradient:
        """Return the loss of a micro-batch and its gradient by the scales; no gradient if they are not finite.

        Args:
            units_u: units of the split; see `workers.tasks.losses.micro_batches`.
            scales_LH: one scale per head.
        """
        view = self._view
        tower: TowerName = "text" if isinstance(view, TextView) else "image"
        batch = self._targets.micro_batch(units_u, tower, len(self._inputs))
        inputs = self._inputs.take(self._place_N[batch.inputs_n])
        scales = torch.tensor(scales_LH, dtype=torch.float32, device=view.device, requires_grad=True)
        with _deterministic(view.device):
            embedding_nE = view.encode_scaled(inputs, scales, self._ablation, self._means_LHd)
            loss = batch.loss(F.normalize(embedding_nE.float(), dim=-1), self._other_E)
            (gradient,) = torch.autograd.grad(loss, scales)
        gradient_LH = gradient.cpu().double().numpy()
        if not np.isfinite(gradient_LH).all():
            return ScaleGradient(float("nan"), np.zeros_like(gradient_LH))
        return ScaleGradient(float(loss.detach()), gradient_LH)


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Make fused attention sum its gradients in a fixed order on a GPU."""
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have a deterministic implementation.*")
            yield
    finally:
        torch.use_deterministic_algorithms(before)
