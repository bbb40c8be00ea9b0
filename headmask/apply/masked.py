"""Models with a mask or scales in them: loaded by name and file, or from a pruned export."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from headmask.apply.folding import fold
from headmask.apply.live import ablate_for_good
from headmask.apply.pruning import take_out
from headmask.border.foreign import reason_of
from headmask.border.kinds import MASK, SCALES, WEIGHTS
from headmask.border.reading import is_there
from headmask.border.schemes import FOLDER, folder_of, named
from headmask.border.shown import shown
from headmask.errors import AblationError, ModelError
from headmask.maskfile import HeadFile, ModelReference
from headmask.models.checkpoints import check_utf8
from headmask.models.loading import (
    LoadedModel,
    PreprocessLike,
    load_model,
    quiet_open_clip,
    tokenizer_of,
    weights_digest,
)
from headmask.models.origin import find_config, full_name, is_config_file
from headmask.pixels.preprocessing import Preprocessing
from headmask.scalesfile import read_head_file

FOLDED = {"format": "pt", "headmask": "folded"}
"""Metadata that marks the weights of a folded model."""
PRUNED = {"format": "pt", "headmask": "pruned"}
"""Metadata that marks the weights of a pruned model."""


def load(
    model: str | LoadedModel,
    mask: HeadFile | str | os.PathLike[str],
    pretrained: str | None = None,
    *,
    preprocess: PreprocessLike | None = None,
) -> LoadedModel:
    """Return a model with a mask or scales applied permanently, with its preprocessing and tokenizer.

        masked = headmask.load("ViT-B-32", "runs/first/mask.json", "openai")
        embeddings = masked.clip.encode_image(masked.preprocess(Image.open("photo.jpg"))[None])

    The preprocessing follows the pixel rule under which the mask was searched; give it the image as Pillow opens it.
    The mask is in the weights where it folds into them; otherwise the model applies it while it runs, and saving its
    weights would lose it. A model passed in is not changed.

    Args:
        model: open_clip name, as for `load_model`, or a model that it returned.
        mask: a mask file or scales file, or its path.
        pretrained: open_clip tag or checkpoint file; None uses the mask's, if the name is the mask's too.
        preprocess: how images are prepared, as for `load_model`; by default what belongs to the weights, or the mask's.

    Raises:
        MaskFileError: the file is malformed, or made for other weights or another preprocessing.
        ModelError: the model cannot be loaded.
        AblationError: the ablation is undefined for this tower.
    """
    content = mask if isinstance(mask, HeadFile) else read_head_file(mask)
    if isinstance(model, str):
        model = load_for(content, model, pretrained, preprocess)
    content.check_model(model.reference)
    try:
        clip: Any = fold(model.clip, content)
    except AblationError:
        clip = ablate_for_good(model.clip, content)
    reference = model.reference.model_copy(update={"weights_sha256": weights_digest(clip)})
    return replace(model, clip=clip, reference=reference).with_pixels(content.pixels)


def load_for(
    content: HeadFile,
    model: str | None = None,
    pretrained: str | None = None,
    preprocess: PreprocessLike | None = None,
) -> LoadedModel:
    """Return the model that a mask or scales were made for, without them.

    Args:
        content: content of the mask file or scales file.
        model: where the model is now, if it is not where the mask file says.
        pretrained: its tag or checkpoint.
        preprocess: how images are prepared, as for `load_model`; by default what belongs to the weights, or the mask's.

    Raises:
        MaskFileError: other weights, or another preprocessing.
        ModelError: the model cannot be loaded.
    """
    made_for = content.model
    model, pretrained = named(model, pretrained)
    is_same = model is None or full_name(model) == made_for.name
    if model is None and pretrained is None and (gone := _gone(made_for)) is not None:
        raise ModelError(
            f"{content.THIS} made for {shown(made_for)}, and there is nothing at {shown(gone)} now: say where it lies "
            "with --model, and --pretrained for a checkpoint file"
        )
    loaded = load_model(
        model or made_for.name,
        pretrained or (made_for.pretrained if is_same else None),
        preprocess=preprocess,
        otherwise=made_for.preprocess,
    )
    content.check_model(loaded.reference)
    return loaded


def _gone(model: ModelReference) -> str | None:
    """Return the path of a model that no longer exists, or does not exist on this machine."""
    paths = [
        *([folder] if (folder := folder_of(model.name)) is not None else []),
        *([model.name] if is_config_file(model.name) else []),
        *([model.pretrained] if model.pretrained and "/" in model.pretrained else []),
    ]
    return next((path for path in paths if not is_there(path)), None)


def load_pruned(folder: str | os.PathLike[str]) -> LoadedModel:
    """Return the model that `headmask export --prune` wrote, on the CPU in float32.

    Its `clip` is an open_clip model; only attention in layers that lost heads is headmask's.

    Raises:
        ModelError: the folder holds no pruned model, or an incomplete one.
    """
    path = Path(folder)
    if _form(path) != PRUNED["headmask"]:
        raise ModelError(f'{path} is not a pruned model; load it with open_clip.create_model("local-dir:{path}")')
    mask = read_head_file(path / (SCALES if is_there(path / SCALES) else MASK))
    name = full_name(f"{FOLDER}{path}")
    find_config(name)
    try:
        with quiet_open_clip():
            clip, _, preprocess = open_clip.create_model_and_transforms(name, load_weights=False, pretrained_text=False)
        take_out(clip, mask.mask, mask.tower)
        clip.load_state_dict(load_file(path / WEIGHTS))
    # open_clip and torch raise their own kinds for files that do not fit each other.
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ModelError(f"cannot load the pruned model in {path}: {reason_of(error)}") from error
    clip.requires_grad_(False).eval()
    reference = ModelReference(
        name=name, weights_sha256=weights_digest(clip), preprocess=Preprocessing.of(clip.visual.preprocess_cfg)
    )
    return LoadedModel(clip, preprocess, tokenizer_of(name), reference).with_pixels(mask.pixels)


def _form(folder: Path) -> str | None:
    """Return the form of the model in a folder, from the metadata of its weights."""
    check_utf8(folder, "the model folder")
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as weights:
            return (weights.metadata() or {}).get("headmask")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder} holds no pruned model: {error}") from None
