"""The formats of an export, and which of them a model can have."""

from __future__ import annotations

from typing import Any, Literal

from open_clip.transformer import TextTransformer

from headmask.border.shown import shown
from headmask.errors import ModelError
from headmask.models.hf.architecture import FILES
from headmask.models.loading import LoadedModel

Format = Literal["open_clip", "transformers", "onnx"]
OPEN_CLIP: Format = "open_clip"
TRANSFORMERS: Format = "transformers"
ONNX: Format = "onnx"


def chosen_format(model: LoadedModel, asked: Format | None, *, prune: bool = False, is_file: bool = False) -> Format:
    """Return the format of an export: the one that was asked for, or else what the model came as.

    Raises:
        ModelError: the model cannot be written in this format.
    """
    if asked is None:
        asked = OPEN_CLIP if model.source is None or prune or is_file else TRANSFORMERS
    if asked == TRANSFORMERS:
        _check_transformers(model, prune=prune, is_file=is_file)
    elif asked == OPEN_CLIP and model.source is not None:
        _check_open_clip(model, prune=prune, is_file=is_file)
    return asked


def _check_transformers(model: LoadedModel, *, prune: bool, is_file: bool) -> None:
    if model.source is None:
        raise ModelError(
            f"{shown(model)} is a model of open_clip, and --format transformers writes what came from transformers "
            "(hf-dir:FOLDER); leave it out"
        )
    if prune:
        raise ModelError(
            "transformers builds all layers with as many heads: leave out --prune or --format transformers, or pass "
            "--format onnx"
        )
    if is_file:
        raise ModelError("a model of transformers is a folder: choose a name that does not end in .safetensors")


def _check_open_clip(model: LoadedModel, *, prune: bool, is_file: bool) -> None:
    if reason := why_not_open_clip(model):
        out = (
            "leave out --prune, or pass --format onnx"
            if prune
            else "choose a folder"
            if is_file
            else "pass --format transformers"
        )
        raise ModelError(f"{reason}: {out}")
    if is_file:
        raise ModelError("open_clip has no name for an architecture from transformers: choose a folder, not a file")


def why_not_open_clip(model: LoadedModel) -> str | None:
    """Return why stock open_clip cannot build a model from a configuration alone; None where it can."""
    source, text = model.source, getattr(model.clip, "text", None)
    if source is None:
        return None
    if not source.has_texts:
        return f"{shown(model)} has no text tower, and models of open_clip have one"
    if source.architecture[FILES] or (isinstance(text, TextTransformer) and text.use_pad_mask):
        return f"open_clip has no architecture for this {source.config.model_type}, which headmask builds in memory"
    return None


def open_clip_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as open_clip reads it."""
    return {key: value for key, value in config.items() if key != FILES}
