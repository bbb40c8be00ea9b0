"""The stock tower of the side that no mask changes: chunks of texts or images in, embeddings out.

Every chunk is computed in one shape, by a fixed number of threads, so its bits depend neither on how many chunks there
are nor on who computes them. Texts are cut to the longest of their chunk where that changes no bit.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn

from headmask.errors import ModelError
from headmask.tower.towers import TowerName
from headmask.tower.views import TextView
from workers.scoring.devices import device_kind
from workers.scoring.gelu import swap_gelu
from workers.scoring.inputs import Normalisation
from workers.scoring.packing import PackedTower

# B texts or images of a chunk, T tokens, E embedding

Chunk = NDArray[np.int64] | NDArray[np.uint8]
"""Token ids (B, T), or pixels (B, 3, Y, X)."""
SIZES: dict[str, dict[TowerName, int]] = {"cpu": {"text": 32, "image": 16}, "cuda": {"text": 512, "image": 256}}
"""Texts or images of a chunk, by device: about what fills it."""
LANES = 16
"""Texts are cut to multiples of this: sums over a vector register then add up in the same order."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """A stock tower ready to travel, with everything that decides its embeddings besides the device."""

    tower: PackedTower
    side: TowerName
    normalisation: Normalisation
    threads: int
    swaps_gelu: bool = False
    """Whether the tower is run with the GELU that it was not loaded with."""
    on_cpu: bool = False
    """Whether replicas run it on their CPU, as the driver did in earlier versions."""
    key: str = field(default_factory=lambda: uuid4().hex)
    """Tells encoders apart without a look at their weights."""

    @classmethod
    def of(
        cls,
        clip: Any,
        side: TowerName,
        normalisation: Normalisation,
        threads: int,
        *,
        swaps_gelu: bool = False,
        on_cpu: bool = False,
    ) -> Encoder:
        """Return the encoder of one side of a model."""
        tower = clip.visual if side == "image" else _text_side(clip)
        return cls(PackedTower.pack(tower), side, normalisation, threads, swaps_gelu, on_cpu)

    def size(self, device: str) -> int:
        """Return the number of texts or images of a chunk on a device, or on a kind of device."""
        return SIZES["cpu" if self.on_cpu or device.startswith(("cpu", "mps")) else "cuda"][self.side]


class StockTower:
    """A stock tower on a device.

    Args:
        encoder: the tower as it travels.
        device: where it runs, unless the encoder asks for the CPU.
    """

    def __init__(self, encoder: Encoder, device: str) -> None:
        self.key = encoder.key
        self._encoder, self._size = encoder, encoder.size(device)
        self._device = torch.device("cpu" if encoder.on_cpu else device)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        module = encoder.tower.unpack()
        if encoder.swaps_gelu:
            swap_gelu(module)
        self._module: Any = module.to(self._device)
        self._texts = TextCutter(self._module) if encoder.side == "text" else None

    def embed(self, chunks: Sequence[Chunk], workers: int = 1) -> list[NDArray[np.float32]]:
        """Return the L2-normalised embeddings (B, E) of chunks.

        Args:
            chunks: each at most as large as `Encoder.size` says.
            workers: chunks that are computed at the same time.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(self._encoder.threads)
        try:
            if workers == 1:
                return list(map(self._embed, chunks))
            with ThreadPoolExecutor(workers) as executor:
                return list(executor.map(self._embed, chunks))
        finally:
            torch.set_num_threads(before)

    @torch.inference_mode()
    def _embed(self, chunk: Chunk) -> NDArray[np.float32]:
        inputs = torch.from_numpy(np.ascontiguousarray(chunk))
        if self._texts is None:
            inputs = self._encoder.normalisation(inputs, self._device)
        padded = F.pad(inputs, (0, 0) * (inputs.ndim - 1) + (0, self._size - len(inputs))).to(self._device)
        output = self._module(padded) if self._texts is None else self._texts.encode(padded)
        embedding_BE: Tensor = output[0] if isinstance(output, tuple) else output
        embedded_BE: NDArray[np.float32] = F.normalize(embedding_BE.float(), dim=-1)[: len(chunk)].cpu().numpy()
        return embedded_BE


class TextCutter:
    """Runs a model's `encode_text` on texts that are cut to the longest of their chunk, where that changes no bit.

    It may change none if the tower is causal, or masks padding itself. Whether it does is seen for every length on the
    first chunk that has it, which is computed both ways: after that, the shape is the same, and so are the bits.

    Args:
        model: the model without its image tower.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._num_read = num_read(getattr(model, "text", model))
        self._short: dict[int, Any] = {}
        """The model for every length; the model itself where a cut changes bits."""

    def encode(self, tokens_BT: Tensor) -> Tensor:
        """Return the embeddings (B, E) of texts, with the bits that they have uncut."""
        whole = tokens_BT.shape[1]
        length = min(whole, -(-self._num_read(tokens_BT) // LANES) * LANES)
        if length == whole:
            return self._run(self._model, tokens_BT)
        if length not in self._short:
            embedding_BE = self._run(self._model, tokens_BT)
            short = shortened(self._model, length)
            is_equal = torch.equal(self._run(short, tokens_BT[:, :length]), embedding_BE)
            self._short[length] = short if is_equal else self._model
            return embedding_BE
        short = self._short[length]
        return self._run(short, tokens_BT if short is self._model else tokens_BT[:, :length])

    @property
    def cut(self) -> list[int]:
        """The lengths at which texts were seen to be computed with the same bits."""
        return sorted(length for length, model in self._short.items() if model is not self._model)

    @staticmethod
    def _run(model: Any, tokens_BT: Tensor) -> Tensor:
        embedding_BE: Tensor = model.encode_text(tokens_BT)
        return embedding_BE


def num_read(text: Any) -> Callable[[Tensor], int]:
    """Return a function that returns how many of the first tokens decide a text tower's embeddings of texts (B, T)."""
    if isinstance(text, HFTextEncoder):
        padding = text.config.pad_token_id
        return lambda tokens_BT: _last(tokens_BT != padding)
    try:
        view = TextView(text)
    except (ModelError, AttributeError):
        return lambda tokens_BT: tokens_BT.shape[1]
    return view.num_read


def _last(used_BT: Tensor) -> int:
    """Return how many of the first columns have all that are marked; at least one."""
    columns = used_BT.any(0).nonzero()
    return int(columns.max()) + 1 if len(columns) else 1


def shortened(model: Any, length: int) -> Any:
    """Return a model for texts of fewer tokens; it shares all weights, with fewer positions."""
    if isinstance(getattr(model, "text", None), nn.Module):
        short = copy.copy(model)
        short._modules = {**model._modules, "text": shortened(model.text, length)}
        return short
    if isinstance(model, HFTextEncoder):
        return model
    short = copy.copy(model)
    positions_TD = nn.Parameter(model.positional_embedding[:length], requires_grad=False)
    short._parameters = {**model._parameters, "positional_embedding": positions_TD}
    short._buffers = {**model._buffers, "attn_mask": model.attn_mask[:length, :length]}
    return short


def _text_side(clip: Any) -> nn.Module:
    """Return a model without what `encode_text` does not need: its image tower, and a decoder of captions."""
    alone: Any = copy.copy(clip)
    alone._modules = {name: each for name, each in clip._modules.items() if name not in ("visual", "text_decoder")}
    rest: nn.Module = alone
    return rest


class EncodingHere:
    """Chunks that are embedded in this process, on one device, as many at a time as it has cores for.

    Args:
        device: where the tower runs.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._tower: StockTower | None = None
        self._workers = 1
        self._take: Callable[[int], Chunk] | None = None
        self._places: list[int] = []

    @property
    def device(self) -> str:
        """Kind of device and version, which decide the last bits of an embedding."""
        return device_kind(self._device)

    def submit_chunks(self, encoder: Encoder, take: Callable[[int], Chunk], places: Sequence[int]) -> None:
        """Queue chunks: see `workers.pool.protocol.Pool`."""
        if self._tower is None or self._tower.key != encoder.key:
            self._tower = StockTower(encoder, self._device)
        on_cpu = encoder.on_cpu or self._device == "cpu"
        self._workers = max(1, (os.cpu_count() or 1) // encoder.threads) if on_cpu else 1
        self._take, self._places = take, list(places)

    def collect_chunks(self, timeout_s: float) -> dict[int, NDArray[np.float32]]:
        """Return the embeddings of the next chunks, by their place."""
        if self._tower is None or self._take is None:
            return {}
        places, self._places = self._places[: self._workers], self._places[self._workers :]
        return dict(zip(places, self._tower.embed(list(map(self._take, places)), self._workers), strict=True))

    def drop_encoder(self) -> None:
        """Release the tower."""
        self._tower = self._take = None
