"""Exporting a model with a mask or scales in it, folded or pruned; kept only if it is proven equal to the live one."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from headmask.apply import deployment, onnx, pruning
from headmask.apply.card import model_card
from headmask.apply.folding import fold, probe_images
from headmask.apply.formats import ONNX, TRANSFORMERS, Format, chosen_format, open_clip_config
from headmask.apply.masked import FOLDED, PRUNED, load_pruned
from headmask.apply.proof import NUM_PROBES, TEXTS, ExportProof, difference, footprints_of
from headmask.border.kinds import (
    BESIDE,
    CARD,
    CHECKPOINT,
    CONFIG,
    IMAGE_ONNX,
    MODEL_FOLDER,
    ONNX_CONFIG,
    TEXT_ONNX,
    TRANSFORMERS_WEIGHTS,
    WEIGHTS,
)
from headmask.border.reading import read_json
from headmask.border.writing import check_output, scratch_folder, written, written_folder
from headmask.errors import AblationError, MaskFileError, ModelError
from headmask.maskfile import HeadFile
from headmask.models.checkpoints import PIXELS_KEY, PREPROCESS_KEY
from headmask.models.hf import writing
from headmask.models.hf.conversion import TOLERANCE, image_features, text_features, tokenized
from headmask.models.hf.reading import preprocessing_of
from headmask.models.hf.source import Source, quiet
from headmask.models.loading import LoadedModel, build, model_config, quiet_open_clip, tokenizer_of
from headmask.models.origin import SCHEMES, is_config_file
from headmask.pixels.images import STOCK
from headmask.pixels.preprocessing import Preprocessing

SMALL_MODEL = 20_000_000
"""Models with fewer parameters are held to the tighter tolerance of the proof."""


def export(
    model: LoadedModel,
    mask: HeadFile,
    out: str | os.PathLike[str],
    *,
    prune: bool = False,
    format: Format | None = None,
    latency_s: float = 0.0,
    overwrite: bool = False,
) -> ExportProof:
    """Write a model with a mask or scales in it, and return the proof that it loads as the changed model.

    Args:
        model: the model the mask was made for.
        mask: the mask file or scales file.
        out: `NAME.safetensors` for a checkpoint file, which `open_clip.create_model(ARCHITECTURE, pretrained=FILE)`
            loads; any other name for a folder in the layout of Hugging Face, with a model card, which
            `open_clip.create_model("local-dir:FOLDER")` loads.
        prune: remove the ablated heads instead of folding them; always a folder, which `headmask.load_pruned` loads.
        format: `open_clip`, or `transformers` for a model that came from there: a folder with its processor, which
            `from_pretrained` loads; or `onnx` for a folder with `image.onnx` and `text.onnx`, for any number of inputs.
            By default, what the model came as.
        latency_s: approximate time to spend on measuring latency, in seconds; 0 for none.
        overwrite: replace an existing export; anything else at that place stays, and is an error.

    Raises:
        MaskFileError: the mask was made for other weights, or what is a folder is to be a file.
        OutputError: something is at `out` that may not be replaced, or nothing can be written there.
        AblationError: the ablation cannot be folded or pruned, or what was written is not equal; nothing is kept then.
        ModelError: the model cannot be written in this format, or what the format needs is not installed.
    """
    mask.check_model(model.reference)
    format = chosen_format(model, format, prune=prune, is_file=_is_file(Path(out)))
    check_target(out, prune=prune, format=format, overwrite=overwrite, inputs=model.reference.paths)
    if prune and mask.mask.is_empty:
        raise AblationError("nothing is ablated, so there is nothing to prune")
    changed = pruning.prune(model.clip, mask) if prune else fold(model.clip, mask)
    target = Path(out)
    if _is_file(target):
        with written(target, CHECKPOINT) as scratch, scratch_folder(target) as folder:
            proof = _write_and_prove(model, mask, changed, folder / target.name, target, latency_s=latency_s)
            (folder / target.name).replace(scratch)
    else:
        with written_folder(target, MODEL_FOLDER) as folder:
            proof = _write_folder(model, mask, changed, folder, target, format, prune=prune, latency_s=latency_s)
            loading = deployment.loading(model, mask.pixels) if format == ONNX else None
            (folder / CARD).write_text(model_card(mask, proof, prune=prune, loading=loading), encoding="utf-8")
    return proof


def check_target(
    out: str | os.PathLike[str],
    *,
    prune: bool = False,
    format: Format | None = None,
    overwrite: bool = False,
    inputs: Iterable[str | Path | None] = (),
) -> None:
    """Check that an export may be written, before anything is loaded for it.

    Raises:
        MaskFileError: a pruned model or one of ONNX is a folder, and the name is that of a file.
        ModelError: what ONNX models are written or run with is not installed.
        OutputError: something is there that may not be replaced, or nothing can be written there.
    """
    is_file, suffix = _is_file(Path(out)), Path(out).suffix
    if format == ONNX:
        onnx.check_installed()
        if is_file or suffix == ".onnx":
            what = f"a folder of {IMAGE_ONNX} and {TEXT_ONNX}"
            raise MaskFileError(f"an ONNX export is {what}; choose a name that does not end in {suffix}")
    if prune and is_file:
        raise MaskFileError(f"a pruned model is a folder; choose a name that does not end in {suffix}")
    check_output(out, CHECKPOINT if is_file else MODEL_FOLDER, inputs=inputs, overwrite=overwrite)


def _is_file(target: Path) -> bool:
    return target.suffix == ".safetensors"


def _write_folder(
    model: LoadedModel,
    mask: HeadFile,
    changed: nn.Module,
    folder: Path,
    target: Path,
    format: Format,
    *,
    prune: bool,
    latency_s: float,
) -> ExportProof:
    """Return the proof that a folder is right, having written everything except the card."""
    if format == ONNX:
        return _write_onnx(model, mask, changed, folder, target, latency_s=latency_s)
    if format == TRANSFORMERS:
        return _write_transformers(model, mask, changed, folder, target, latency_s=latency_s)
    return _write_and_prove(model, mask, changed, folder / WEIGHTS, target, prune=prune, latency_s=latency_s)


def _write_and_prove(
    model: LoadedModel,
    mask: HeadFile,
    changed: nn.Module,
    checkpoint: Path,
    target: Path,
    *,
    prune: bool = False,
    latency_s: float,
) -> ExportProof:
    """Return the proof that the export is right, having written everything except the card to a scratch place."""
    is_file = _is_file(target)
    _write(model, mask, changed, checkpoint, PRUNED if prune else FOLDED)
    del changed
    loaded = load_pruned(checkpoint.parent).clip if prune else _stock_load(model, checkpoint, is_file=is_file)
    if not is_file:
        _check_tokenizer(model, checkpoint.parent)
    max_difference, tolerance = _prove(model, mask, loaded)
    footprints = footprints_of(model, mask, loaded, latency_s)
    how_to_load = _how_to_load(model, target, prune=prune)
    return ExportProof(max_difference, tolerance, NUM_PROBES, how_to_load, footprints)


def _write(model: LoadedModel, mask: HeadFile, changed: nn.Module, checkpoint: Path, metadata: dict[str, str]) -> None:
    """Write the weights, with the other files that a folder needs to be loaded."""
    folder = checkpoint.parent
    if isinstance(model.tokenizer, HFTokenizer):
        # A folder's tokenizer is looked for in the folder.
        model.tokenizer.save_pretrained(folder)
    beside = " ".join(sorted(each.name for each in folder.iterdir()))
    tensors = {key: tensor.contiguous().clone() for key, tensor in changed.state_dict().items()}
    carried = {PREPROCESS_KEY: model.preprocessing.model_dump_json(), PIXELS_KEY: mask.pixels}
    if beside:
        carried[BESIDE] = beside
    try:
        save_file(tensors, checkpoint, metadata=metadata | carried)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else 0, str(error)) from None
    _write_config(model, mask, folder)
    # Safetensors lets nobody but the user read what it writes; other files are as the umask says.
    shutil.copymode(folder / CONFIG, checkpoint)
    mask.write(folder / mask.NAME)


def _write_config(model: LoadedModel, mask: HeadFile, folder: Path) -> None:
    """Write open_clip's configuration of a model, which its tokenizer is found by, too."""
    config: dict[str, Any] = {
        "model_cfg": open_clip_config(model_config(model.reference.name)),
        "preprocess_cfg": model.clip.visual.preprocess_cfg,
    }
    if mask.pixels != STOCK:
        # Read by `headmask.load_model`; open_clip leaves keys that it does not know.
        config["headmask"] = {"pixels": mask.pixels}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _check_tokenizer(model: LoadedModel, folder: Path) -> None:
    tokenizer = tokenizer_of(f"local-dir:{folder}")
    if not torch.equal(tokenizer(list(TEXTS)), model.tokenizer(list(TEXTS))):
        raise AblationError(f"the tokenizer of {model} cannot be kept in a folder; export a .safetensors file instead")


def _write_transformers(
    model: LoadedModel, mask: HeadFile, changed: nn.Module, folder: Path, target: Path, *, latency_s: float
) -> ExportProof:
    """Return the proof that a folder of transformers is right, having written everything except the card."""
    assert model.source is not None
    writing.write(model.source, changed, folder, model.preprocessing)
    written = Source(str(folder))
    found = preprocessing_of(written)
    if isinstance(found, str) or Preprocessing.of(model.preprocessing.model_dump() | found.changes()).differences(
        model.preprocessing
    ):
        raise AblationError(f"the exported folder has another preprocessing than the model: {found}")
    loaded = written.model()

    def embedded(texts: list[str]) -> Tensor:
        return text_features(loaded, tokenized(written, model.tokenizer, texts, model.tokenizer(texts)))

    encode_text = embedded if written.has_texts else None
    largest = difference(model, mask, lambda images: image_features(loaded, written, images), encode_text, TOLERANCE)
    beside = " ".join(sorted(each.name for each in folder.iterdir() if each.name != TRANSFORMERS_WEIGHTS))
    writing.mark(folder, FOLDED | {PIXELS_KEY: mask.pixels, BESIDE: beside})
    mask.write(folder / mask.NAME)
    footprints = footprints_of(model, mask, changed, latency_s)
    how_to_load = f'transformers.{type(loaded).__name__}.from_pretrained("{target}")'
    return ExportProof(largest, TOLERANCE, NUM_PROBES, how_to_load, footprints, TRANSFORMERS)


def _write_onnx(
    model: LoadedModel, mask: HeadFile, changed: nn.Module, folder: Path, target: Path, *, latency_s: float
) -> ExportProof:
    """Return the proof that ONNX models are right, having written everything except the card."""
    names, inputs = [IMAGE_ONNX], {IMAGE_ONNX: probe_images(model.clip, 2)}
    if deployment.has_texts(model):
        names.append(TEXT_ONNX)
        inputs[TEXT_ONNX] = deployment.tokens_of(model, list(TEXTS))
        _write_tokenizer(model, mask, folder)
    onnx.write(changed, folder, inputs)
    files = sorted(each.name for each in folder.iterdir() if each.name != CONFIG)
    content = deployment.config_of(model, mask.pixels, files)
    (folder / ONNX_CONFIG).write_text(json.dumps(content, indent=2) + "\n")
    mask.write(folder / mask.NAME)
    found = onnx.OnnxModel(folder)
    encode_text = (lambda texts: found.encode_text(deployment.tokens_of(model, texts))) if names[1:] else None
    largest = difference(model, mask, found.encode_image, encode_text, onnx.TOLERANCE)
    how_to_load = " and ".join(f'onnxruntime.InferenceSession("{target / name}")' for name in names)
    return ExportProof(
        largest, onnx.TOLERANCE, NUM_PROBES, how_to_load, footprints_of(model, mask, changed, latency_s), ONNX
    )


def _write_tokenizer(model: LoadedModel, mask: HeadFile, folder: Path) -> None:
    """Write what the tokenizer of a model is loaded from, by transformers or by open_clip."""
    if model.source is not None:
        with quiet():
            model.source.tokenizer().save_pretrained(folder)
        return
    if isinstance(model.tokenizer, HFTokenizer):
        model.tokenizer.save_pretrained(folder)
    _write_config(model, mask, folder)
    _check_tokenizer(model, folder)


def _prove(model: LoadedModel, mask: HeadFile, loaded: Any) -> tuple[float, float]:
    """Return the largest difference between embeddings of the masked and the exported model, and the tolerance."""
    tolerance = 1e-6 if sum(p.numel() for p in model.clip.parameters()) < SMALL_MODEL else 1e-5
    encode_text = lambda texts: loaded.encode_text(model.tokenizer(texts))  # noqa: E731
    return difference(model, mask, loaded.encode_image, encode_text, tolerance), tolerance


def _how_to_load(model: LoadedModel, target: Path, *, prune: bool) -> str:
    """Return the call that loads an export with the preprocessing that belongs to it."""
    name = model.reference.name
    if prune:
        return f'headmask.load_pruned("{target}")'
    if target.suffix != ".safetensors":
        return f'open_clip.create_model("local-dir:{target}")'
    if name.startswith(SCHEMES):
        return f'open_clip.load_checkpoint(open_clip.create_model("{name}", load_weights=False), "{target}")'
    changes = model.preprocessing.changes()
    forced = f", force_preprocess_cfg={changes}" if changes else ""
    if is_config_file(name):
        if "model_cfg" in read_json(name, "model configuration", ModelError):  # Which open_clip takes in folders alone.
            return f'headmask.load_model("{name}", "{target}")'
        stock = f'open_clip.create_model("{Path(name).stem}", pretrained="{target}"{forced})'
        return f'open_clip.add_model_config("{name}"); {stock}'
    return f'open_clip.create_model("{name}", pretrained="{target}"{forced})'


def _stock_load(model: LoadedModel, checkpoint: Path, *, is_file: bool) -> Any:
    """Return the export as stock open_clip loads it."""
    name = model.reference.name
    with quiet_open_clip():
        if not is_file:
            stock = open_clip.create_model(f"local-dir:{checkpoint.parent}")
            found = Preprocessing.of(stock.visual.preprocess_cfg)
            if differences := found.differences(model.preprocessing):
                raise AblationError(f"the exported folder has another preprocessing than the model: {differences}")
        elif name.startswith(SCHEMES) or is_config_file(name):
            stock = build(name, model_config(name))
            open_clip.load_checkpoint(stock, str(checkpoint))
        else:
            stock = open_clip.create_model(name, pretrained=str(checkpoint))
    return stock.eval()
