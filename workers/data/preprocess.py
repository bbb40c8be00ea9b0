"""A model's own open_clip preprocessing, split at the point where pixels are still integers.

open_clip's evaluation transform resizes, crops, and only then divides uint8 by 255 and normalises; so the uint8 crop is
a lossless cache of everything that is slow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from headmask.border.libraries import described
from headmask.errors import DataError, ModelError
from headmask.pixels.compositing import composited, is_plain
from headmask.pixels.images import (
    COMPOSITED,
    STOCK,
    PixelRule,
    check_resized,
    is_clipped,
    looks_constant,
    opened,
    resized,
    rule_of,
)

T = TypeVar("T")


class UInt8Preprocess:
    """The part of a transform before the tensor: PIL image to uint8 (3, Y, X).

    Args:
        transform: open_clip's `preprocess_val`, under either pixel rule, see
            `headmask.pixels.images.by_rule`.

    Raises:
        ModelError: the transform does not end in to-tensor and normalise.
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.rule: PixelRule = rule_of(transform)
        steps = list(getattr(transform, "transforms", []))[self.rule == COMPOSITED :]
        names = [type(step).__name__ for step in steps[-2:]]
        if len(names) < 2 or not names[0].endswith("ToTensor") or names[1] != "Normalize":
            raise ModelError(
                f"preprocessing must end in ToTensor and Normalize; this model's ends in {names or transform!r}"
            )
        self._steps = steps[:-2]
        self.mean: NDArray[np.float32] = np.array(steps[-1].mean, dtype=np.float32)
        self.std: NDArray[np.float32] = np.array(steps[-1].std, dtype=np.float32)
        self.description = described(steps)
        """The transform as text, the same for equal transforms; without the pixel rule."""
        self.shape: tuple[int, int, int] = self(Image.new("RGB", (8, 8))).shape

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the crop of an image as uint8 (3, Y, X), under the transform's pixel rule."""
        return self.crop(composited(image) if self.rule == COMPOSITED else image)

    def crop(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the crop of an image as uint8 (3, Y, X), by open_clip's own steps."""
        for step in self._steps:
            image = step(image)
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))

    def check_size(self, size: tuple[int, int], where: str) -> None:
        """Check that an image can be resized, before memory is allocated.

        Raises:
            DataError: see `headmask.pixels.images.check_resized`.
        """
        for step in self._steps:
            becomes = resized(step, size)
            if becomes != size:
                check_resized(size, becomes, where)
            size = becomes


@dataclass(frozen=True)
class Look:
    """An image as the model gets it, with its digests and remarks."""

    crop: NDArray[np.uint8]
    """The model's input before it becomes a tensor (3, Y, X)."""
    image: Image.Image
    """The image as 8-bit RGB at its full size, under the pixel rule."""
    digest: str
    """SHA-256 of the image at its full size; the same for every preprocessing and file format."""
    source: str
    """Digest of everything that decides the crop: not `digest` if open_clip resizes before it converts to RGB."""
    differs: bool
    """Whether the two pixel rules give different crops."""
    constant: bool
    """Whether the image has almost one colour."""
    clipped: bool
    """Whether values are cut off, because they have more than 8 bits."""


def look(content: bytes, where: str, preprocess: UInt8Preprocess) -> Look:
    """Return an encoded image as the model gets it, with its digests and remarks.

    Args:
        content: the encoded file.
        where: name of the image in errors.
        preprocess: the preprocessing with its pixel rule.

    Raises:
        DataError: it cannot be decoded, resized or converted; see `headmask.pixels.images.decode_image`.
    """
    with opened(content, where) as image:
        preprocess.check_size(image.size, where)
        # Before the pixels are read: what a file declares of their range is forgotten then.
        plain = is_plain(image)
        if plain:
            rgb = image.convert("RGB")
            digest = image_digest(rgb)
            return Look(
                preprocess.crop(image), rgb, digest, digest, differs=False, constant=looks_constant(rgb), clipped=False
            )
        return _odd_look(image, where, preprocess)


def _odd_look(image: Image.Image, where: str, preprocess: UInt8Preprocess) -> Look:
    """Return the look of an image on which the rules may differ."""
    on_white, no_composite = _or_problem(composited, image)
    stock, no_stock = _or_problem(preprocess.crop, image)
    crop = None if on_white is None else preprocess.crop(on_white)
    differs = crop is None or stock is None or not np.array_equal(crop, stock)
    if preprocess.rule == COMPOSITED:
        if on_white is None or crop is None:
            raise DataError(f"{where}: {no_composite}; or score it as stock open_clip has it, with --pixels stock")
        digest = image_digest(on_white)
        return Look(crop, on_white, digest, digest, differs, looks_constant(on_white), clipped=False)
    if stock is None:
        raise DataError(f"{where}: stock open_clip cannot preprocess this image ({no_stock}); try --pixels composited")
    rgb = image.convert("RGB")
    if on_white is not None and not differs:
        # As under the other rule, so that a study on such images is the same under both.
        digest = image_digest(on_white)
        return Look(stock, rgb, digest, digest, differs, looks_constant(rgb), clipped=False)
    digest, source = _stock_digests(image, rgb)
    return Look(stock, rgb, digest, source, differs, looks_constant(rgb), is_clipped(image))


def _or_problem(step: Callable[[Image.Image], T], image: Image.Image) -> tuple[T | None, str]:
    """Return the result of a step on an image, or why it has none."""
    try:
        return step(image), ""
    except OSError:
        # The file is broken, whatever the step.
        raise
    # Pillow and torchvision raise many kinds for modes that they do not convert or resize.
    except (ValueError, TypeError, KeyError, RuntimeError, ImageCms.PyCMSError) as error:
        return None, str(error) or type(error).__name__


def digest_of(content: bytes, where: str, rule: PixelRule = STOCK) -> str:
    """Return the digest of an encoded image under a pixel rule, as in `look`.

    Raises:
        DataError: it cannot be decoded, or its values have no declared range under `composited`.
    """
    with opened(content, where) as image:
        if rule == COMPOSITED:
            return image_digest(composited(image))
        return _stock_digests(image, image.convert("RGB"))[0]


def _stock_digests(image: Image.Image, rgb: Image.Image) -> tuple[str, str]:
    """Return the digest of what an image shows, and that of everything that decides stock open_clip's result."""
    shown = image_digest(rgb)
    if image.mode in ("RGB", "L"):
        return shown, shown
    raw = hashlib.sha256(f"{image.mode}|{shown}|".encode())
    # The palette has become colours; the order of its entries decides nothing.
    if image.mode not in ("P", "1"):
        raw.update(image.tobytes())
    source = raw.hexdigest()
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    is_opaque = has_alpha and image.getchannel(image.getbands()[-1]).getextrema()[0] == 255
    # What is under transparency, or cut off, may be the same in images that show different things.
    return (source if (has_alpha and not is_opaque) or is_clipped(image) else shown), source


def image_digest(image: Image.Image) -> str:
    """Return the SHA-256 of an image's size and pixels."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
