"""How images are prepared for a model: open_clip's preprocessing as values that are recorded, compared and said.

The same weights with another mean, deviation or crop are another model: its scores are lower, and nothing fails.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from headmask.border.reading import parse_model, read_json
from headmask.border.shown import shown
from headmask.errors import ModelError, did_you_mean

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
Pixels = Annotated[int, Field(strict=True, ge=1, le=16384)]
DEFAULT: dict[str, Any] = {
    "mode": "RGB",
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
"""open_clip's, which is OpenAI's; without the size, which is the model's own."""
_RESIZES = {
    "shortest": "the shorter side resized and the middle cropped",
    "longest": "the longer side resized and the rest filled",
    "squash": "both sides resized",
}


class GivenPreprocessing(BaseModel):
    """A `preprocess_cfg` as configurations have it: what is left out is open_clip's default."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    size: Pixels | tuple[Pixels, Pixels] | None = None
    """Pixels of a side, or height and width; None for the model's own."""
    mode: Literal["RGB"] | None = None
    mean: tuple[Number, Number, Number] | None = None
    """Subtracted from red, green and blue in [0, 1]."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Divided by then."""
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    """Of resizing; random, of training, is bicubic here."""
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    fill_color: Annotated[int, Field(strict=True, ge=0, le=255)] | None = None
    """Around the image with resize mode `longest`."""

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return (value,) * 3 if is_number else value

    def changes(self) -> dict[str, Any]:
        """Return what is given, as open_clip takes it."""
        return self.model_dump(exclude_none=True)


class Preprocessing(BaseModel):
    """All of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    size: tuple[Pixels, Pixels]
    """Height and width in pixels."""
    mode: Literal["RGB"] = "RGB"
    mean: tuple[Number, Number, Number]
    """Subtracted from red, green and blue in [0, 1]."""
    std: tuple[Positive, Positive, Positive]
    """Divided by then."""
    interpolation: Literal["bicubic", "bilinear"]
    """Of resizing."""
    resize_mode: Literal["shortest", "longest", "squash"]
    """What becomes of images that are not square: the middle is cropped, the rest is filled, or they are squashed."""
    fill_color: Annotated[int, Field(strict=True, ge=0, le=255)] = 0
    """Around the image with resize mode `longest`."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Return a model's preprocessing from open_clip's configuration of it, which is whole."""
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        interpolation = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
        return cls.model_validate({**config, "size": (height, width), "interpolation": interpolation})

    def __str__(self) -> str:
        height, width = self.size
        means, stds = (" ".join(f"{value:.3g}" for value in values) for values in (self.mean, self.std))
        how = f"{_RESIZES[self.resize_mode]} ({self.interpolation})"
        return f"{width} x {height} pixels, {how}, mean {means}, std {stds}"

    def changes(self) -> dict[str, Any]:
        """Return what differs from open_clip's default, as it takes it; the size is the model's own."""
        return {name: getattr(self, name) for name, value in DEFAULT.items() if getattr(self, name) != value}

    def differences(self, other: Preprocessing) -> str:
        """Return what differs from another, with both values; empty when nothing does."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in type(self).model_fields}
        if "longest" not in (self.resize_mode, other.resize_mode):
            del pairs["fill_color"]  # Nothing is filled.
        return ", ".join(f"{name} {_said(a)} against {_said(b)}" for name, (a, b) in pairs.items() if a != b)


def read_preprocessing(path: str | os.PathLike[str]) -> GivenPreprocessing:
    """Return the preprocessing that a JSON file holds: a `preprocess_cfg`, an `open_clip_config.json`, or a mask file.

    Raises:
        ModelError: the file holds none, or values that are not as they must be.
    """
    content, where = read_json(path, "preprocessing", ModelError), f"preprocessing {shown(path)}"
    if isinstance(content, dict) and isinstance(content.get("preprocess_cfg"), dict):
        content = content["preprocess_cfg"]
    elif isinstance(content, dict) and isinstance(model := content.get("model"), dict):
        content = model.get("preprocess")
    known = GivenPreprocessing.model_fields
    if not isinstance(content, dict) or not content:
        raise ModelError(
            f"{where} must be a JSON object of {', '.join(known)}, or an open_clip_config.json or a mask file that has "
            "these"
        )
    for name in content:
        if name not in known:
            raise ModelError(
                f"{where}: unknown key {shown(name)}{did_you_mean(name, known)}; known are {', '.join(known)}"
            )
    return parse_model(content, GivenPreprocessing, where, ModelError)


def _said(value: Any) -> str:
    return " ".join(f"{each:.6g}" for each in value) if isinstance(value, tuple) else str(value)
