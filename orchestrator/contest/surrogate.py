"""The displacement surrogate of a landscape: a mask's embeddings by adding up how far each head alone moves them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from headmask.mask import HeadMask
from workers.scorer import SplitArrays

# S masks of the scan, N images, E embedding


class Surrogate:
    """Predicts the values of masks.

    Args:
        singles: the empty mask, then every free head alone.
        embeddings_SNE: theirs, not normalised.
        split: what embeddings are measured by.
        value: of a mask's metrics.
    """

    def __init__(
        self,
        singles: Sequence[HeadMask],
        embeddings_SNE: Tensor,
        split: SplitArrays,
        value: Callable[[Mapping[str, float]], float],
    ) -> None:
        self._baseline_NE = embeddings_SNE[0]
        moved_SNE = (embeddings_SNE[1:] - self._baseline_NE).half()
        self._moved = {mask.heads[0]: moved_NE for mask, moved_NE in zip(singles[1:], moved_SNE, strict=True)}
        self._split, self._value = split, value

    def __call__(self, masks: Sequence[HeadMask]) -> list[float]:
        """Return the predicted values of masks, NaN for embeddings that are not finite."""
        return [self._predict(mask) for mask in masks]

    @torch.inference_mode()
    def _predict(self, mask: HeadMask) -> float:
        predicted_NE = self._baseline_NE.clone()
        for head in mask.heads:
            predicted_NE += self._moved[head].float()
        if not bool(predicted_NE.isfinite().all()):
            return math.nan
        targets, text_QE = self._split.targets, torch.from_numpy(self._split.other_E)
        return self._value(targets.values(targets.measure(F.normalize(predicted_NE, dim=-1), text_QE)))
