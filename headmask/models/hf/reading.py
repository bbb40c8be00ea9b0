"""The preprocessing and the tokenizer of a model of transformers, as open_clip has them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from open_clip.tokenizer import HFTokenizer
from torch import Tensor

from headmask.border.shown import shown
from headmask.errors import ModelError
from headmask.models.hf.source import Source
from headmask.pixels.preprocessing import GivenPreprocessing

# Q texts, T tokens

_INTERPOLATIONS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
_RESCALE = 1 / 255
_MAX_TOKENS = 10_000_000
"""What tokenizers say that know no maximum is far larger."""


class Unprepared(Exception):
    """A processor prepares images as open_clip cannot."""


def preprocessing_of(source: Source) -> GivenPreprocessing | str:
    """Return how the model's image processor prepares images, or why open_clip cannot do the same."""
    processor = source.image_processor()
    if processor is None:
        return f"{shown(source.place)} has no preprocessor_config.json"
    try:
        if type(processor).__name__.startswith("Siglip2"):
            return _squares(processor, source)
        return GivenPreprocessing(**_sizes(processor), **_colours(processor), interpolation=_interpolation(processor))
    except Unprepared as error:
        return f"the image processor of {shown(source.place)} {error}"


def _squares(processor: Any, source: Source) -> GivenPreprocessing:
    """Return the preprocessing of SigLIP 2 at its one fixed resolution: what square images get from its processor."""
    size = source.architecture["vision_cfg"]["image_size"]
    side = processor.patch_size * int(processor.max_num_patches**0.5)
    if side != size:
        raise Unprepared(f"makes squares of {side} pixels, and the model takes {size}")
    return GivenPreprocessing(
        size=(size, size), resize_mode="squash", interpolation=_interpolation(processor), **_colours(processor)
    )


def _sizes(processor: Any) -> dict[str, Any]:
    size, crops = _values(processor.size), bool(getattr(processor, "do_center_crop", False))
    crop = _values(getattr(processor, "crop_size", None)) if crops else None
    if not processor.do_resize:
        raise Unprepared("does not resize images (do_resize is false)")
    if "shortest_edge" in size:
        side = size["shortest_edge"]
        if crop != {"height": side, "width": side}:
            raise Unprepared(
                f"resizes the shorter side to {side} pixels and then crops to {_said(crop)}; open_clip crops to the "
                "size that it resizes to"
            )
        return {"size": (side, side), "resize_mode": "shortest"}
    if not {"height", "width"} <= size.keys():
        raise Unprepared(f"resizes images to {_said(size)}, which open_clip cannot")
    sides = {"height": size["height"], "width": size["width"]}
    if crop not in (None, sides):
        raise Unprepared(f"resizes images to {_said(sides)} and then crops to {_said(crop)}, which open_clip cannot")
    return {"size": (sides["height"], sides["width"]), "resize_mode": "squash"}


def _values(size: Any) -> dict[str, int]:
    """Return the sizes that are given, whichever class of transformers holds them."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {name: int(value) for name, value in dict(size).items() if value is not None}


def _said(size: dict[str, int] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (size or {}).items()) or "nothing"


def _interpolation(processor: Any) -> Literal["bilinear", "bicubic"]:
    number = int(processor.resample)
    if number not in _INTERPOLATIONS:
        raise Unprepared(f"interpolates by resample {number}; open_clip knows 2 (bilinear) and 3 (bicubic)")
    return _INTERPOLATIONS[number]


def _colours(processor: Any) -> dict[str, Any]:
    if not processor.do_rescale or abs(processor.rescale_factor - _RESCALE) > 1e-9:
        raise Unprepared("does not scale pixels by 1/255 (do_rescale, rescale_factor)")
    if not processor.do_normalize:
        return {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    mean, std = processor.image_mean, processor.image_std
    return {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}


class FolderTokenizer(HFTokenizer):  # type: ignore[misc]
    """The tokenizer of a model of transformers: texts to token ids, padded as the model was trained.

    Unlike open_clip's own, it does not clean texts: transformers does not either. `trims` leaves out columns that are
    padding in all texts; that changes nothing where padding is masked.
    """

    def __init__(self, source: Source, context_length: int, *, trims: bool = False) -> None:
        self.tokenizer = source.tokenizer()
        self.context_length = min(context_length, int(min(self.tokenizer.model_max_length, _MAX_TOKENS)))
        self.tokenizer_mode, self.strip_sep_token, self.clean_fn = "", False, _unchanged
        self._trims = trims

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        """Return token ids (Q, T)."""
        tokens_QT: Tensor = super().__call__(texts, context_length)
        if not self._trims or context_length is not None:
            return tokens_QT
        used = int((tokens_QT != self.tokenizer.pad_token_id).sum(dim=1).max())
        return tokens_QT[:, : max(used, 1)]

    @property
    def masks_padding(self) -> bool:
        """Whether the model is told which tokens are padding."""
        return "attention_mask" in self.tokenizer.model_input_names


class NoTokenizer:
    """Stands for the tokenizer of a model without a text tower: it takes empty texts alone."""

    context_length = 1

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        """Return tokens (Q, 1) for empty texts.

        Raises:
            ModelError: there is a text that is not empty.
        """
        given = [texts] if isinstance(texts, str) else texts
        if any(given):
            raise ModelError(
                f"{self._name} has no text tower, and texts are needed here: name a model with both towers, or, for a "
                "search, a data set of images with labels and --task similarity"
            )
        return torch.zeros(len(given), 1, dtype=torch.int64)


def _unchanged(text: str) -> str:
    return text
