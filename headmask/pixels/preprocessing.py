"""How images are prepared for a model: open_clip's preprocessing as values that can be recorded, compared and printed.

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
"""open_clip's default, which is OpenAI's, without the size, which belongs to the model."""
_RESIZES = {
    "shortest": "the shorter side resized and the middle cropped",
    "longest": "the longer side resized and the rest filled",
    "squash": "both sides resized",
}


class GivenPreprocessing(BaseModel):
    """A `preprocess_cfg` as in configurations: fields left out have open_clip's default."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    size: Pixels | tuple[Pixels, Pixels] | None = None
    """Pixels of a side, or height and width; None for the model's size."""
    mode: Literal["RGB"] | None = None
    mean: tuple[Number, Number, Number] | None = None
    """Subtracted from red, green and blue in [0, 1]."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Divisors of red, green and blue after that."""
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    """Interpolation for resizing; `random`, used in training, is bicubic here."""
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    fill_color: Annotated[int, Field(strict=True, ge=0, le=255)] | None = None
    """Colour around the image with resize mode `longest`."""

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return (value,) * 3 if is_number else value

    def changes(self) -> dict[str, Any]:
        """Return the given values in open_clip's format."""
        return self.model_dump(exclude_none=True)


class Preprocessing(BaseModel):
    """A complete preprocessing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    size: tuple[Pixels, Pixels]
    """Height and width in pixels."""
    mode: Literal["RGB"] = "RGB"
    mean: tuple[Number, Number, Number]
    """Subtracted from red, green and blue in [0, 1]."""
    std: tuple[Positive, Positive, Positive]
    """Divisors of red, green and blue after that."""
    interpolation: Literal["bicubic", "bilinear"]
    """Interpolation for resizing."""
    resize_mode: Literal["shortest", "longest", "squash"]
    """Treatment of images that are not square: crop the middle, fill the rest, or squash."""
    fill_color: Annotated[int, Field(strict=True, ge=0, le=255)] = 0
    """Colour around the image with resize mode `longest`."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Return a model's preprocessing from open_clip's complete configuration of it."""
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
        """Return the values that differ from open_clip's default, in its format; the size is the model's."""
        return {name: getattr(self, name) for name, value in DEFAULT.items() if getattr(self, name) != value}

    def differences(self, other: Preprocessing) -> str:
        """Return the values that differ from another preprocessing, from both sides; empty if none do."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in type(self).model_fields}
        if "longest" not in (self.resize_mode, other.resize_mode):
            del pairs["fill_color"]  # Nothing is filled.
        return ", ".join(f"{name} {_said(a)} against {_said(b)}" for name, (a, b) in pairs.items() if a != b)


def read_preprocessing(path: str | os.PathLike[str]) -> GivenPreprocessing:
    """Return the preprocessing in a JSON file: a `preprocess_cfg`, an `open_clip_config.json`, or a mask file.

    Raises:
        ModelError: the file holds none, or invalid values.
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
