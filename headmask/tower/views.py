"""Tower views: the pieces of a tower's forward pass, which the scoring engine runs itself, without hooks.

A view splits a layer where masks part: `enter` does all that the masks with a common prefix share (norm, q, k, v,
attention, the output projection), `leave` what belongs to one word (what the ablated heads change, residual, MLP). In
the last layer only what pooling reads is computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from open_clip.transformer import TextTransformer, VisionTransformer
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headmask.ablation.replacing import corrected_output, replace_heads, scale_heads
from headmask.ablation.rules import ZERO, Ablation
from headmask.attention.adapters import open_attention
from headmask.attention.heads import Attended, HeadAttention
from headmask.errors import ModelError
from headmask.mask import HeadGrid, HeadMask
from headmask.tower.blocks import open_block
from headmask.tower.readout import Readout, open_clip_readout, timm_readout

# B batch, T tokens, Q tokens that are computed (all, or one), D width, E embedding, L layers, H heads, d head width


class Sequences(NamedTuple):
    """A batch as it enters the first block."""

    x_BTD: Tensor
    """Residual stream."""
    bias: Tensor | None = None
    """Additive attention mask (T, T) or (B, H, T, T); None if every token sees all."""
    rope: Tensor | None = None
    """Rotary embeddings, for all layers (T, ...) or one each (L, T, ...)."""
    token_B: Tensor | None = None
    """The only token that pooling reads of each sequence; None if it reads all."""

    def rope_of(self, layer: int) -> Tensor | None:
        """Return the rotary embeddings of a layer."""
        return self.rope if self.rope is None or self.rope.ndim == 2 else self.rope[layer]


class Entered(NamedTuple):
    """A layer up to the point where masks branch off: what a node of the trie keeps."""

    x_BQD: Tensor
    """Residual stream that enters the layer, at the tokens that are computed."""
    attended: Attended
    y_BQD: Tensor | None
    """Attention output with no head ablated; None if z is normalised before W_O."""


class TowerView(ABC):
    """The pieces of a tower in evaluation mode.

    Args:
        module: the tower.
        blocks: its transformer blocks.

    Raises:
        ModelError: a block or its attention is not supported, or layers have different heads.
    """

    has_class_token: bool
    """Whether the first token is a class token."""

    def __init__(self, module: nn.Module, blocks: Any) -> None:
        self.module: Any = module
        self.blocks = [open_block(block) for block in blocks]
        self.attentions: list[HeadAttention] = [open_attention(block.attn) for block in blocks]
        counts = [attention.num_heads for attention in self.attentions]
        if len(set(counts)) != 1:
            raise ModelError(f"all layers of a tower must have the same number of heads; this one has {counts}")
        self.grid = HeadGrid(len(counts), counts[0])

    @property
    def device(self) -> torch.device:
        """The device of the tower's weights."""
        return self._parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the tower's weights."""
        return self._parameter.dtype

    @property
    def _parameter(self) -> Tensor:
        parameter: Tensor = next(self.module.parameters())
        return parameter

    @abstractmethod
    def embed(self, inputs: Tensor) -> Sequences:
        """Return normalised images (B, 3, Y, X), or token ids (B, T), as they enter the first block."""

    @abstractmethod
    def pool(self, x_BQD: Tensor) -> Tensor:
        """Return the embeddings (B, E), not normalised, from the output of the last block."""

    def readout(self) -> Readout:
        """Return the steps of `pool`, if they are a norm, a mean of tokens, a norm and linear maps.

        Raises:
            ModelError: they are something else.
        """
        raise ModelError("only image towers have the steps of their pooling known")

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of patches in an image; they are the last tokens of a sequence."""
        raise ModelError("only image towers have patches")

    def stock(self, inputs: Tensor) -> Tensor:
        """Return the embeddings (B, E) of the tower's own forward pass."""
        output = self.module(inputs)
        embedding_BE: Tensor = output[0] if isinstance(output, tuple) else output
        return embedding_BE

    def enter(self, layer: int, sequences: Sequences, x_BTD: Tensor, ablation: Ablation) -> Entered:
        """Return the part of a layer that all masks share, given the residual stream that enters it."""
        attention = self.attentions[layer]
        x_BQD, attended = self._attend(layer, sequences, x_BTD, ablation)
        return Entered(x_BQD, attended, None if attention.normalises_heads else attention.project(attended.z_BHQd))

    def _attend(self, layer: int, sequences: Sequences, x_BTD: Tensor, ablation: Ablation) -> tuple[Tensor, Attended]:
        """Return the residual stream that enters a layer, at the tokens that are computed, and what its heads read."""
        attention = self.attentions[layer]
        rope = sequences.rope_of(layer)
        read_BTD = self.blocks[layer].read(x_BTD)
        if layer < self.grid.layers - 1 or sequences.token_B is None:
            attended = attention.attend(read_BTD, bias=sequences.bias, rope=rope, of_values=ablation.of_values)
        else:
            token_B, bias = sequences.token_B, sequences.bias
            attended = attention.attend_at(read_BTD, token_B, bias=bias, rope=rope, of_values=ablation.of_values)
            x_BTD = x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), token_B][:, None]
        return x_BTD, attended

    def leave(
        self, layer: int, entered: Entered, word: int, ablation: Ablation, means_LHd: Tensor | None = None
    ) -> Tensor:
        """Return the residual stream that leaves a layer with the heads of a word ablated."""
        attention, (x_BQD, attended, y_BQD) = self.attentions[layer], entered
        means_Hd = None if means_LHd is None else means_LHd[layer]
        if y_BQD is None:
            y_BQD = attention.project(replace_heads(attended, word, ablation, means_Hd))
        else:
            y_BQD = corrected_output(attention, y_BQD, attended, word, ablation, means_Hd)
        return self.blocks[layer].finish(x_BQD, y_BQD)

    def encode(
        self, inputs: Tensor, mask: HeadMask, ablation: Ablation = ZERO, means_LHd: Tensor | None = None
    ) -> Tensor:
        """Return the embeddings (B, E) with a mask applied: one pass through all pieces."""
        sequences = self.embed(inputs)
        x = sequences.x_BTD
        for layer, word in enumerate(mask.words):
            entered = self.enter(layer, sequences, x, ablation)
            x = self.leave(layer, entered, word, ablation, means_LHd)
        return self.pool(x)

    def encode_scaled(
        self, inputs: Tensor, scales_LH: Tensor, ablation: Ablation = ZERO, means_LHd: Tensor | None = None
    ) -> Tensor:
        """Return the embeddings (B, E) with scales on all heads, differentiable by the scales where gradients are on.

        A scale of 1 leaves a head as it is, 0 ablates it. Only the residual streams between layers are kept for the way
        back, on which a layer is computed again.

        Args:
            inputs: see `embed`.
            scales_LH: one scale per head; float32, whatever the tower's precision.
            ablation: what a scale of 0 puts in place of a head.
            means_LHd: calibrated mean outputs, where the ablation needs them.
        """
        sequences = self.embed(inputs)
        x = sequences.x_BTD
        for layer in range(self.grid.layers):
            x = checkpoint(
                self._scaled, layer, sequences, x, scales_LH[layer], ablation, means_LHd, use_reentrant=False
            )
        return self.pool(x)

    def _scaled(
        self,
        layer: int,
        sequences: Sequences,
        x_BTD: Tensor,
        scales_H: Tensor,
        ablation: Ablation,
        means_LHd: Tensor | None,
    ) -> Tensor:
        """Return the residual stream that leaves a layer with scales on its heads."""
        x_BQD, attended = self._attend(layer, sequences, x_BTD, ablation)
        z_BHQd = scale_heads(attended, scales_H, ablation, None if means_LHd is None else means_LHd[layer])
        return self.blocks[layer].finish(x_BQD, self.attentions[layer].project(z_BHQd))

    def _first_tokens(self, x_BTD: Tensor) -> Tensor:
        return torch.zeros(len(x_BTD), dtype=torch.int64, device=x_BTD.device)


class OpenClipImageView(TowerView):
    """open_clip's `VisionTransformer`: class-token, average or attentional pooling; CoCa's and CLIPA's towers too."""

    has_class_token = True

    def __init__(self, module: VisionTransformer) -> None:
        if module.attn_pool is not None and module.attn_pool_contrastive is not None:
            raise ModelError("a second, contrastive attentional pooler is not supported")
        super().__init__(module, module.transformer.resblocks)

    def embed(self, inputs: Tensor) -> Sequences:
        """Return normalised images as they enter the first block."""
        x_BTD = self.module._embeds(inputs)
        reads_class_token = self.module.attn_pool is None and self.module.pool_type == "tok"
        return Sequences(x_BTD, token_B=self._first_tokens(x_BTD) if reads_class_token else None)

    def pool(self, x_BQD: Tensor) -> Tensor:
        """Return the image embeddings."""
        tower = self.module
        if tower.attn_pool is not None and tower.pool_type == "tok":
            # Of the pooler's many queries, only the first is read.
            pooler = tower.attn_pool
            tokens_BTD = pooler.ln_k(x_BQD)
            query_B1D = pooler.ln_q(pooler.query[:1]).expand(len(x_BQD), -1, -1)
            pooled_BD = tower.ln_post(pooler.attn(query_B1D, tokens_BTD, tokens_BTD, need_weights=False)[0])[:, 0]
        else:
            pooled_BD, _ = tower._pool(x_BQD)
        embedding_BE: Tensor = pooled_BD if tower.proj is None else pooled_BD @ tower.proj
        return embedding_BE

    def readout(self) -> Readout:
        """Return the steps of `pool`."""
        return open_clip_readout(self.module)

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of patches in an image."""
        rows, columns = self.module.grid_size
        return rows, columns


class TimmImageView(TowerView):
    """open_clip's wrapper of a timm `VisionTransformer`: SigLIP, SigLIP2, MobileCLIP-B and -L, ViTamin."""

    def __init__(self, module: Any) -> None:
        super().__init__(module, module.trunk.blocks)
        self.has_class_token = module.trunk.cls_token is not None

    def embed(self, inputs: Tensor) -> Sequences:
        """Return normalised images as they enter the first block."""
        trunk = self.module.trunk
        x_BTD = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(inputs))))
        return Sequences(x_BTD, token_B=self._read_token(x_BTD))

    def pool(self, x_BQD: Tensor) -> Tensor:
        """Return the image embeddings."""
        trunk = self.module.trunk
        embedding_BE: Tensor = self.module.head(trunk.forward_head(trunk.norm(x_BQD)))
        return embedding_BE

    def readout(self) -> Readout:
        """Return the steps of `pool`."""
        return timm_readout(self.module)

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of patches in an image."""
        rows, columns = self.module.trunk.patch_embed.grid_size
        return rows, columns

    def _read_token(self, x_BTD: Tensor) -> Tensor | None:
        trunk = self.module.trunk
        reads_class_token = trunk.attn_pool is None and trunk.global_pool == "token" and self.has_class_token
        return self._first_tokens(x_BTD) if reads_class_token else None


class EvaImageView(TimmImageView):
    """open_clip's wrapper of timm's `Eva`: EVA01, EVA02 and PE, with rotary embeddings if they have them."""

    def embed(self, inputs: Tensor) -> Sequences:
        """Return normalised images as they enter the first block."""
        trunk = self.module.trunk
        x_BTD, rope = trunk._pos_embed(trunk.patch_embed(inputs))
        return Sequences(trunk.norm_pre(x_BTD), rope=rope, token_B=self._read_token(x_BTD))


class TextView(TowerView):
    """open_clip's text transformer, as a separate module or spread over `CLIP`."""

    has_class_token = False

    def __init__(self, module: Any) -> None:
        super().__init__(module, module.transformer.resblocks)
        owns = isinstance(module, TextTransformer)
        self._pool_type: str = module.pool_type if owns else module.text_pool_type
        self._eos_id: int = getattr(module, "eos_id" if owns else "text_eos_id", -1)
        self._has_class_embedding = getattr(module, "cls_emb", None) is not None
        if self._pool_type == "none" and not self._has_class_embedding:
            raise ModelError("a text tower without pooling has no embedding to search on")

    def stock(self, inputs: Tensor) -> Tensor:
        """Return the embeddings (B, E) of the tower's own forward pass."""
        if isinstance(self.module, TextTransformer):
            return super().stock(inputs)
        embedding_BE: Tensor = self.module.encode_text(inputs)
        return embedding_BE

    def embed(self, inputs: Tensor) -> Sequences:
        """Return token ids (B, T) as they enter the first block.

        Under a causal mask, nothing after the last token that pooling reads is ever seen: those columns are left out.
        """
        tower, token_B = self.module, self.read_tokens(inputs)
        if self._masks_padding:
            x_BTD, bias = tower._embeds(inputs)
            return Sequences(x_BTD, bias.unflatten(0, (len(x_BTD), -1)), token_B=token_B)
        bias = tower.attn_mask
        length = self.num_read(inputs)
        inputs = inputs[:, :length]
        x_BTD = tower.token_embedding(inputs).to(self.dtype) + tower.positional_embedding[:length].to(self.dtype)
        return Sequences(x_BTD, None if bias is None else bias[:length, :length].to(self.dtype), token_B=token_B)

    @property
    def _masks_padding(self) -> bool:
        tower = self.module
        return isinstance(tower, TextTransformer) and (self._has_class_embedding or tower.use_pad_mask)

    def num_read(self, inputs: Tensor) -> int:
        """Return how many of the first tokens of texts (B, T) are read: under a causal mask, up to the last pooled."""
        is_cut = self.module.attn_mask is not None and not self._masks_padding
        return int(self.read_tokens(inputs).max()) + 1 if is_cut else inputs.shape[1]

    def read_tokens(self, inputs: Tensor) -> Tensor:
        """Return the token of each text (B, T) that pooling reads."""
        if self._has_class_embedding:
            return torch.full((len(inputs),), inputs.shape[1], device=inputs.device)
        if self._pool_type == "argmax":
            return inputs.argmax(dim=-1)
        if self._pool_type == "eos":
            return torch.eq(inputs, self._eos_id).int().argmax(dim=-1)
        position = 0 if self._pool_type == "first" else inputs.shape[1] - 1
        return torch.full((len(inputs),), position, device=inputs.device)

    def pool(self, x_BQD: Tensor) -> Tensor:
        """Return the text embeddings."""
        pooled_BD: Tensor = self.module.ln_final(x_BQD)[:, 0]
        projection = self.module.text_projection
        if projection is None:
            return pooled_BD
        embedding_BE: Tensor = projection(pooled_BD) if isinstance(projection, nn.Linear) else pooled_BD @ projection
        return embedding_BE


IMAGE_VIEWS: dict[type, type[TimmImageView]] = {TimmVisionTransformer: TimmImageView, Eva: EvaImageView}
"""Views by the type of timm trunk."""
