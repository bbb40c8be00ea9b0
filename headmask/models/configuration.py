"""Configuration files of architectures, in open_clip's format: read and checked before anything is built."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from pydantic import BaseModel, ConfigDict, Field

from headmask.border.reading import parse_model, read_json
from headmask.border.shown import shown
from headmask.errors import ModelError, did_you_mean
from headmask.models.hf.architecture import FILES, PLACE
from headmask.pixels.preprocessing import GivenPreprocessing

CONFIG = "open_clip_config.json"
"""Name of the file in a folder or a repository."""
Size = Annotated[int, Field(strict=True, ge=1, le=100_000)]
Pixels = Annotated[int, Field(strict=True, ge=1, le=16_384)]


class _Vision(BaseModel):
    """Sizes of an image tower that decide its memory; open_clip knows the rest."""

    model_config = ConfigDict(extra="allow", frozen=True)

    layers: Size | tuple[Size, ...] = 12
    width: Size = 768
    head_width: Size = 64
    mlp_ratio: Annotated[float, Field(strict=True, gt=0, le=100)] = 4.0
    patch_size: Pixels | tuple[Pixels, Pixels] | None = 16
    image_size: Pixels | tuple[Pixels, Pixels] = 224
    timm_model_name: Annotated[str, Field(strict=True)] | None = None


class _Text(BaseModel):
    """Sizes of a text tower."""

    model_config = ConfigDict(extra="allow", frozen=True)

    layers: Size = 12
    width: Size = 512
    heads: Size = 8
    context_length: Size = 77
    vocab_size: Annotated[int, Field(strict=True, ge=1, le=10_000_000)] = 49408
    mlp_ratio: Annotated[float, Field(strict=True, gt=0, le=100)] = 4.0
    hf_model_name: Annotated[str, Field(strict=True)] | None = None
    hf_tokenizer_name: Annotated[str, Field(strict=True)] | None = None
    tokenizer_kwargs: dict[str, Any] | None = None


class _Model(BaseModel):
    """An architecture in the format of open_clip's configuration files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embed_dim: Size
    vision_cfg: _Vision
    text_cfg: _Text
    multimodal_cfg: dict[str, Any] | None = None
    quick_gelu: Annotated[bool, Field(strict=True)] = False
    custom_text: Annotated[bool, Field(strict=True)] = False
    init_logit_scale: Annotated[float, Field(strict=True)] | None = None
    init_logit_bias: Annotated[float, Field(strict=True)] | None = None
    nonscalar_logit_scale: Annotated[bool, Field(strict=True)] = False
    output_dict: Annotated[bool, Field(strict=True)] = False


def read_config(path: Path) -> tuple[dict[str, Any], GivenPreprocessing | None]:
    """Return architecture and preprocessing from a configuration file, which holds either the former or both."""
    where = f"model configuration {shown(path)}"
    content = read_json(path, "model configuration", ModelError)
    if not isinstance(content, dict):
        raise ModelError(f"{where} must be a JSON object with model_cfg, or with embed_dim, vision_cfg and text_cfg")
    config = content.get("model_cfg", content)
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        missing = ", ".join({"embed_dim", "vision_cfg", "text_cfg"} - set(config if isinstance(config, dict) else ()))
        raise ModelError(
            f"{where} must be a JSON object with model_cfg, or with embed_dim, vision_cfg and text_cfg; missing "
            f"{missing}"
        )
    _check_config(config, where)
    given = content.get("preprocess_cfg") if "model_cfg" in content else None
    if not given:
        return config, None
    return config, parse_model(given, GivenPreprocessing, f"preprocess_cfg of {where}", ModelError)


def _check_config(config: dict[str, Any], where: str) -> None:
    parsed = parse_model(config, _Model, where, ModelError)
    for key, kind in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        known = [field.name for field in dataclasses.fields(kind)]
        for name in config[key]:
            if name not in known:
                raise ModelError(f"{where}: {key} has an unknown key {shown(name)}{did_you_mean(name, known)}")
    vision, text = parsed.vision_cfg, parsed.text_cfg
    if vision.timm_model_name is None and isinstance(vision.layers, int) and vision.width % vision.head_width:
        raise ModelError(
            f"{where}: vision_cfg.width must be a multiple of head_width; got {vision.width} and {vision.head_width}"
        )
    if vision.timm_model_name is None and min(_pair(vision.image_size)) < max(_pair(vision.patch_size or 1)):
        raise ModelError(
            f"{where}: vision_cfg.patch_size must not be larger than image_size; got {vision.patch_size} and "
            f"{vision.image_size}"
        )
    if text.hf_model_name is None and text.width % text.heads:
        raise ModelError(f"{where}: text_cfg.width must be a multiple of heads; got {text.width} and {text.heads}")


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


@contextmanager
def as_folder(config: Mapping[str, Any]) -> Iterator[Path]:
    """Yield a folder without weights from which open_clip builds an architecture, without registering it."""
    plain = {key: value for key, value in config.items() if key != FILES}
    with tempfile.TemporaryDirectory(prefix="headmask-") as scratch:
        for path, content in {CONFIG: {"model_cfg": plain}, **config.get(FILES, {})}.items():
            Path(scratch, path).parent.mkdir(exist_ok=True)
            text = json.dumps(content).replace(PLACE, scratch)
            Path(scratch, path).write_text(text, encoding="utf-8")
        yield Path(scratch)
