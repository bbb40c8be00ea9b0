"""Contact sheets: images beside where a head looks in them. Drawn with Pillow, without a screen."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from orchestrator.pages.drawing import save_picture, text_font

# Y by X patches

SIDE, GAP, LINE, COLUMNS, TEXT_LINES = 176, 14, 17, 3, 2
_COLOURS = "cividis"
"""Even in lightness, and the same to people who cannot tell red from green."""


@dataclass(frozen=True)
class Cell:
    """An image of a sheet."""

    pixels_3YX: NDArray[np.uint8]
    map_YX: NDArray[np.float32]
    """Attention on the patches."""
    text: str
    note: str
    """A line below the text."""


def draw_attention(title: str, cells: Sequence[Cell], out: Path) -> None:
    """Draw images, each beside its grey copy under the map of attention, as PNG."""
    width = COLUMNS * (2 * SIDE + GAP) + GAP
    font = text_font(title + "".join(cell.text + cell.note for cell in cells), 13)
    head = textwrap.wrap(title, width // 7)
    top = GAP + len(head) * LINE + 6
    height = SIDE + (TEXT_LINES + 1) * LINE + GAP
    sheet = Image.new("RGB", (width, top + -(-len(cells) // COLUMNS) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, words in enumerate(head):
        draw.text((GAP, GAP + number * LINE), words, fill="black", font=font)
    for number, cell in enumerate(cells):
        x, y = GAP + number % COLUMNS * (2 * SIDE + GAP), top + number // COLUMNS * height
        image = Image.fromarray(np.moveaxis(cell.pixels_3YX, 0, -1)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        sheet.paste(image, (x, y))
        sheet.paste(_under_map(image, cell.map_YX), (x + SIDE, y))
        shown = textwrap.wrap(" ".join(cell.text[:400].split()), 2 * SIDE // 8)
        if len(shown) > TEXT_LINES:
            shown = [*shown[: TEXT_LINES - 1], f"{shown[TEXT_LINES - 1][:-1]}…"]
        for place, words in enumerate([*shown, cell.note]):
            draw.text((x, y + SIDE + 3 + place * LINE), words, fill="black", font=font)
    save_picture(sheet, out)


def _under_map(image: Image.Image, map_YX: NDArray[np.float32]) -> Image.Image:
    """Return an image in grey under a map: dark blue for no attention, yellow for the most."""
    from matplotlib import colormaps

    scaled = Image.fromarray(map_YX / max(float(map_YX.max()), 1e-12)).resize(image.size, Image.Resampling.BILINEAR)
    colours = colormaps[_COLOURS](np.clip(np.asarray(scaled), 0, 1))[..., :3]
    return Image.blend(image.convert("L").convert("RGB"), Image.fromarray((255 * colours).astype(np.uint8)), 0.65)
