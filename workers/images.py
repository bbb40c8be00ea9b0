"""Decoding any image file that Pillow reads to 8-bit RGB."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

from headmask.errors import DataError

_WIDE_MODES = ("I", "F")


def decode_image(content: bytes, where: str) -> Image.Image:
    """Return an image as 8-bit RGB, upright.

    EXIF orientation is applied. Transparency is composited over white. 16-bit and floating-point images are scaled to
    8 bits, not clipped; of animations the first frame is taken. Other images are converted as Pillow does.

    Args:
        content: the encoded file.
        where: names the image in errors.

    Raises:
        DataError: empty, truncated, unreadable, or larger than Pillow's limit for decompression bombs.
    """
    with _opened(content, where) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


def check_image(content: bytes, where: str) -> None:
    """Check that an image can be decoded to its end, faster than by decoding it in full.

    JPEGs are decoded at an eighth of their size: all of the file is read, most of the arithmetic is left out.

    Raises:
        DataError: see `decode_image`.
    """
    with _opened(content, where) as image:
        image.draft(None, (1, 1))
        image.load()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's remarks on odd files; entered once, around all threads that decode."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@contextmanager
def _opened(content: bytes, where: str) -> Iterator[Image.Image]:
    """Open an image, with everything that goes wrong while it is read as one kind of error."""
    if not content:
        raise DataError(f"{where}: the image is empty")
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
    # Pillow's plugins raise anything from SyntaxError to struct.error on broken files.
    except Exception as error:
        reason = str(error).replace("<_io.BytesIO object at", "<file at").split(" <file at")[0]
        raise DataError(f"{where}: cannot be read as an image ({reason or type(error).__name__})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(_WIDE_MODES):
        image = _to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return a grayscale image scaled to 8 bits: 16-bit from its full range, floating point from 0..1 or 0..255."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode == "F":
        values = np.nan_to_num(values)
        scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
    else:
        scale = 1 / 257 if values.max(initial=0) > 255 or image.mode.startswith("I;16") else 1.0
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
