"""A converted model written as a folder of transformers again, with its processor."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from headmask.border.shown import shown
from headmask.errors import ModelError
from headmask.models.hf.conversion import written_back
from headmask.models.hf.reading import preprocessing_of
from headmask.models.hf.source import CONFIG, WEIGHTS, Source, quiet
from headmask.pixels.preprocessing import Preprocessing

_RESAMPLES = {"bilinear": 2, "bicubic": 3}


def write(source: Source, clip: nn.Module, folder: Path, preprocessing: Preprocessing) -> None:
    """Write a model of transformers with the weights of the open_clip model that was made of it, changed or not.

    Args:
        source: the model of transformers that was converted.
        clip: the converted model.
        folder: an empty folder.
        preprocessing: how images are prepared; the source's image processor is written if it does the same.

    Raises:
        ModelError: transformers has no image processor that prepares images so.
    """
    theirs: Any = source.model()
    written_back(clip, source, theirs)
    parts = [_processor(source, preprocessing), *([source.tokenizer()] if source.has_texts else [])]
    with quiet():
        theirs.save_pretrained(folder, max_shard_size="1000GB")
        for part in parts:
            part.save_pretrained(folder)


def mark(folder: Path, metadata: dict[str, str]) -> None:
    """Add metadata to the weights in a folder."""
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, metadata=metadata)
    # Safetensors lets nobody but the user read what it writes; other files are as the umask says.
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)


def _processor(source: Source, preprocessing: Preprocessing) -> Any:
    own = preprocessing_of(source)
    processor = source.image_processor()
    if not isinstance(own, str):
        size = own.size if isinstance(own.size, tuple) else preprocessing.size
        whole = Preprocessing.of({**preprocessing.model_dump(), **own.changes(), "size": size})
        if not whole.differences(preprocessing):
            return processor
    height, width = preprocessing.size
    if preprocessing.resize_mode == "longest" or (preprocessing.resize_mode == "shortest" and height != width):
        raise ModelError(
            f"transformers has no image processor that prepares images as {shown(preprocessing)}: leave out "
            "--preprocess"
        )
    import transformers

    crops = preprocessing.resize_mode == "shortest"
    sides = {"height": height, "width": width}
    return transformers.CLIPImageProcessor(
        size={"shortest_edge": height} if crops else sides,
        do_center_crop=crops,
        crop_size=sides,
        resample=_RESAMPLES[preprocessing.interpolation],
        image_mean=list(preprocessing.mean),
        image_std=list(preprocessing.std),
    )
