"""Models with a mask in them: loaded by name and mask file, or as a pruned export left them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from headmask.errors import AblationError, ModelError
from headmask.folding import fold
from headmask.live import ablate_for_good
from headmask.maskfile import MaskFile, ModelReference
from headmask.models import LoadedModel, load_model, quiet_open_clip, tokenizer_of, weights_digest
from headmask.pruning import take_out

CONFIG, WEIGHTS, MASK = "open_clip_config.json", "open_clip_model.safetensors", "mask.json"
"""The files of an exported folder."""
PRUNED = {"format": "pt", "headmask": "pruned"}
"""What the weights of a pruned model say of themselves."""


def load(
    model: str | LoadedModel, mask: MaskFile | str | os.PathLike[str], pretrained: str | None = None
) -> LoadedModel:
    """Return a model with a mask applied for good, with its preprocessing and tokenizer.

        masked = headmask.load("ViT-B-32", "runs/first/mask.json", "openai")
        embeddings = masked.clip.encode_image(masked.preprocess(Image.open("photo.jpg"))[None])

    The preprocessing follows the pixel rule under which the mask was searched; give it the image as Pillow opens it.
    The mask is in the weights where it folds into them; elsewhere the model computes it as it runs, and saving its
    weights would lose it. A model that was given loaded stays as it is.

    Args:
        model: open_clip name, as for `load_model`, or a model that it returned.
        mask: a mask file, or its path.
        pretrained: open_clip tag or checkpoint file; None takes the mask's, where the name is the mask's too.

    Raises:
        MaskFileError: the mask file is malformed, or made for other weights.
        ModelError: the model cannot be loaded.
        AblationError: the ablation is undefined for this tower.
    """
    content = mask if isinstance(mask, MaskFile) else MaskFile.read(mask)
    if isinstance(model, str):
        own = content.model.pretrained if model == content.model.name else None
        model = load_model(model, pretrained or own)
    content.check_model(str(model), model.reference.weights_sha256)
    try:
        clip: Any = fold(model.clip, content)
    except AblationError:
        clip = ablate_for_good(model.clip, content)
    reference = model.reference.model_copy(update={"weights_sha256": weights_digest(clip)})
    return replace(model, clip=clip, reference=reference).with_pixels(content.pixels)


def load_pruned(folder: str | os.PathLike[str]) -> LoadedModel:
    """Return the model that `headmask export --prune` wrote, on the CPU in float32.

    Its `clip` is an open_clip model; only attention in layers that lost heads is headmask's.

    Raises:
        ModelError: the folder holds no pruned model, or one that is torn.
    """
    path = Path(folder)
    if _form(path) != PRUNED["headmask"]:
        raise ModelError(f'{path} is no pruned model; load it with open_clip.create_model("local-dir:{path}")')
    mask, name = MaskFile.read(path / MASK), f"local-dir:{path}"
    try:
        with quiet_open_clip():
            clip, _, preprocess = open_clip.create_model_and_transforms(name, load_weights=False)
        take_out(clip, mask.mask, mask.tower)
        clip.load_state_dict(load_file(path / WEIGHTS))
    # open_clip and torch raise their own kinds for files that do not fit each other.
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ModelError(f"cannot load the pruned model in {path}: {str(error).strip().splitlines()[0]}") from error
    clip.requires_grad_(False).eval()
    reference = ModelReference(name=name, weights_sha256=weights_digest(clip))
    return LoadedModel(clip, preprocess, tokenizer_of(name), reference).with_pixels(mask.pixels)


def _form(folder: Path) -> str | None:
    """Return what the weights in a folder say of themselves."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as weights:
            return (weights.metadata() or {}).get("headmask")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder} holds no pruned model: {error}") from None
