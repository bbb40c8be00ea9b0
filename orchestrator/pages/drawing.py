"""Drawn pictures: how they are saved, and the fonts of their text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageFont
from PIL.PngImagePlugin import PngInfo

from headmask.border.kinds import PICTURE, PICTURE_METADATA
from headmask.border.writing import written


def save_picture(image: Image.Image, out: Path, *, inputs: Sequence[Path] = ()) -> None:
    """Write an image as a PNG that names headmask as its maker.

    Raises:
        OutputError: something else exists there, or nothing can be written there.
    """
    about = PngInfo()
    for key, value in PICTURE_METADATA.items():
        about.add_text(key, value)
    with written(out, PICTURE, inputs=inputs) as scratch:
        image.save(scratch, "PNG", pnginfo=about)


def text_font(text: str, size: int) -> Any:
    """Return a font for a text: matplotlib's, or one of the system's that has more of its letters."""
    from matplotlib import font_manager, ft2font, get_data_path

    letters = {ord(letter) for letter in text if not letter.isspace()}
    own = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")

    def num_missing(path: str) -> int:
        try:
            return len(letters - ft2font.FT2Font(path).get_charmap().keys())
        except (OSError, RuntimeError):
            return len(letters)

    others = sorted(font_manager.findSystemFonts()) if num_missing(own) else []
    return ImageFont.truetype(min([own, *others], key=num_missing), size)
