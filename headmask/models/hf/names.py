"""The names of weights in transformers and in open_clip, and how one becomes the other: both ways, without rounding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from headmask.models.hf.architecture import VISION_ONLY

How = Literal["same", "transposed", "patches"]
BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""Names in a block of open_clip, and in one of transformers."""
TIMM_BLOCK = {
    "attn.proj": "self_attn.out_proj",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Names in a block of timm, and in one of transformers."""


@dataclass(frozen=True)
class Renaming:
    """Tensors of open_clip that are, stacked, those of transformers, stacked."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    how: How = "same"
    """`transposed`: a parameter that transformers keeps as a linear layer; `patches`: a convolution that it does."""

    def to_ours(self, theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Return open_clip's tensors, in the shapes given."""
        value = _stacked(theirs[name] for name in self.theirs)
        if self.how == "transposed":
            value = value.T
        if self.how == "patches":
            width, channels, rows, columns = shapes[self.ours[0]]
            value = value.reshape(width, rows, columns, channels).permute(0, 3, 1, 2)
        return _apart(value, self.ours, shapes)

    def to_theirs(self, ours: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Return the tensors of transformers, in the shapes given."""
        value = _stacked(ours[name] for name in self.ours)
        if self.how == "transposed":
            value = value.T
        if self.how == "patches":
            value = value.permute(0, 2, 3, 1)
        return _apart(value, self.theirs, shapes)


def _stacked(values: Iterable[Tensor]) -> Tensor:
    found = list(values)
    return torch.cat(found) if len(found) > 1 else found[0]


def _apart(value: Tensor, names: tuple[str, ...], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    if len(names) == 1:
        return {names[0]: value.reshape(shapes[names[0]]).contiguous()}
    parts = torch.split(value, [shapes[name][0] for name in names])
    return {name: part.contiguous() for name, part in zip(names, parts, strict=True)}


def renamings(config: Any, theirs: Iterable[str]) -> list[Renaming]:
    """Return the renamings of a model's weights.

    Args:
        config: the model's configuration in transformers.
        theirs: the names of its weights.
    """
    kind, names = config.model_type, list(theirs)
    if kind == VISION_ONLY:
        prefix = "vision_model." if any(name.startswith("vision_model.") for name in names) else ""
        found = [*_clip_image(prefix, config.num_hidden_layers)]
        if "visual_projection.weight" in names:
            found.append(_one("visual.proj", "visual_projection.weight", "transposed"))
        return found
    found = [_one("logit_scale", "logit_scale")]
    layers = config.vision_config.num_hidden_layers
    if kind in ("siglip", "siglip2"):
        found += [_one("logit_bias", "logit_bias"), *_siglip_image(layers, flexible=kind == "siglip2")]
        found += [
            *_text("text.", config.text_config.num_hidden_layers),
            *_pairs("text.text_projection", "text_model.head"),
        ]
        return found
    found += [*_clip_image("vision_model.", layers), _one("visual.proj", "visual_projection.weight", "transposed")]
    if kind == "chinese_clip":
        bert = (name for name in names if name.startswith("text_model."))
        found += [_one(f"text.transformer.{name.removeprefix('text_model.')}", name) for name in bert]
        return [*found, _one("text.proj.weight", "text_projection.weight")]
    found += [*_text("", config.text_config.num_hidden_layers)]
    return [*found, _one("text_projection", "text_projection.weight", "transposed")]


def _one(ours: str, theirs: str, how: How = "same") -> Renaming:
    return Renaming((ours,), (theirs,), how)


def _pairs(ours: str, theirs: str) -> Iterator[Renaming]:
    """Yield the renamings of weight and bias."""
    for part in ("weight", "bias"):
        yield _one(f"{ours}.{part}", f"{theirs}.{part}")


def _clip_image(prefix: str, layers: int) -> Iterator[Renaming]:
    yield _one("visual.class_embedding", f"{prefix}embeddings.class_embedding")
    yield _one("visual.positional_embedding", f"{prefix}embeddings.position_embedding.weight")
    yield _one("visual.conv1.weight", f"{prefix}embeddings.patch_embedding.weight")
    yield from _pairs("visual.ln_pre", f"{prefix}pre_layrnorm")
    yield from _pairs("visual.ln_post", f"{prefix}post_layernorm")
    yield from _blocks("visual.transformer.resblocks", prefix, layers)


def _text(ours: str, layers: int) -> Iterator[Renaming]:
    yield _one(f"{ours}token_embedding.weight", "text_model.embeddings.token_embedding.weight")
    yield _one(f"{ours}positional_embedding", "text_model.embeddings.position_embedding.weight")
    yield from _pairs(f"{ours}ln_final", "text_model.final_layer_norm")
    yield from _blocks(f"{ours}transformer.resblocks", "text_model.", layers)


def _blocks(
    ours: str, prefix: str, layers: int, *, qkv: str = "attn.in_proj_", parts: Mapping[str, str] = BLOCK
) -> Iterator[Renaming]:
    """Yield the renamings of blocks, in which queries, keys and values are stacked in one weight and one bias."""
    for layer in range(layers):
        here, there = f"{ours}.{layer}", f"{prefix}encoder.layers.{layer}"
        for part in ("weight", "bias"):
            apart = tuple(f"{there}.self_attn.{each}_proj.{part}" for each in "qkv")
            yield Renaming((f"{here}.{qkv}{part}",), apart)
        for name, theirs in parts.items():
            yield from _pairs(f"{here}.{name}", f"{there}.{theirs}")


def _siglip_image(layers: int, *, flexible: bool) -> Iterator[Renaming]:
    """Yield the renamings of timm's SigLIP, whose attention pooling is part of the trunk."""
    ours, theirs = "visual.trunk", "vision_model"
    patches = f"{theirs}.embeddings.patch_embedding"
    yield _one(f"{ours}.patch_embed.proj.weight", f"{patches}.weight", "patches" if flexible else "same")
    yield _one(f"{ours}.patch_embed.proj.bias", f"{patches}.bias")
    yield _one(f"{ours}.pos_embed", f"{theirs}.embeddings.position_embedding.weight")
    yield from _blocks(f"{ours}.blocks", f"{theirs}.", layers, qkv="attn.qkv.", parts=TIMM_BLOCK)
    yield from _pairs(f"{ours}.norm", f"{theirs}.post_layernorm")
    here, there = f"{ours}.attn_pool", f"{theirs}.head"
    yield _one(f"{here}.latent", f"{there}.probe")
    for part in ("weight", "bias"):
        yield Renaming((f"{here}.q.{part}", f"{here}.kv.{part}"), (f"{there}.attention.in_proj_{part}",))
    yield from _pairs(f"{here}.proj", f"{there}.attention.out_proj")
    yield from _pairs(f"{here}.norm", f"{there}.layernorm")
    yield from _mlp(f"{here}.mlp", f"{there}.mlp")


def _mlp(ours: str, theirs: str) -> Iterator[Renaming]:
    for part in ("fc1", "fc2"):
        yield from _pairs(f"{ours}.{part}", f"{theirs}.{part}")
