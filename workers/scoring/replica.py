"""A replica: one copy of the tower on one device, scoring masks for any split. Ray actors and the inline pool hold one.

Everything that a replica needs arrives as a `Payload` of arrays, so a node needs the installed package and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headmask.ablation.rules import find_ablation
from headmask.errors import ModelError
from headmask.mask import BoolArray, HeadGrid, HeadMask, bools_of
from headmask.tower.towers import TowerName, grid_of
from headmask.tower.views import TowerView
from workers.data.pixels import CacheFile, PackedPixels, Pixels, check_all
from workers.scoring.constants import (
    USUAL_CHUNK,
    AnyPrecision,
    Constants,
    Precision,
    chosen_chunk,
    measured_chunk,
    resolved_precision,
)
from workers.scoring.devices import device_kind, ranking_device
from workers.scoring.displacement import Displacements, Predictor
from workers.scoring.engine import Engine
from workers.scoring.gelu import other_gelu
from workers.scoring.inputs import Normalisation, make_inputs
from workers.scoring.messages import MaskScore, Probe, ScaledStage, ScaleGradient, ScaleTask, Stage, Survey, Task
from workers.scoring.packing import PackedTower
from workers.scoring.room import free_device_bytes, free_host_bytes
from workers.scoring.scales import ScaleLoss
from workers.scoring.scorer import Scorer, ScorerSettings, SplitArrays, probe_inputs, proven_view
from workers.scoring.stock import Chunk, StockTower
from workers.scoring.trie import TowerCost


@dataclass(frozen=True)
class Payload:
    """Everything that a replica needs to score masks, except the constants of the study."""

    tower: PackedTower
    tower_name: TowerName
    splits: Mapping[str, Mapping[str, SplitArrays]]
    """Arrays by split and by the prefix of a data set's metrics, which is empty if there is only one data set."""
    normalisation: Normalisation
    settings: ScorerSettings

    def packed(self, put: Callable[[NDArray[np.uint8]], Any] | None = None) -> Payload:
        """Return the payload in a form that travels: files of pixels by their path, and in pieces for other hosts.

        Args:
            put: see `CacheFile.in_pieces`; None if every replica is on this host.
        """
        files: dict[CacheFile, CacheFile] = {}

        def pack(inputs: Pixels) -> PackedPixels:
            if inputs.file is None or put is None:
                return inputs.packed()
            files[inputs.file] = files.get(inputs.file) or inputs.file.in_pieces(put)
            return replace(inputs.packed(), file=files[inputs.file])

        return self._with_inputs(lambda inputs: pack(inputs) if isinstance(inputs, Pixels) else inputs)

    def unpacked(self, fetch: Callable[[Any], NDArray[np.uint8]] | None = None) -> Payload:
        """Return a received payload with its pixels available."""
        return self._with_inputs(lambda inputs: inputs.unpack(fetch) if isinstance(inputs, PackedPixels) else inputs)

    def with_others(self, split: str, others: Mapping[str, NDArray[np.float32]]) -> Payload:
        """Return the payload with the other side of a split embedded, by the prefix of a data set's metrics."""
        parts = {name: replace(arrays, other_E=others[name]) for name, arrays in self.splits[split].items()}
        return replace(self, splits={**self.splits, split: parts})

    def _with_inputs(self, change: Callable[[Any], Any]) -> Payload:
        splits = {
            name: {prefix: replace(arrays, inputs=change(arrays.inputs)) for prefix, arrays in parts.items()}
            for name, parts in self.splits.items()
        }
        return replace(self, splits=splits)


@dataclass(frozen=True)
class Wanted:
    """Settings that decide the constants of a study, together with device and tower."""

    precision: AnyPrecision = "float32"
    chunk: int | Literal["measure"] | None = None
    """Inputs computed together; None derives the number from device and tower."""
    baseline: bool = False
    """Whether the search split's baseline is a constant, because losses against it are limited."""


def _fetch(piece: Any) -> NDArray[np.uint8]:
    import ray

    content: NDArray[np.uint8] = ray.get(piece)
    return content


def given(held: Sequence[Any]) -> Any:
    """Return what was sent, in a list: either itself or a reference to it in the object store."""
    (each,) = held
    if type(each).__name__ != "ObjectRef":
        return each
    import ray

    return ray.get(each)


@dataclass
class Replica:
    """Scores masks at any stage; scorers are made when first needed and kept."""

    payload: Payload
    device: str = "cpu"
    constants: Constants | None = None
    """Constants of the study, settled or adopted before the first score."""
    _tower: nn.Module = field(init=False, repr=False)
    _views: dict[str, TowerView] = field(init=False, default_factory=dict, repr=False)
    """The proven view of each precision."""
    _scorers: dict[tuple[str | int, ...], Scorer] = field(init=False, default_factory=dict, repr=False)
    _scale_losses: dict[str, ScaleLoss] = field(init=False, default_factory=dict, repr=False)
    """Loss under scales on the search split of every data set."""
    _predictors: tuple[Predictor, ...] = field(init=False, default=(), repr=False)
    """Predictor for the search split of every data set."""
    _stock: StockTower | None = field(init=False, default=None, repr=False)
    """The stock tower of the other side, while it is embedded."""

    def __post_init__(self) -> None:
        self._tower = self.payload.tower.unpack()
        self.payload = self.payload.unpacked(_fetch)

    @property
    def grid(self) -> HeadGrid:
        """Layers and heads of the tower."""
        return grid_of(self._tower, self.payload.tower_name)

    @property
    def part(self) -> tuple[int, int]:
        """Index of its part of the images, and the number of parts."""
        return 0, 1

    def device_kind(self) -> str:
        """Return the kind of device and version that decide the last bits of a score."""
        return device_kind(self.device)

    def check_pixels(self) -> None:
        """Check that the pixels are unchanged.

        Raises:
            PixelsChangedError: they have changed.
        """
        check_all(arrays.inputs for parts in self.payload.splits.values() for arrays in parts.values())

    def encode(self, key: str, held: Sequence[Any], chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        """Return the L2-normalised embeddings (B, E) of chunks by the stock tower of the other side.

        Args:
            key: key of the encoder.
            held: the encoder or the reference to it, which is fetched when it is first needed.
            chunks: token ids or pixels.
        """
        if self._stock is None or self._stock.key != key:
            self._stock = None
            self._stock = StockTower(given(held), self.device)
        return self._stock.embed(chunks)

    def forget_encoder(self) -> None:
        """Release the stock tower of the other side, which is no longer needed."""
        self._stock = None

    def adopt_others(self, split: str, held: Sequence[Any]) -> None:
        """Compare a split's inputs from now on with the embeddings of the other side.

        Args:
            split: name of the split.
            held: the embeddings by the prefix of a data set's metrics, or the reference to them.
        """
        self.payload = self.payload.with_others(split, given(held))

    def survey(self) -> Survey:
        """Return what is known of the searched tower before masks are: it is proven in float32, and costs are counted.

        Raises:
            ModelError: the tower is not supported, or its view differs from the model.
        """
        torch.set_num_threads(self.payload.settings.threads)
        split = next(iter(self.payload.splits["search"].values()))
        view = self._view(split, "float32")
        inputs = probe_inputs(split, view, self.payload.normalisation)
        with torch.inference_mode():
            width = view.encode(inputs[:1], HeadMask.empty(view.grid)).shape[1]
        return Survey(TowerCost.of(view, inputs), width, free_device_bytes(self.device), free_host_bytes())

    def probe(self, probe: Probe) -> MaskScore:
        """Return the score of the empty mask on a few inputs, in float32."""
        payload = self.payload
        inputs = payload.splits["search"][probe.prefix].inputs
        inputs = inputs.part(probe.part) if isinstance(inputs, Pixels) else inputs[probe.part]
        split = SplitArrays(inputs, probe.other_E, probe.targets)
        view, settings = self._view(split, "float32"), replace(payload.settings, ablation="zero")
        with other_gelu(view.module) if probe.swaps_gelu else nullcontext():
            scorer = Scorer(view, split, payload.normalisation, settings, chunk=USUAL_CHUNK)
            (score,) = scorer.score(HeadMask.empty(self.grid).to_bools()[None])
        return score

    def settle(self, wanted: Wanted) -> Constants:
        """Return the constants of a study on this kind of device, by the search split, and use them from now on.

        Raises:
            ConfigError: the device cannot compute in the precision.
        """
        return settled(self, wanted)

    def measure(self, wanted: Wanted) -> Constants:
        """Return the constants of a study without the means, which need a pass over the search split."""
        torch.set_num_threads(self.payload.settings.threads)
        precision = resolved_precision(wanted.precision, torch.device(self.device))
        if isinstance(wanted.chunk, int):
            return Constants(precision, wanted.chunk)
        engine = self.engine("search", precision, chunk=1)
        return Constants(precision, measured_chunk(engine) if wanted.chunk == "measure" else chosen_chunk(engine))

    def means(self) -> NDArray[np.float32]:
        """Return the heads' mean outputs (L, H, d) over the search split of the first data set."""
        means_LHd: NDArray[np.float32] = self.engine("search", "float32", USUAL_CHUNK).means().cpu().numpy()
        return means_LHd

    def adopt(self, constants: Constants) -> None:
        """Use constants that another replica has settled."""
        self.constants = constants
        self._scorers.clear()
        self._scale_losses.clear()

    def adopt_displacements(self, displacements: Sequence[Displacements]) -> None:
        """Predict from now on by the displacements of every data set on the search split."""
        self._predictors = tuple(Predictor(each, ranking_device(torch.device(self.device))) for each in displacements)

    def score(
        self,
        stage: Stage,
        grid: HeadGrid,
        words: list[tuple[int, ...]],
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[MaskScore]:
        """Return the scores of masks given by their words, in the order given.

        Args:
            stage: the split, the precision, and what is kept besides metrics.
            grid: grid of the masks.
            words: words of the masks.
            on_progress: called with inputs embedded and in all, data set by data set.
        """
        prefixes, masks = list(self.payload.splits[stage.split]), [HeadMask(grid, word) for word in words]
        parts = self._predicted(stage, masks) if stage.predicted else self._exact(stage, bools_of(masks), on_progress)
        return [merged(dict(zip(prefixes, scores, strict=True))) for scores in zip(*parts, strict=True)]

    def do(self, tasks: Sequence[Task]) -> list[ScaleGradient | MaskScore]:
        """Return the gradients, or the scores, that tasks ask for under scales, in the order given."""
        return [
            self.score_scaled(task.stage, task.scales_LH) if isinstance(task, ScaledStage) else self._gradient(task)
            for task in tasks
        ]

    def _gradient(self, task: ScaleTask) -> ScaleGradient:
        """Return the gradient of a micro-batch of the search split."""
        if self.constants is None:
            raise RuntimeError("a replica settles or adopts the constants of the study before it differentiates")
        prefix = list(self.payload.splits["search"])[task.data]
        loss = self._scale_loss(Stage("search", self.constants.precision), prefix)
        return loss.gradient(task.units_u, task.scales_LH)

    def score_scaled(self, stage: Stage, scales_LH: NDArray[np.float64]) -> MaskScore:
        """Return the score of scales (L, H) over all data sets."""
        return merged(
            {
                prefix: self.scorer(stage, prefix).score_scaled(scales_LH, ranks=stage.ranks)
                for prefix in self.payload.splits[stage.split]
            }
        )

    def _scale_loss(self, stage: Stage, prefix: str) -> ScaleLoss:
        if prefix not in self._scale_losses:
            self._scale_losses[prefix] = self.scorer(stage, prefix).scale_loss()
        return self._scale_losses[prefix]

    def _exact(
        self, stage: Stage, masks_MLH: BoolArray, on_progress: Callable[[int, int], None]
    ) -> list[list[MaskScore]]:
        """Return the exact scores on every data set."""
        return [
            self.scorer(stage, prefix).score(
                masks_MLH, ranks=stage.ranks, embeddings=stage.embeddings, on_progress=on_progress
            )
            for prefix in self.payload.splits[stage.split]
        ]

    def _predicted(self, stage: Stage, masks: Sequence[HeadMask]) -> list[list[MaskScore]]:
        """Return the scores on every data set, predicted by the displacement surrogate."""
        if not self._predictors:
            raise RuntimeError("a replica adopts displacements before it predicts")
        return [
            self.scorer(stage, prefix, self.part).predict(masks, predictor)
            for prefix, predictor in zip(self.payload.splits[stage.split], self._predictors, strict=True)
        ]

    def scorer(self, stage: Stage, prefix: str, shard: tuple[int, int] = (0, 1)) -> Scorer:
        """Return the scorer of a data set at a stage, for all images or for a shard's."""
        if self.constants is None:
            raise RuntimeError("a replica settles or adopts the constants of the study before it scores")
        key = stage.split, prefix, stage.precision, *shard
        if key not in self._scorers:
            means_LHd = self.constants.means_LHd
            split = self.payload.splits[stage.split][prefix]
            if not split.embedding_shape[1]:
                raise RuntimeError(f"a replica adopts the other side of split {stage.split} before it scores")
            self._scorers[key] = Scorer(
                self._view(split, stage.precision),
                split,
                self.payload.normalisation,
                self.payload.settings,
                chunk=self.constants.chunk,
                means_LHd=None if means_LHd is None else torch.from_numpy(np.array(means_LHd)),
                shard=shard,
            )
        return self._scorers[key]

    def engine(self, split_name: str, precision: Precision, chunk: int) -> Engine:
        """Return an engine over a split of the first data set, with the ablation `zero`."""
        split = next(iter(self.payload.splits[split_name].values()))
        view = self._view(split, precision)
        return Engine(view, make_inputs(split.inputs, view, self.payload.normalisation), chunk=chunk)

    def _view(self, split: SplitArrays, precision: Precision) -> TowerView:
        if precision not in self._views:
            self._views[precision] = proven_view(
                self._tower,
                split,
                self.payload.normalisation,
                name=self.payload.tower_name,
                precision=precision,
                device=self.device,
            )
        return self._views[precision]


class SettlesConstants(Protocol):
    """The methods that settle the constants of a study: of a replica, or of a group that divides the images."""

    payload: Payload

    @property
    def grid(self) -> HeadGrid: ...  # noqa: D102
    def measure(self, wanted: Wanted) -> Constants: ...  # noqa: D102
    def means(self) -> NDArray[np.float32]: ...  # noqa: D102
    def adopt(self, constants: Constants) -> None: ...  # noqa: D102
    def score(self, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[MaskScore]: ...  # noqa: D102


def settled(replica: SettlesConstants, wanted: Wanted) -> Constants:
    """Return the constants of a study; the replica uses them from now on.

    Raises:
        ConfigError: the device cannot compute in the precision.
        ModelError: losses against the baseline are limited, and it cannot be scored.
    """
    constants = replica.measure(wanted)
    if find_ablation(replica.payload.settings.ablation).needs_means:
        constants = replace(constants, means_LHd=replica.means())
    replica.adopt(constants)
    if wanted.baseline:
        empty = HeadMask.empty(replica.grid)
        (score,) = replica.score(Stage("search", constants.precision), replica.grid, [empty.words])
        if score.failure:
            raise ModelError(f"nothing can be compared with the model as it is: {score.failure}")
        constants = replace(constants, baseline=score.metrics)
    return constants


def merged(parts: Mapping[str, MaskScore]) -> MaskScore:
    """Return a mask's score over all data sets from its score on each, by the prefix of their metrics."""
    seconds = sum(score.seconds for score in parts.values())
    failed = {prefix.rstrip("/"): score.failure for prefix, score in parts.items() if score.failure}
    embeddings = tuple(part for score in parts.values() for part in score.embeddings or ()) or None
    if failed:
        why = "; ".join(f"{name}: {why}" if name else why for name, why in failed.items())
        return MaskScore({}, seconds, why, embeddings=embeddings)
    metrics = {f"{prefix}{name}": value for prefix, score in parts.items() for name, value in score.metrics.items()}
    ranks = tuple(part for score in parts.values() for part in score.ranks or ())
    return MaskScore(metrics, seconds, ranks=ranks or None, embeddings=embeddings)
