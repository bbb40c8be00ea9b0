"""The side that no mask changes: captions and prompts when image heads are searched, images when text heads are.

It is embedded once, by a pool's replicas, and kept by the digest of everything that decides it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headmask.errors import ConfigError
from headmask.models.loading import LoadedModel
from headmask.tower.towers import TowerName, tower_of
from orchestrator.screen.waiting import said_when_slow
from workers.data.loading import Split
from workers.data.pixels import Pixels
from workers.data.preprocess import UInt8Preprocess
from workers.scoring.devices import default_device, device_kind
from workers.scoring.embedding import EmbedsChunks, embedded, kept
from workers.scoring.inputs import Normalisation
from workers.scoring.packing import PackedTower
from workers.scoring.replica import Payload
from workers.scoring.scorer import ScorerSettings, SplitArrays
from workers.scoring.stock import Encoder, EncodingHere

# Q texts, T tokens, E embedding

Embeddings = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class OtherSide:
    """What embeds the side that no mask changes, and everything that decides its embeddings besides the device."""

    model: LoadedModel
    side: TowerName
    normalisation: Normalisation
    preprocessing: str
    threads: int
    on_cpu: bool = False
    """Whether a CPU embeds it even for GPUs, as in studies of earlier versions."""

    @cached_property
    def tokens(self) -> Callable[[tuple[str, ...]], NDArray[np.int64]]:
        """Returns the token ids (Q, T) of texts; the splits of a classification set have the same prompts."""
        return cache(lambda texts: tokens_of(self.model, texts).numpy())

    def of(
        self,
        split: Split,
        pool: EmbedsChunks,
        say: Callable[[str], None],
        *,
        part: slice = slice(None),
        swaps_gelu: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> Embeddings:
        """Return the embeddings that a split's inputs are compared with, L2-normalised: classes after their prompts.

        Args:
            split: the split.
            pool: embeds what is not kept yet.
            say: receives progress messages.
            part: the texts or images to embed.
            swaps_gelu: run the stock tower with the GELU that it was not loaded with.
            check: called while chunks are awaited; may raise to stop.
        """
        inputs: Pixels | NDArray[np.int64]
        if self.side == "image":
            inputs = split.pixels.part(part)
            whole = [] if len(inputs) == len(split.pixels) else [len(inputs)]
            decides: tuple[Any, ...] = "images", split.digest, self.preprocessing, *whole
        else:
            inputs = self.tokens(split.texts)[part]
            decides = "texts", inputs
        what = f"the {self.side}s of split {split.name}"
        embeddings = self._kept(decides, inputs, what, pool, say, swaps_gelu=swaps_gelu, check=check)
        return embeddings if self.side == "image" else split.targets.pooled(torch.from_numpy(embeddings)).numpy()

    def of_texts(
        self, tokens_QT: NDArray[np.int64], pool: EmbedsChunks, what: str, say: Callable[[str], None]
    ) -> Embeddings:
        """Return the embeddings (Q, E) of texts."""
        return self._kept(("texts", tokens_QT), tokens_QT, what, pool, say)

    def _kept(
        self,
        decides: tuple[Any, ...],
        inputs: Pixels | NDArray[np.int64],
        what: str,
        pool: EmbedsChunks,
        say: Callable[[str], None],
        *,
        swaps_gelu: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> Embeddings:
        # The weights do not tell the activation; the structure does.
        decides = *decides, self.model.reference.weights_sha256, self.model.clip, self.threads
        on_progress = said_when_slow(say, f"Embedding {what}, once")
        return kept(
            (*decides, "other GELU") if swaps_gelu else decides,
            lambda chunks: embedded(
                pool, self._encoder(swaps_gelu), inputs, chunks=chunks, on_progress=on_progress, check=check
            ),
            kind=device_kind("cpu") if self.on_cpu else pool.device,
        )

    @cached_property
    def _encoder(self) -> Callable[[bool], Encoder]:
        """Returns the stock tower ready to travel, packed once."""

        def pack(swaps_gelu: bool) -> Encoder:
            about = self.model.clip, self.side, self.normalisation, self.threads
            return Encoder.of(*about, swaps_gelu=swaps_gelu, on_cpu=self.on_cpu)

        return cache(pack)


def with_other_side(
    payload: Payload,
    other: OtherSide,
    splits: Mapping[str, Mapping[str, Split]],
    pool: EmbedsChunks,
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> Payload:
    """Return a payload with the other side of splits embedded, given each by the prefix of its metrics."""
    for name, parts in splits.items():
        payload = payload.with_others(
            name, {prefix: other.of(split, pool, say, check=check) for prefix, split in parts.items()}
        )
    return payload


def tokens_of(model: LoadedModel, texts: Sequence[str]) -> torch.Tensor:
    """Return the token ids (Q, T) of texts; there may be no texts."""
    # Not every tokenizer accepts an empty list.
    return model.tokenizer(list(texts) or [""])[: len(texts)]


def bare_payload(
    model: LoadedModel,
    preprocess: UInt8Preprocess,
    splits: Mapping[str, Mapping[str, Split]],
    settings: ScorerSettings,
    tower: TowerName,
) -> tuple[Payload, OtherSide]:
    """Return what replicas need, without the embeddings of the other side, and what embeds that.

    Raises:
        ConfigError: heads of the tower change nothing in a task.
    """
    normalisation = Normalisation(preprocess.mean, preprocess.std)
    side: TowerName = "text" if tower == "image" else "image"
    other = OtherSide(model, side, normalisation, preprocess.description, settings.threads)
    unknown_E = np.empty((0, 0), np.float32)

    def arrays(split: Split) -> SplitArrays:
        if tower not in split.targets.towers:
            raise ConfigError(
                f"heads of the {tower} tower change nothing in {split.targets.task}; search the "
                f"{' or '.join(split.targets.towers)} tower, or name another task"
            )
        inputs = split.pixels if tower == "image" else other.tokens(split.texts)
        return SplitArrays(inputs, unknown_E, split.targets.at_scale(model.scale))

    made = {name: {prefix: arrays(split) for prefix, split in parts.items()} for name, parts in splits.items()}
    packed = PackedTower.pack(tower_of(model.clip, tower))
    return Payload(packed, tower, made, normalisation, settings), other


def make_payload(
    model: LoadedModel,
    preprocess: UInt8Preprocess,
    splits: Mapping[str, Mapping[str, Split]],
    settings: ScorerSettings,
    tower: TowerName,
    say: Callable[[str], None] = lambda text: None,
) -> Payload:
    """Return what replicas need: the packed tower, its inputs, and the other side's embeddings, computed here."""
    payload, other = bare_payload(model, preprocess, splits, settings, tower)
    return with_other_side(payload, other, splits, EncodingHere(default_device()), say)


def embedded_texts(
    model: LoadedModel, tokens_QT: torch.Tensor, threads: int, what: str, say: Callable[[str], None]
) -> NDArray[np.float32]:
    """Return the L2-normalised embeddings (Q, E) of texts by the stock text tower, computed here or kept."""
    preprocess = UInt8Preprocess(model.preprocess)
    other = OtherSide(model, "text", Normalisation(preprocess.mean, preprocess.std), preprocess.description, threads)
    return other.of_texts(tokens_QT.numpy(), EncodingHere(default_device()), what, say)
