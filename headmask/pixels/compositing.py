"""The pixel rule `composited`: any image that Pillow opens as upright 8-bit RGB on white, by NumPy and Pillow alone.

A registered model contains a copy of this file, so it imports nothing from headmask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

_BITMAP_ROWS = 256
"""Rows that are scaled at a time, so that a large image needs little extra memory."""
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _PHOTOMETRIC = 258, 339, 262
_LIMITS = ((340, 341), (280, 281))
"""The tags of a TIFF for the smallest and the largest value: SMinSampleValue first, then MinSampleValue."""
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_SUSPICIOUS = 4096
"""16-bit values that are all below it may as well be 12-bit values, which the file does not say."""


class RangeError(ValueError):
    """A file does not say what is black and what is white."""


class Composited:
    """A step of a transform: an image in any mode to upright 8-bit RGB, see `composited`."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image as 8-bit RGB."""
        return composited(image)

    def __repr__(self) -> str:
        return "Composited()"


def composited(image: Image.Image) -> Image.Image:
    """Return an image as upright 8-bit RGB, with transparency composited over white.

    EXIF orientation is applied. Values of more than 8 bits are scaled from the range that the file declares: the depth
    of its samples, the tags for smallest and largest value of a TIFF, the maxval of a PGM. Other images are converted
    as Pillow does.

    Raises:
        RangeError: the file declares no range for floating-point, 32-bit or signed values; or its values do not keep to
            the range; or they have 16 bits and all lie below 4,096, so that 12 bits are as likely.
    """
    is_wide_colour = _is_wide_colour(image)
    transparent = image.info.get("transparency")
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image, transparent)
    else:
        image = upright(image)
        if is_wide_colour:
            _check_colour(image)
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def is_plain(image: Image.Image) -> bool:
    """Return whether the rules agree on an image, whatever its pixels: it is opaque 8-bit RGB or gray, and upright."""
    return (
        image.mode in ("RGB", "L")
        and not _is_wide_colour(image)
        and "transparency" not in image.info
        and orientation(image) in (None, 1)
    )


def orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation of an image, 2 to 8 if it has to be turned; None if there is none to read.

    The pixels are read first: a PNG may have its EXIF data behind them, and errors there are not EXIF's.
    """
    image.load()
    try:
        found = image.getexif().get(_ORIENTATION)
    # Pillow's reader raises anything on broken EXIF, which viewers ignore.
    except Exception:
        return None
    return found if isinstance(found, int) else None


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF orientation says, or unchanged if that cannot be read."""
    if orientation(image) not in range(2, 9):
        return image
    try:
        return ImageOps.exif_transpose(image)
    # It also rewrites the EXIF data, which may be broken elsewhere.
    except Exception:
        return image.transpose(_TURNS[orientation(image) or 1])


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _eight_bits(image: Image.Image, transparent: Any) -> Image.Image:
    """Return a gray image of wide values scaled to 8 bits, with alpha where one value is transparent."""
    values_YX = np.asarray(image)
    declared = _declared(image)
    low, high = (float(end) for end in (values_YX.min(), values_YX.max()))
    if not np.isfinite([low, high]).all():
        raise RangeError("it holds values that are not finite numbers; save it with 8 bits")
    if declared is None and not image.mode.startswith("I;16"):
        raise RangeError(
            f"its values, {low:g} to {high:g}, are {'floating-point' if image.mode == 'F' else '32-bit'} numbers, and "
            "the file does not declare what is black and what is white; save it with 8 bits, or as a TIFF with "
            "SMinSampleValue and SMaxSampleValue"
        )
    if declared is None and 0 < high < _SUSPICIOUS:
        raise RangeError(
            f"it has 16 bits, but no value is above {high:g}, as with 12 bits or less, and the file does not declare a "
            "smaller range; save it with 8 bits, or as a TIFF with MaxSampleValue"
        )
    black, white = declared or (0.0, 65535.0)
    if low < black or high > white:
        raise RangeError(
            f"its values, {low:g} to {high:g}, leave the range that the file declares, {black:g} to {white:g}"
        )
    scaled_YX = np.empty(values_YX.shape, np.uint8)
    for start in range(0, len(values_YX), _BITMAP_ROWS):
        rows = slice(start, start + _BITMAP_ROWS)
        scaled_YX[rows] = np.rint((values_YX[rows].astype(np.float64) - black) * 255 / (white - black))
    if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        scaled_YX = 255 - scaled_YX
    scaled = Image.fromarray(scaled_YX)
    if isinstance(transparent, int):
        scaled.putalpha(Image.fromarray(np.where(values_YX == transparent, 0, 255).astype(np.uint8)))
    if orientation(image) in range(2, 9):
        scaled = scaled.transpose(_TURNS[orientation(image) or 1])
    return scaled


def _declared(image: Image.Image) -> tuple[float, float] | None:
    """Return the values of black and white that a file declares, besides the 16 bits of its samples."""
    if (image.format, image.mode) == ("PPM", "I") or image.format == "JPEG2000":
        # Pillow has scaled them by the maxval, or the precision, that the file gives.
        return 0.0, 65535.0
    for lowest, highest in _LIMITS:
        white = _tag(image, highest)
        if white is not None:
            black = _tag(image, lowest) or 0.0
            return (black, white) if black < white else None
    bits = _tag(image, _BITS_PER_SAMPLE)
    if bits is not None and bits < 16 and (_tag(image, _SAMPLE_FORMAT) or _UNSIGNED) == _UNSIGNED:
        return 0.0, 2.0**bits - 1
    return None


def _tag(image: Image.Image, number: int) -> float | None:
    """Return a number from the tags of a TIFF, for the first channel; None if it has none."""
    value: Any = getattr(image, "tag_v2", {}).get(number)
    value = value[0] if isinstance(value, tuple) and value else value
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def _is_wide_colour(image: Image.Image) -> bool:
    """Return whether 16-bit colours are going to be cut to 8 bits; known once the pixels are read."""
    return any(";16" in str(tile[-1]) for tile in getattr(image, "tile", ()))


def _check_colour(image: Image.Image) -> None:
    """Refuse 16-bit colours that use fewer bits: Pillow keeps the upper 8, so almost nothing would be left."""
    limits = [_tag(image, highest) for _, highest in _LIMITS]
    extrema: Any = image.getextrema()
    colours = [extrema] if isinstance(extrema[0], int) else extrema[: 1 if image.mode == "LA" else 3]
    most = max(high for _, high in colours)
    if 0 < most < _SUSPICIOUS >> 8 or any(limit is not None and limit < 65535 for limit in limits):
        raise RangeError(
            "its colours have 16 bits, of which few are in use, and Pillow keeps the upper 8 only; save it with 8 bits"
        )
