"""The scorer: a model and a split on one device; masks in, scores out. It knows nothing of Ray.

A score is a function of the mask alone: chunk size, tile size, precision and thread count are constants of the study,
and nothing that is computed for a mask depends on what else is in the batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from headmask.ablation.rules import find_ablation
from headmask.errors import GridError
from headmask.mask import BoolArray, HeadMask
from headmask.tower.towers import TowerName, prove, view_of
from headmask.tower.views import TextView, TowerView
from workers.data.pixels import Pixels
from workers.scoring.constants import Precision
from workers.scoring.devices import ranking_device
from workers.scoring.displacement import Predictor
from workers.scoring.engine import Engine
from workers.scoring.inputs import Normalisation, make_inputs, shared_tensor
from workers.scoring.messages import MaskScore
from workers.scoring.scales import ScaleLoss
from workers.tasks.base import MIN_ROWS, Partial, Targets, block_of, padded, part_of
from workers.tasks.metrics import Ranks

# M masks, L layers, H heads, d head width, N images, or inputs of the searched tower, Q captions, E embedding

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NOT_FINITE = "non-finite embeddings"
PROOF_TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 5e-3}
"""Largest difference of L2-normalised embeddings at which a view counts as equal to the model, by precision:
rounding.
"""


@dataclass(frozen=True)
class SplitArrays:
    """A split as arrays: the data of a scorer, which travel to a replica."""

    inputs: Pixels | NDArray[np.int64]
    """Inputs of the searched tower: images, or the texts' token ids (Q, T)."""
    other_E: NDArray[np.float32]
    """L2-normalised embeddings of the other side, which no mask changes: captions or classes (Q, E), or images (N,
    E); of width 0 until they are known.
    """
    targets: Targets

    @property
    def embedding_shape(self) -> tuple[int, int]:
        """Shape (N, E) of the searched tower's embeddings."""
        return len(self.inputs), self.other_E.shape[1]


@dataclass(frozen=True)
class ScorerSettings:
    """The constants of a study that decide the bits of a score."""

    ablation: str = "zero"
    """By name."""
    threads: int = 1
    """Threads of one scorer's matrix products on a CPU."""


class Scorer:
    """Scores masks for one split.

    Args:
        view: of the searched tower on its device, in the precision of the search, proven: see `proven_view`. Scorers
            of several splits share one.
        split: the tower's inputs, the other side's embeddings and what is right.
        normalisation: of the model's preprocessing.
        settings: constants of the study.
        chunk: inputs computed together; a constant of the study too.
        means_LHd: calibrated mean outputs, where the ablation needs them.
        shard: which of how many parts of the images; see `workers.pool.group`.
    """

    def __init__(
        self,
        view: TowerView,
        split: SplitArrays,
        normalisation: Normalisation,
        settings: ScorerSettings,
        *,
        chunk: int,
        means_LHd: Tensor | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        torch.set_num_threads(settings.threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.grid = view.grid
        self._searches_text = isinstance(view, TextView)
        self._embedding_shape = split.embedding_shape
        inputs, self._part, self._block = split.inputs, slice(0, len(split.inputs)), 0
        if isinstance(inputs, Pixels):
            self._block = block_of(len(inputs), chunk)
            self._part = part_of(len(inputs), self._block, *shard)
            inputs = inputs.part(self._part)
        self._engine = Engine(
            view,
            make_inputs(inputs, view, normalisation),
            ablation=find_ablation(settings.ablation),
            means_LHd=None if means_LHd is None else means_LHd.to(view.device),
            chunk=chunk,
        )
        self._ranks_on = ranking_device(view.device)
        self._other_E = shared_tensor(split.other_E).to(self._ranks_on)
        self._targets = split.targets

    def scale_loss(self) -> ScaleLoss:
        """Return the loss of the split under scales, on the same inputs and embeddings."""
        engine = self._engine
        return ScaleLoss(
            engine.view,
            engine.inputs,
            self._other_E.to(engine.view.device),
            self._targets,
            ablation=engine.ablation,
            means_LHd=engine.means_LHd,
        )

    def score(
        self,
        masks_MLH: BoolArray,
        *,
        ranks: bool = False,
        embeddings: bool = False,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[MaskScore]:
        """Return the metrics with the marked heads ablated, one entry per mask, in the order given.

        Args:
            masks_MLH: (M, L, H) bool; True ablates that head.
            ranks: keep the rank of every query, for paired statistics.
            embeddings: keep the embeddings.
            on_progress: called with inputs embedded and in all.

        Raises:
            GridError: L or H differ from the tower's grid.
        """
        if not len(masks_MLH):
            return []
        started = time.perf_counter()
        embedding_MNE = self.embed(masks_MLH, on_progress)
        scores = [self._measure(embedding_NE, ranks=ranks) for embedding_NE in embedding_MNE]
        seconds = (time.perf_counter() - started) / len(scores)
        kept = [(embedding_NE.cpu().numpy(),) if embeddings else None for embedding_NE in embedding_MNE]
        return [replace(score, seconds=seconds, embeddings=each) for score, each in zip(scores, kept, strict=True)]

    def score_scaled(self, scales_LH: NDArray[np.float64], *, ranks: bool = False) -> MaskScore:
        """Return the metrics with a scale on every head (L, H); see `score`."""
        started = time.perf_counter()
        scales = torch.tensor(scales_LH, dtype=torch.float32, device=self._engine.view.device)
        embedding_NE = self._engine.embed_scaled(scales).to(self._ranks_on)
        return replace(self._measure(embedding_NE, ranks=ranks), seconds=time.perf_counter() - started)

    def embed(self, masks_MLH: BoolArray, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Tensor:
        """Return the embeddings (M, N, E) in float32, not normalised, of all inputs, or of a shard's.

        Raises:
            GridError: L or H differ from the tower's grid.
        """
        if masks_MLH.ndim != 3 or masks_MLH.shape[1:] != (self.grid.layers, self.grid.heads):
            raise GridError(
                f"masks must be (masks, {self.grid.layers}, {self.grid.heads}) for this tower; got {masks_MLH.shape}"
            )
        if not len(self._engine.inputs):
            return torch.empty((len(masks_MLH), 0, self._embedding_shape[1]), device=self._ranks_on)
        masks = [HeadMask.from_bools(mask_LH) for mask_LH in masks_MLH]
        return self._engine.embed(masks, on_progress).to(self._ranks_on)

    @torch.inference_mode()
    def own_scores(self, embedding_nE: Tensor) -> NDArray[np.float32] | None:
        """Return the scores of a shard's queries with their right answers; None for embeddings that are not finite."""
        if not bool(torch.isfinite(embedding_nE).all()):
            return None
        own_nE = normalised(embedding_nE)
        own_q: NDArray[np.float32] = (
            self._targets.own_scores(own_nE, self._other_E, self._part, self._block).cpu().numpy()
        )
        return own_q

    @torch.inference_mode()
    def partial(self, embedding_nE: Tensor, own_Q: NDArray[np.float32]) -> Partial:
        """Return a shard's part of the ranks, given the `own_scores` of all shards, concatenated."""
        own_nE = normalised(embedding_nE)
        other_own_Q = torch.from_numpy(np.array(own_Q)).to(own_nE.device)
        return self._targets.partial(own_nE, self._other_E, self._part, other_own_Q, self._block)

    def predict(self, masks: Sequence[HeadMask], predictor: Predictor) -> list[MaskScore]:
        """Return the metrics of predicted embeddings, measured like exact ones, in the order given."""
        scores = []
        for mask in masks:
            started = time.perf_counter()
            score = self._measure(predictor.embed(mask), ranks=False)
            scores.append(replace(score, seconds=time.perf_counter() - started))
        return scores

    @torch.inference_mode()
    def _measure(self, embedding_NE: Tensor, *, ranks: bool) -> MaskScore:
        """Return the score of embeddings, without its seconds."""
        if not bool(torch.isfinite(embedding_NE).all()):
            return MaskScore({}, 0.0, NOT_FINITE)
        own_NE = normalised(embedding_NE)
        if self._searches_text:
            found = self._targets.measure(self._other_E, self._targets.pooled(own_NE))
        else:
            found = self._targets.measure(own_NE, self._other_E, self._block)
        return score_of(self._targets, found, ranks=ranks)


def normalised(embedding_nE: Tensor) -> Tensor:
    """Return rows L2-normalised, with the same bits for any number of rows: a GPU adds up few rows in another order."""
    return F.normalize(padded(embedding_nE, max(MIN_ROWS, len(embedding_nE))), dim=-1)[: len(embedding_nE)]


def score_of(targets: Targets, found: Ranks, *, ranks: bool) -> MaskScore:
    """Return the score that ranks give, without its seconds."""
    metrics = targets.values(found)
    failure = None if all(map(math.isfinite, metrics.values())) else "non-finite metric"
    return MaskScore(metrics, 0.0, failure, (found,) if ranks else None)


def proven_view(
    tower: nn.Module,
    split: SplitArrays,
    normalisation: Normalisation,
    *,
    name: TowerName = "image",
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
) -> TowerView:
    """Return the view of a tower, copied if precision or device differ, after it is proven on four inputs.

    Raises:
        ModelError: the tower is not supported, or its view differs from the model.
    """
    device, dtype = torch.device(device), DTYPES[precision]
    parameter = next(tower.parameters())
    if parameter.dtype != dtype or parameter.device != device:
        tower = deepcopy(tower).to(device, dtype)
    view = view_of(tower.eval(), name)
    prove(view, probe_inputs(split, view, normalisation), tolerance=PROOF_TOLERANCE[precision])
    return view


def probe_inputs(split: SplitArrays, view: TowerView, normalisation: Normalisation, count: int = 4) -> Tensor:
    """Return the first inputs of a split in the form that a tower's `embed` expects, repeated if there are fewer."""
    first = split.inputs[:count]
    probe = np.resize(first, (count, *first.shape[1:]))
    if isinstance(view, TextView):
        return torch.from_numpy(probe).to(view.device)
    return normalisation(probe, view.device).to(view.dtype)
