"""Images as scoring and deployed models see them: opening files, and the rule that makes pixels RGB.

    preprocess = by_rule(preprocess, "composited")
    pixels_CYX = preprocess(Image.open("photo.png"))

Under the rule `stock`, a transform of open_clip gets the image as Pillow opens it. Under `composited` it is first
turned, scaled and composited, see `headmask.pixels.compositing`. Both agree on upright, opaque 8-bit images in RGB or
gray.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

from PIL import Image

from headmask.border.reading import lfs_hint
from headmask.errors import ConfigError, DataError
from headmask.pixels.compositing import Composited, RangeError, composited

if TYPE_CHECKING:
    from torch import Tensor

PixelRule = Literal["stock", "composited"]
STOCK: PixelRule = "stock"
COMPOSITED: PixelRule = "composited"
SMALLEST_INPUT = 224
"""The smallest size to which open_clip's models resize the shorter side, in pixels."""


def by_rule(transform: Callable[..., Tensor], rule: str) -> Callable[..., Tensor]:
    """Return an evaluation transform of open_clip that follows a pixel rule, whichever rule it followed before.

    Raises:
        ConfigError: there is no such rule, or the transform cannot be rebuilt.
    """
    if rule not in get_args(PixelRule):
        raise ConfigError(f"pixels must be {' or '.join(get_args(PixelRule))}; got {rule!r}")
    if rule_of(transform) == rule:
        return transform
    from torchvision.transforms import Compose

    steps = getattr(transform, "transforms", None)
    if steps is None:
        raise ConfigError(f"a transform that is no torchvision Compose has no pixel rule; got {transform!r}")
    made: Callable[..., Tensor] = Compose(steps[1:] if rule == STOCK else [Composited(), *steps])
    return made


def rule_of(transform: Any) -> PixelRule:
    """Return the pixel rule that a transform follows."""
    steps = getattr(transform, "transforms", None) or [None]
    return COMPOSITED if isinstance(steps[0], Composited) else STOCK


def decode_image(content: bytes, where: str, rule: PixelRule = COMPOSITED) -> Image.Image:
    """Return an image as 8-bit RGB at its full size, by a pixel rule. For animations, that is the first frame.

    Args:
        content: the encoded file.
        where: name of the image in errors.
        rule: `stock` converts as Pillow does; `composited` is upright and on white, see `headmask.pixels.compositing`.

    Raises:
        DataError: empty, truncated, unreadable, larger than Pillow's limit for decompression bombs, or without a
            declared range of its values under `composited`.
    """
    with opened(content, where) as image:
        return composited(image) if rule == COMPOSITED else image.convert("RGB")


def check_image(content: bytes, where: str) -> None:
    """Check that an image can be decoded to its end and resized, faster than by doing it in full.

    JPEGs are decoded at an eighth of their size: all of the file is read, most of the arithmetic is left out.

    Raises:
        DataError: see `decode_image`.
    """
    with opened(content, where) as image:
        check_resized(image.size, _shortest(image.size, SMALLEST_INPUT), where)
        # Whether Pillow converts the mode at all is seen on one pixel.
        Image.new(image.mode, (1, 1)).convert("RGB")
        image.draft(None, (1, 1))
        image.load()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings about odd files; entered once, around all threads that decode."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@contextmanager
def opened(content: bytes, where: str) -> Iterator[Image.Image]:
    """Open an image, and turn every error until the block ends into one kind of error.

    Raises:
        DataError: see `decode_image`.
    """
    if not content:
        raise DataError(f"{where}: the image is empty")
    if pointer := lfs_hint(content[:40]):
        raise DataError(f"{where}: it is {pointer}")
    try:
        with Image.open(io.BytesIO(content)) as image:
            # Past the limit Pillow warns, past twice the limit it raises; here both are errors.
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{where}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; shrink the image, models see a few hundred"
        ) from None
    except DataError:
        raise
    except RangeError as error:
        raise DataError(f"{where}: {error}") from None
    # Pillow's plugins raise anything from SyntaxError to struct.error on broken files.
    except Exception as error:
        reason = str(error).replace("<_io.BytesIO object at", "<file at").split(" <file at")[0]
        raise DataError(f"{where}: cannot be read as an image ({reason or type(error).__name__})") from None


def check_resized(size: tuple[int, int], resized: tuple[int, int], where: str) -> None:
    """Check that an image is neither too long nor too thin to be resized, before memory is allocated.

    Args:
        size: width and height.
        resized: width and height after resizing.
        where: name of the image in errors.

    Raises:
        DataError: it is; resized it would have more pixels than Pillow decodes, or none.
    """
    if min(resized) < 1 or resized[0] * resized[1] > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise DataError(
            f"{where}: {size[0]:,} x {size[1]:,} pixels would be resized to {resized[0]:,} x {resized[1]:,}, "
            f"and there must be 1 to {Image.MAX_IMAGE_PIXELS or math.inf:,} then; crop the image"
        )


def resized(step: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height that a step of open_clip's transforms resizes an image to; other steps keep them."""
    kind = type(step).__name__
    wanted: Any = getattr(step, "size", None)
    if kind == "Resize" and wanted is not None:
        if isinstance(wanted, int) or len(wanted) == 1:
            return _shortest(size, wanted if isinstance(wanted, int) else wanted[0])
        return wanted[1], wanted[0]
    if kind == "ResizeKeepRatio":
        sides = (wanted, wanted) if isinstance(wanted, int) else wanted
        ratios = size[1] / sides[0], size[0] / sides[1]
        ratio = max(ratios) * step.longest + min(ratios) * (1 - step.longest)
        return round(size[0] / ratio), round(size[1] / ratio)
    return size


def _shortest(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return a size resized so that its shorter side has the given number of pixels."""
    shorter = min(size)
    width, height = (side if each == shorter else side * each // shorter for each in size)
    return width, height


def looks_constant(image: Image.Image, spread: int = 16) -> bool:
    """Return whether an RGB image has almost one colour: no channel spans more than `spread` of 255 levels."""
    extrema: Any = image.getextrema()
    return all(high - low <= spread for low, high in extrema)


def is_clipped(image: Image.Image) -> bool:
    """Return whether Pillow's conversion to RGB cuts values off: they have more than 8 bits, or are beyond 0 to 255."""
    if not image.mode.startswith(("I", "F")):
        return False
    extrema: Any = image.getextrema()
    low, high = extrema
    return bool(low < 0 or high > 255)
