"""The architectures of open_clip that are supported: each is built without storage, and its towers are opened."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, _build_text_tower, _build_vision_tower
from torch import nn

from headmask.errors import ModelError
from headmask.mask import HeadGrid
from headmask.models.loading import model_config
from headmask.tower.towers import TowerName, grid_of


@dataclass(frozen=True)
class Architecture:
    """An open_clip architecture: the grid of each tower, or why it is not supported."""

    name: str
    image: HeadGrid | str
    text: HeadGrid | str

    def grid(self, tower: TowerName) -> HeadGrid | None:
        """Return a tower's grid; None if it is not supported."""
        found = self.image if tower == "image" else self.text
        return found if isinstance(found, HeadGrid) else None


def architectures() -> Iterator[Architecture]:
    """Yield every architecture that this version of open_clip names, in its order."""
    for name in open_clip.list_models():
        config = model_config(name)
        yield Architecture(name, _image_grid(config), _text_grid(config))


def _image_grid(config: dict[str, Any]) -> HeadGrid | str:
    vision = CLIPVisionCfg(**config["vision_cfg"])
    vision.timm_model_pretrained = False
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tower = _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
        return grid_of(tower)
    except ModelError as error:
        return _why(error)


def _text_grid(config: dict[str, Any]) -> HeadGrid | str:
    text = CLIPTextCfg(**config["text_cfg"])
    if text.hf_model_name:
        return f"a Hugging Face text tower ({text.hf_model_name})"
    try:
        with torch.device("meta"):
            tower: nn.Module = _build_text_tower(config["embed_dim"], text, config.get("quick_gelu", False))
        return grid_of(tower, "text")
    except ModelError as error:
        return _why(error)


def _why(error: ModelError) -> str:
    """Return a refusal without its list of supported towers, because it is shown in that list."""
    return str(error).split("; supported:")[0].split(" tower is ", 1)[-1].replace("a TimmModel around ", "")
