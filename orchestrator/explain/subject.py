"""Which heads are explained, with which mask on which model, and with which texts."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headmask.ablation.rules import find_ablation
from headmask.apply.masked import load_for
from headmask.errors import AblationError, ConfigError
from headmask.mask import Head, HeadMask
from headmask.maskfile import HeadFile, MaskFile
from headmask.models.loading import LoadedModel, load_model
from headmask.pixels.images import STOCK
from headmask.scalesfile import read_head_file
from headmask.tower.towers import grid_of
from workers.data.prompts import read_lines

# L layers, H heads, d head width

MAX_SCALED = 12
"""Maximum number of heads of a scales file that are explained where none are named."""


@dataclass(frozen=True)
class Subject:
    """The heads to explain, and the mask that they are part of."""

    model: LoadedModel
    heads: tuple[Head, ...]
    mask: HeadMask
    content: HeadFile | None
    """The mask file or scales file, if there is one."""

    @property
    def ablation(self) -> str:
        """What replaces an ablated head, by name."""
        return self.content.ablation if self.content else "zero"

    @property
    def means_LHd(self) -> NDArray[np.float32] | None:
        """Mean outputs of heads, where the ablation needs them."""
        means = self.content.means_tensor() if self.content else None
        return None if means is None else means.numpy()


def find_subject(
    mask: Path | None,
    heads: str | None,
    model: str | None,
    pretrained: str | None,
    pixels: str | None = None,
    preprocess: str | None = None,
) -> Subject:
    """Return the heads to explain with their model, loaded.

    Raises:
        ConfigError: neither a mask nor heads with a model, or heads of a text tower.
        AblationError: the ablation needs means, and the mask file has no mean of one of the heads.
        HeadmaskError: a file, the model or a head is not as it must be.
    """
    content = None if mask is None else read_head_file(mask)
    if content is not None and content.tower == "text":
        raise ConfigError(f"explain shows what heads of image towers do to images; {mask} is for the text tower")
    if content is None and (heads is None or (model is None and pretrained is None)):
        raise ConfigError("name a mask file with --mask, or a model and its heads with --model and --heads")
    if content is not None:
        loaded = load_for(content, model, pretrained, preprocess)
    else:
        loaded = load_model(model, pretrained, preprocess=preprocess)
    grid = content.head_grid if content else grid_of(loaded.clip)
    named = None if heads is None else HeadMask.from_text(grid, heads)
    whole = content.head_scales.suppressed if content else named or HeadMask.empty(grid)
    chosen = named.heads if named is not None else _departing(content) if content else whole.heads
    if named is not None and named.is_empty:
        raise ConfigError(f"--heads must name heads, such as L3H7,L5H0; got {heads!r}")
    if content is not None and find_ablation(content.ablation).needs_means:
        missing = [str(head) for head in chosen if str(head) not in (content.means or {})]
        if missing:
            raise AblationError(
                f"{mask} ablates heads to their means and has none of {', '.join(missing)}: only its own heads can be "
                "explained"
            )
    own = content.pixels if content else STOCK
    loaded = loaded.with_pixels(own if pixels is None else pixels)
    return Subject(loaded, chosen, whole, content)


def _departing(content: HeadFile) -> tuple[Head, ...]:
    """Return the heads of a mask file; of a scales file, those whose scales are farthest from 1."""
    if isinstance(content, MaskFile):
        return content.mask.heads
    scales = content.head_scales.heads
    return tuple(sorted(sorted(scales, key=lambda head: -abs(scales[head] - 1))[:MAX_SCALED]))


def read_descriptions(path: Path | None) -> tuple[str, ...]:
    """Return the texts of a file, one per line, or the bundled ones; each once.

    Raises:
        DataError: no such file, or nothing in it.
    """
    if path is None:
        lines = (files(__package__) / "descriptions.txt").read_text(encoding="utf-8").splitlines()
    else:
        lines = list(read_lines(path, "file of descriptions"))
    return tuple(dict.fromkeys(lines))
