"""Position embeddings in a checkpoint that are of another size than the model's: open_clip interpolates them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headmask.border.shown import shown
from headmask.errors import ModelError

IMAGE_POSITIONS = "visual.positional_embedding"
TEXT_POSITIONS = ("positional_embedding", "text.positional_embedding")
TIMM_POSITIONS = "visual.trunk.pos_embed"
POSITIONS = (IMAGE_POSITIONS, TIMM_POSITIONS, *TEXT_POSITIONS)
"""Position embeddings; open_clip resizes all to the model except those of timm's towers."""


def resized(clip: Any, positions: Mapping[str, tuple[int, ...]], path: Path) -> list[str]:
    """Return notes on position embeddings of another size, which open_clip interpolates.

    Raises:
        ModelError: patches that are not a square, or another number of them in a tower of timm's, which open_clip
            does not interpolate.
    """
    _check_timm(clip, positions, path)
    notes = []
    if IMAGE_POSITIONS in positions and (grid := getattr(clip.visual, "grid_size", None)) is not None:
        patches, (rows, columns) = positions[IMAGE_POSITIONS][0] - 1, grid
        side = math.isqrt(max(patches, 0))
        if patches != rows * columns and side**2 != patches:
            raise ModelError(
                f"the position embedding in {shown(path)} is of {patches} patches, and the model has {rows} x "
                f"{columns}: open_clip interpolates squares alone. Name the architecture that it was trained as, or a "
                "configuration file with its image_size"
            )
        if patches != rows * columns:
            notes.append(
                f"The position embedding in {path.name} is of {side} x {side} patches; it is interpolated to {rows} x "
                f"{columns}, as open_clip does, which changes what the model computes"
            )
    text = getattr(clip, "text", None)
    own = getattr(clip, "positional_embedding", getattr(text, "positional_embedding", None))
    there = next((positions[name][0] for name in TEXT_POSITIONS if name in positions), None)
    if own is not None and there is not None and there != len(own):
        notes.append(
            f"The text position embedding in {path.name} is of {there} tokens; it is interpolated to {len(own)}, as "
            "open_clip does, which changes what the model computes"
        )
    return notes


def _check_timm(clip: Any, positions: Mapping[str, tuple[int, ...]], path: Path) -> None:
    own = getattr(getattr(clip.visual, "trunk", None), "pos_embed", None)
    there = positions.get(TIMM_POSITIONS)
    if own is not None and there is not None and len(there) == own.ndim == 3 and there[1] != own.shape[1]:
        raise ModelError(
            f"the position embedding in {shown(path)} is of {there[1]} tokens, and the model has {own.shape[1]}: "
            "open_clip does not interpolate those of timm's towers. Name the architecture that it was trained as, or a "
            "configuration file with its image_size"
        )
