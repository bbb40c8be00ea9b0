"""The engine: masks in, embeddings out, nothing computed twice.

Masks that agree on layers 0..l share the residual stream after layer l, so a set of masks is a trie over their words,
walked depth-first for one chunk of inputs at a time. Every node is computed with the same shapes whatever else is in
the batch: an embedding is a function of its mask alone, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from headmask.ablation.rules import ZERO, Ablation
from headmask.apply.live import mean_outputs
from headmask.errors import DeviceMemoryError
from headmask.mask import HeadMask
from headmask.tower.views import Entered, Sequences, TowerView
from workers.scoring.inputs import Inputs
from workers.scoring.trie import shared_layers

REVISION = 3
"""Raised whenever an embedding's last bits may change: scores of two revisions are never mixed in one study."""

# M masks, N inputs, E embedding, L layers, H heads, d head width, B inputs of a chunk


class Engine:
    """Embeddings under masks, for one tower and one set of inputs.

    Args:
        view: the tower, already on its device in the precision of the computation.
        inputs: images or texts.
        ablation: what replaces an ablated head.
        means_LHd: calibrated mean outputs, where the ablation needs them.
        chunk: inputs computed together; a constant of the study.
        max_nodes: maximum number of nodes of the trie that are kept; the engine lowers it when it runs short of memory.
    """

    def __init__(
        self,
        view: TowerView,
        inputs: Inputs,
        *,
        ablation: Ablation = ZERO,
        means_LHd: Tensor | None = None,
        chunk: int,
        max_nodes: int | None = None,
    ) -> None:
        self.view = view
        self.inputs = inputs
        self.ablation = ablation
        self.means_LHd = means_LHd
        self.chunk = chunk
        self.max_nodes = max_nodes or view.grid.layers

    @torch.inference_mode()
    def embed(
        self, masks: Sequence[HeadMask], on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Tensor:
        """Return the embeddings (M, N, E) in float32, not normalised, in the order of the masks.

        Args:
            masks: masks on the tower's grid.
            on_progress: called with inputs done and in all.

        Raises:
            DeviceMemoryError: not even one node fits; the message says which chunk would.
        """
        order = sorted(range(len(masks)), key=lambda index: masks[index])
        ordered = [masks[index] for index in order]
        return self._embed(order, lambda taken: self._walk(taken, ordered), on_progress)

    @torch.inference_mode()
    def embed_scaled(self, scales_LH: Tensor) -> Tensor:
        """Return the embeddings (N, E) in float32, not normalised, with a scale on every head.

        Raises:
            DeviceMemoryError: a chunk does not fit.
        """

        def encode(taken: Tensor) -> Iterator[Tensor]:
            try:
                yield self.view.encode_scaled(taken, scales_LH, self.ablation, self.means_LHd)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise DeviceMemoryError(
                    f"{self.chunk} inputs with scaled heads do not fit in the memory of {self.view.device}: lower "
                    "--image-chunk"
                ) from None

        return self._embed([0], encode, lambda done, total: None)[0]

    def _embed(
        self,
        order: Sequence[int],
        encode: Callable[[Tensor], Iterator[Tensor]],
        on_progress: Callable[[int, int], None],
    ) -> Tensor:
        """Return the embeddings (M, N, E) in float32 of what `encode` yields for a chunk, in the given order."""
        embeddings_MNE: Tensor | None = None
        parts = self._parts()
        for part, taken in zip(parts, self.inputs.stream(parts), strict=True):
            rows_B = torch.from_numpy(self.inputs.order_N[part]).to(self.view.device)
            for index, embedding_BE in zip(order, encode(taken), strict=True):
                if embeddings_MNE is None:
                    shape = len(order), len(self.inputs), embedding_BE.shape[1]
                    embeddings_MNE = torch.empty(shape, device=embedding_BE.device)
                embeddings_MNE[index, rows_B] = embedding_BE.float()
            on_progress(min(part.stop, len(self.inputs)), len(self.inputs))
        if embeddings_MNE is None:
            raise ValueError("there is nothing to embed")
        return embeddings_MNE

    @torch.inference_mode()
    def means(self) -> Tensor:
        """Return each head's mean output (L, H, d) in float32, over all tokens of all inputs."""

        def encode() -> None:
            for taken in self.inputs.stream(self._parts()):
                self.view.stock(taken)

        return mean_outputs(self.view.attentions, encode)

    def _parts(self) -> list[slice]:
        return [slice(start, start + self.chunk) for start in range(0, len(self.inputs), self.chunk)]

    def _walk(self, taken: Tensor, masks: Sequence[HeadMask]) -> Iterator[Tensor]:
        """Yield the embeddings (B, E) of sorted masks for one chunk."""
        try:
            yield from _Path(self, self.view.embed(taken)).walk(masks)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return
        fitting = self._fitting_chunk()
        raise DeviceMemoryError(
            f"one node of {self.chunk} inputs does not fit in the memory of {self.view.device}; "
            + (f"--image-chunk {fitting} does" if fitting else "not even one input does: use a larger device")
        )

    def _fitting_chunk(self) -> int:
        """Return the largest fraction of the chunk, by halves, of which one node fits in memory; 0 if none does."""
        chunk = self.chunk // 2
        while chunk:
            try:
                path = _Path(self, self.view.embed(self.inputs.take(slice(0, chunk))))
                next(path.walk([HeadMask.empty(self.view.grid)]))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                chunk //= 2
            else:
                break
        return chunk


class _Path:
    """The nodes from the root to one mask, for one chunk of inputs; those that later masks need are kept."""

    def __init__(self, engine: Engine, sequences: Sequences) -> None:
        self._engine = engine
        self._sequences = sequences
        self._nodes: dict[int, Entered] = {}
        """Nodes by layer. The node of layer l stands for the words of layers 0..l-1."""

    def walk(self, masks: Sequence[HeadMask]) -> Iterator[Tensor]:
        """Yield the embeddings (B, E) of masks that are sorted by words."""
        shared = [0, *(shared_layers(first, second) for first, second in pairwise(masks)), -1]
        embedding_BE: Tensor | None = None
        for mask, before, after in zip(masks, shared, shared[1:], strict=False):
            if embedding_BE is None or before < len(mask.words):
                embedding_BE = self._squeezed(mask, before, after)
            yield embedding_BE

    def _squeezed(self, mask: HeadMask, shared: int, needed: int) -> Tensor:
        """Descend to a mask, keeping fewer nodes whenever memory runs out: missing ones are computed again."""
        while True:
            try:
                return self._descend(mask, shared, needed)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, whose traceback holds on to what did not fit.
            self._release()

    def _release(self) -> None:
        engine = self._engine
        if engine.max_nodes == 1:
            raise _NothingFitsError
        engine.max_nodes = max(1, min(engine.max_nodes, len(self._nodes)) // 2)
        self._nodes.clear()
        if engine.view.device.type == "cuda":
            torch.cuda.empty_cache()
        elif engine.view.device.type == "mps":
            torch.mps.empty_cache()

    def _descend(self, mask: HeadMask, shared: int, needed: int) -> Tensor:
        engine, nodes = self._engine, self._nodes
        view, ablation, means_LHd = engine.view, engine.ablation, engine.means_LHd
        for layer in [layer for layer in nodes if layer > shared]:
            del nodes[layer]
        if not nodes:
            nodes[0] = view.enter(0, self._sequences, self._sequences.x_BTD, ablation)
        for layer in range(max(nodes), view.grid.layers):
            node = nodes[layer] if layer <= needed else nodes.pop(layer)
            x_BQD = view.leave(layer, node, mask.words[layer], ablation, means_LHd)
            del node
            if layer + 1 < view.grid.layers:
                nodes[layer + 1] = view.enter(layer + 1, self._sequences, x_BQD, ablation)
                while len(nodes) > engine.max_nodes:
                    # The one nearest to the root is needed again last.
                    del nodes[min(nodes)]
        return view.pool(x_BQD)


class _NothingFitsError(MemoryError):
    """One node does not fit into memory even without any others."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device, or this machine, is out of memory."""
    texts = ("can't allocate memory", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in texts)
