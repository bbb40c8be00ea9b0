"""The scorer: a model and a retrieval split on one device; masks in, scores out. It knows nothing of Ray.

A score is a function of the mask alone: chunk size, tile size, precision and thread count are constants of the study,
and nothing that is computed for a mask depends on what else is in the batch.
"""

from __future__ import annotations

import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from headmask.ablation import Ablation
from headmask.errors import GridError
from headmask.mask import BoolArray, HeadMask
from headmask.towers import VisionTowerView, prove
from workers.engine import Engine, Normalisation
from workers.metrics import Ranks, retrieval_ranks
from workers.pixels import Pixels

# M masks, L layers, H heads, d head width, N images, Q captions, E embedding

Precision = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PROOF_TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 5e-3}
"""Largest difference of L2-normalised embeddings at which a view counts as the model: rounding, not error."""


@dataclass(frozen=True)
class MaskScore:
    """What scoring one mask gave: metrics, or the reason why there are none."""

    metrics: dict[str, float]
    """Metric name to value in [0, 1]; empty for a failure."""
    seconds: float
    """This mask's share of the batch's time."""
    failure: str | None = None
    ranks: Ranks | None = None


@dataclass(frozen=True)
class SplitArrays:
    """A split as arrays: what a scorer reads, and what travels to a replica."""

    pixels: Pixels
    text_QE: NDArray[np.float32]
    """Caption embeddings, L2-normalised."""
    image_of_caption_Q: NDArray[np.int64]


@dataclass(frozen=True)
class ScorerSettings:
    """The constants of a study that decide the bits of a score."""

    ablation: Ablation = "zero"
    image_chunk: int = 64
    threads: int = 1
    """Threads of one scorer's matrix products on a CPU."""


class Scorer:
    """Scores masks for one split.

    Args:
        view: of the image tower on its device, in the precision of the search, proven: see `proven_view`. Scorers of
            several splits share one.
        split: pixels, caption embeddings and which caption belongs to which image.
        normalisation: of the model's preprocessing.
        settings: constants of the study.
        means_LHd: calibrated mean outputs, for ablation `mean` only.
    """

    def __init__(
        self,
        view: VisionTowerView,
        split: SplitArrays,
        normalisation: Normalisation,
        settings: ScorerSettings,
        *,
        means_LHd: Tensor | None = None,
    ) -> None:
        torch.set_num_threads(settings.threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.device = next(view.visual.parameters()).device
        self.grid = view.grid
        self._engine = Engine(
            view,
            split.pixels,
            normalisation,
            ablation=settings.ablation,
            means_LHd=None if means_LHd is None else means_LHd.to(self.device),
            image_chunk=settings.image_chunk,
        )
        self._text_QE = torch.from_numpy(np.array(split.text_QE)).to(self.device)
        self._image_of_caption_Q = torch.from_numpy(np.array(split.image_of_caption_Q)).to(self.device)

    def score(self, masks_MLH: BoolArray, *, ranks: bool = False) -> list[MaskScore]:
        """Return the metrics with the marked heads ablated, one entry per mask, in the order given.

        Args:
            masks_MLH: (M, L, H) bool; True ablates that head.
            ranks: keep the rank of every query, for paired statistics.

        Raises:
            GridError: L or H differ from the tower's grid.
        """
        if masks_MLH.ndim != 3 or masks_MLH.shape[1:] != (self.grid.layers, self.grid.heads):
            raise GridError(
                f"masks must be (masks, {self.grid.layers}, {self.grid.heads}) for this tower; got {masks_MLH.shape}"
            )
        if not len(masks_MLH):
            return []
        started = time.perf_counter()
        embeddings_MNE = self._engine.embed([HeadMask.from_bools(mask_LH) for mask_LH in masks_MLH])
        scores = [self._rank(embedding_NE, keep=ranks) for embedding_NE in embeddings_MNE]
        seconds = (time.perf_counter() - started) / len(scores)
        return [MaskScore(metrics, seconds, failure, kept) for metrics, failure, kept in scores]

    @torch.inference_mode()
    def _rank(self, embedding_NE: Tensor, *, keep: bool) -> tuple[dict[str, float], str | None, Ranks | None]:
        if not bool(torch.isfinite(embedding_NE).all()):
            return {}, "non-finite embeddings", None
        found = retrieval_ranks(F.normalize(embedding_NE, dim=-1), self._text_QE, self._image_of_caption_Q)
        metrics = found.metrics()
        failure = None if all(map(math.isfinite, metrics.values())) else "non-finite metric"
        return metrics, failure, found if keep else None


def proven_view(
    visual: nn.Module,
    pixels: Pixels,
    normalisation: Normalisation,
    *,
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
) -> VisionTowerView:
    """Return the view of a tower, copied where precision or device differ, after it has proven itself on four images.

    Raises:
        ModelError: the tower is not supported, or its view differs from the model.
    """
    device, dtype = torch.device(device), DTYPES[precision]
    parameter = next(visual.parameters())
    if parameter.dtype != dtype or parameter.device != device:
        visual = deepcopy(visual).to(device, dtype)
    view = VisionTowerView(visual)
    probe = normalisation(np.resize(pixels[:4], (4, *pixels[:1].shape[1:])), device)
    prove(view, probe.to(dtype), tolerance=PROOF_TOLERANCE[precision])
    return view


def embed_texts(clip: nn.Module, tokens_QT: Tensor, *, threads: int, batch: int = 32) -> NDArray[np.float32]:
    """Return L2-normalised caption embeddings (Q, E) float32 of the stock text tower.

    Batches are padded to one shape, and each is computed by a fixed number of threads, several side by side: a resumed
    search sees the same bits, however many cores there are.
    """

    @torch.inference_mode()
    def embed(start: int) -> Tensor:
        part = tokens_QT[start : start + batch]
        padded = F.pad(part, (0, 0, 0, batch - len(part)))
        text_BE: Tensor = F.normalize(clip.encode_text(padded).float(), dim=-1)  # type: ignore[operator]
        return text_BE[: len(part)]

    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // threads)) as executor:
            parts = list(executor.map(embed, range(0, len(tokens_QT), batch)))
    finally:
        torch.set_num_threads(previous)
    text_QE: NDArray[np.float32] = torch.cat(parts).numpy()
    return text_QE


def device_kind(device: str) -> str:
    """Return what decides the last bits on this machine: kind of device and version of torch."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"cpu {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
