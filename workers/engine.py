"""The engine: masks in, image embeddings out, each distinct prefix of masks computed once.

Masks that agree on layers 0..l share the residual stream after layer l, so a set of masks is a trie over their words,
walked depth-first for one chunk of images at a time. Every node is computed with the same shapes whatever else is in
the batch: an embedding is a function of its mask alone, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headmask.ablation import Ablation, replace_heads
from headmask.mask import HeadMask
from headmask.towers import VisionTowerView
from workers.pixels import Pixels

# M masks, N images, n images in a chunk, E embedding, B batch, T tokens, D width, L layers, H heads, d head width


@dataclass(frozen=True)
class Normalisation:
    """The last step of a model's preprocessing: (uint8 / 255 - mean) / std per channel."""

    mean_3: NDArray[np.float32]
    std_3: NDArray[np.float32]

    def __call__(self, pixels_NCYX: NDArray[np.uint8], device: torch.device) -> Tensor:
        """Return normalised float32 images on a device."""
        images = torch.from_numpy(np.ascontiguousarray(pixels_NCYX)).to(device).float().div_(255)
        mean, std = (torch.from_numpy(part).to(device).view(1, 3, 1, 1) for part in (self.mean_3, self.std_3))
        return images.sub_(mean).div_(std)


class Engine:
    """Image embeddings under masks, for one tower and one set of images.

    Args:
        view: the tower, already in the precision of the computation.
        pixels: the images, uint8 after the model's crop.
        normalisation: of the model's preprocessing.
        ablation: what replaces an ablated head.
        means_LHd: calibrated mean outputs, for `mean` only.
        image_chunk: images computed together; a constant of the study.
    """

    def __init__(
        self,
        view: VisionTowerView,
        pixels: Pixels,
        normalisation: Normalisation,
        *,
        ablation: Ablation,
        means_LHd: Tensor | None,
        image_chunk: int,
    ) -> None:
        self.view = view
        self.pixels = pixels
        self.normalisation = normalisation
        self.ablation = ablation
        self.means_LHd = means_LHd
        self.image_chunk = image_chunk
        parameter = next(view.visual.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    @torch.inference_mode()
    def embed(self, masks: Sequence[HeadMask]) -> Tensor:
        """Return the embeddings (M, N, E) in float32, not normalised, in the order of the masks."""
        order = sorted(range(len(masks)), key=lambda index: masks[index].words)
        chunks_MnE = []
        for start in range(0, len(self.pixels), self.image_chunk):
            images = self.normalisation(self.pixels[start : start + self.image_chunk], self.device).to(self.dtype)
            leaves: dict[int, Tensor] = {}
            self._descend(0, self.view.embed(images), order, masks, leaves)
            chunks_MnE.append(torch.stack([leaves[index] for index in range(len(masks))]))
        return torch.cat(chunks_MnE, dim=1)

    def _descend(
        self, layer: int, x_BTD: Tensor, group: list[int], masks: Sequence[HeadMask], leaves: dict[int, Tensor]
    ) -> None:
        """Compute the subtree of the masks in `group`, which share all words before `layer`."""
        if layer == self.view.grid.layers:
            embedding_BE = self.view.pool(x_BTD).float()
            leaves.update((index, embedding_BE) for index in group)
            return
        attended = self.view.attend(layer, x_BTD)
        means_Hd = None if self.means_LHd is None else self.means_LHd[layer]
        for word, children in groupby(group, key=lambda index: masks[index].words[layer]):
            z_BHTd = replace_heads(attended, word, self.ablation, means_Hd)
            self._descend(layer + 1, self.view.finish(layer, x_BTD, z_BHTd), list(children), masks, leaves)


def num_nodes(masks: Sequence[HeadMask]) -> int:
    """Return how many blocks a set of masks costs per image chunk: the nodes of its trie. One pass costs L."""
    return sum(len({mask.words[: layer + 1] for mask in masks}) for layer in range(masks[0].grid.layers))
