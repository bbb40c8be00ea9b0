"""The open_clip architecture that computes the same as a model of transformers, from its configuration.

What open_clip cannot compute is refused by its name in the configuration. Some towers have no architecture that
open_clip knows by name: they are described by files beside the configuration, which `FILES` holds by path, and `PLACE`
stands for the folder that they are written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from headmask.border.libraries import has_attention_pooling
from headmask.border.shown import shown
from headmask.errors import ModelError

FILES = "files"
"""The key of a configuration's additional files; all configurations made here have it."""
PLACE = "{folder}"
VISION_ONLY = "clip_vision_model"
TOKENIZER = "the folder's tokenizer"
"""A name for the tokenizer; open_clip takes the one in a model's folder if there is any name."""
_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_BERT = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)
_TIMM = "vit_base_patch16_siglip_224"
"""An architecture of timm's SigLIP, whose sizes are then changed."""
_TIMM_EPS, _OPEN_CLIP_EPS, _BERT_PAD = 1e-6, 1e-5, 0


def architecture(config: Any) -> dict[str, Any]:
    """Return open_clip's configuration of the architecture that computes the same as a model of transformers.

    Args:
        config: a `PretrainedConfig` of transformers.

    Raises:
        ModelError: open_clip has no such architecture; the message names what stands against it.
    """
    return KINDS[config.model_type](config)


def _clip(config: Any) -> dict[str, Any]:
    vision, text = config.vision_config, config.text_config
    eos = text.eos_token_id
    if not isinstance(eos, int):
        raise _refused("text_config.eos_token_id", eos, "one token that ends a text")
    acts = {_activation(vision, "vision_config"), _activation(text, "text_config")}
    if len(acts) > 1 and "quick_gelu" in acts:
        raise ModelError(
            f"vision_config.hidden_act is {vision.hidden_act} and text_config.hidden_act is {text.hidden_act}: "
            "open_clip has quick_gelu in both towers or in none"
        )
    # Before eos_token_id was right, 2, transformers took the highest token; see its CLIPTextModel.
    pooling = {"pool_type": "argmax"} if eos == 2 else {"pool_type": "eos", "eos_id": eos}
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": "quick_gelu" in acts,
        "vision_cfg": _image_tower(vision),
        "text_cfg": {**_text_tower(text), **pooling},
        FILES: {},
    }


def _vision_alone(config: Any) -> dict[str, Any]:
    """Return the configuration of a model with a text tower that nobody uses, since open_clip builds none without."""
    return {
        "embed_dim": config.projection_dim if has_projection(config) else config.hidden_size,
        "quick_gelu": _activation(config, "the configuration") == "quick_gelu",
        "vision_cfg": _image_tower(config),
        "text_cfg": {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1},
        FILES: {},
    }


def has_projection(config: Any) -> bool:
    """Return whether an image tower alone ends in a projection."""
    return "CLIPVisionModelWithProjection" in (config.architectures or ())


def _chinese_clip(config: Any) -> dict[str, Any]:
    vision, text = config.vision_config, config.text_config
    bert = {name: getattr(text, name) for name in _BERT}
    if bert["pad_token_id"] is None:
        bert["pad_token_id"] = _BERT_PAD
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": _activation(vision, "vision_config") == "quick_gelu",
        "vision_cfg": _image_tower(vision),
        "text_cfg": {
            "hf_model_name": f"{PLACE}/text",
            "hf_tokenizer_name": TOKENIZER,
            "hf_model_pretrained": False,
            "hf_proj_type": "linear",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
        },
        FILES: {"text/config.json": {"model_type": "bert", **bert}},
    }


def _siglip(config: Any) -> dict[str, Any]:
    """Return the configuration of a SigLIP of any size; its image tower is timm's."""
    vision, text = config.vision_config, config.text_config
    if not has_attention_pooling(vision):
        raise _refused("vision_config.vision_use_head", False, "attention pooling")
    if vision.layer_norm_eps != _TIMM_EPS:
        raise _refused("vision_config.layer_norm_eps", vision.layer_norm_eps, f"{_TIMM_EPS:g}")
    if text.projection_size != vision.hidden_size:
        raise _refused("text_config.projection_size", text.projection_size, f"the image tower's {vision.hidden_size}")
    size = _image_size(vision)
    sizes = _sizes(vision)
    model_args = {
        "img_size": size,
        "patch_size": _square(vision.patch_size, "vision_config.patch_size"),
        "embed_dim": sizes["width"],
        "depth": sizes["layers"],
        "num_heads": vision.num_attention_heads,
        "mlp_ratio": sizes["mlp_ratio"],
        "act_layer": _activation(vision, "vision_config"),
        "class_token": False,
        "global_pool": "map",
    }
    timm = {"architecture": _TIMM, "pretrained_cfg": {}, "num_classes": 0, "model_args": model_args}
    return {
        "embed_dim": vision.hidden_size,
        "init_logit_bias": -10.0,
        "custom_text": True,
        "quick_gelu": _activation(text, "text_config") == "quick_gelu",
        "vision_cfg": {
            "image_size": size,
            "timm_model_name": f"local-dir:{PLACE}/image",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {**_text_tower(text), "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
        FILES: {"image/config.json": timm},
    }


KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "clip": _clip,
    "chinese_clip": _chinese_clip,
    "siglip": _siglip,
    "siglip2": _siglip,
    VISION_ONLY: _vision_alone,
}
"""What is supported, by `model_type`."""


def _image_tower(vision: Any) -> dict[str, Any]:
    """Return the configuration of open_clip's own image tower."""
    sizes = _sizes(vision)
    return {
        "image_size": _image_size(vision),
        "patch_size": _square(vision.patch_size, "patch_size of the image tower"),
        "head_width": sizes["width"] // vision.num_attention_heads,
        **sizes,
        **_details(vision, "vision_config"),
    }


def _text_tower(text: Any) -> dict[str, Any]:
    """Return the configuration of open_clip's own text tower."""
    return {
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "hf_tokenizer_name": TOKENIZER,
        "heads": text.num_attention_heads,
        **_sizes(text),
        **_details(text, "text_config"),
    }


def _sizes(tower: Any) -> dict[str, Any]:
    """Return width, layers and the ratio of MLPs, of which open_clip, which rounds down, makes their exact width."""
    width, inner, heads = tower.hidden_size, tower.intermediate_size, tower.num_attention_heads
    if width % heads:  # Refused by transformers itself, but not by its older versions.
        raise ModelError(f"hidden_size {width} is not a multiple of num_attention_heads, which is {heads}")
    exact = inner / width
    ratio = exact if int(width * exact) == inner else (inner + 0.5) / width
    return {"width": width, "layers": tower.num_hidden_layers, "mlp_ratio": ratio}


def _details(tower: Any, where: str) -> dict[str, Any]:
    """Return the changes to norms and activations, where they are not open_clip's default."""
    changes: dict[str, Any] = {}
    if tower.layer_norm_eps != _OPEN_CLIP_EPS:
        changes["norm_kwargs"] = {"eps": tower.layer_norm_eps}
    if _activation(tower, where) == "gelu_tanh":
        changes["act_kwargs"] = {"approximate": "tanh"}
    return changes


def _activation(tower: Any, where: str) -> str:
    found = _ACTIVATIONS.get(tower.hidden_act)
    if found is None:
        raise _refused(f"hidden_act of {where}", tower.hidden_act, ", ".join(_ACTIVATIONS))
    return found


def _image_size(vision: Any) -> int:
    """Return the pixels of a side; for a SigLIP 2 of flexible shapes, those of its square."""
    if vision.num_channels != 3:
        raise _refused("num_channels of the image tower", vision.num_channels, "3")
    if vision.model_type == "siglip2_vision_model":
        side = math.isqrt(vision.num_patches)
        if side**2 != vision.num_patches:
            raise _refused("vision_config.num_patches", vision.num_patches, "a square number")
        return side * _square(vision.patch_size, "vision_config.patch_size")
    return _square(vision.image_size, "image_size of the image tower")


def _square(size: Any, what: str) -> int:
    """Return the side of a square, given as a number or as two."""
    sides = {size} if isinstance(size, int) else set(size or ())
    if len(sides) != 1:
        raise _refused(what, size, "a square")
    return int(sides.pop())


def _refused(what: str, value: Any, wanted: str) -> ModelError:
    return ModelError(f"{what} is {shown(repr(value))}, and open_clip computes only with {wanted}")
