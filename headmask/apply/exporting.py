"""Exporting a model with a mask in it, folded or pruned; kept only if it is proven equal to the masked model."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.tokenizer import HFTokenizer
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from headmask.apply import pruning
from headmask.apply.card import model_card
from headmask.apply.folding import fold, probe_images
from headmask.apply.footprint import Footprints, compare
from headmask.apply.formats import OPEN_CLIP, TRANSFORMERS, Format, chosen_format, open_clip_config
from headmask.apply.live import ablate
from headmask.apply.masked import FOLDED, PRUNED, load_pruned
from headmask.border.kinds import BESIDE, CARD, CHECKPOINT, CONFIG, MASK, MODEL_FOLDER, TRANSFORMERS_WEIGHTS, WEIGHTS
from headmask.border.reading import read_json
from headmask.border.writing import check_output, scratch_folder, written, written_folder
from headmask.errors import AblationError, MaskFileError, ModelError
from headmask.maskfile import MaskFile
from headmask.models.checkpoints import PIXELS_KEY, PREPROCESS_KEY
from headmask.models.hf import writing
from headmask.models.hf.conversion import TOLERANCE, image_features, text_features, tokenized
from headmask.models.hf.reading import preprocessing_of
from headmask.models.hf.source import Source
from headmask.models.loading import LoadedModel, build, model_config, quiet_open_clip, tokenizer_of
from headmask.models.origin import SCHEMES, is_config_file
from headmask.pixels.images import STOCK
from headmask.pixels.preprocessing import Preprocessing

SMALL_MODEL = 20_000_000
"""Models with fewer parameters are held to the tighter tolerance of the proof."""
NUM_PROBES = 4
_TEXTS = ("a photo of a dog", "two red circles left of a blue square", "night", "Children build a castle of sand.")


@dataclass(frozen=True)
class ExportProof:
    """How far an export, loaded again, is from the masked model, and the footprint of its tower."""

    max_difference: float
    """Largest absolute difference of L2-normalised float32 embeddings."""
    tolerance: float
    num_probes: int
    """Number of images, and of texts."""
    how_to_load: str
    """The call that loads the export: that of stock open_clip or transformers, or `headmask.load_pruned`."""
    footprints: Footprints
    """Footprints of the searched tower, before and after."""
    format: Format = OPEN_CLIP


def export(
    model: LoadedModel,
    mask: MaskFile,
    out: str | os.PathLike[str],
    *,
    prune: bool = False,
    format: Format | None = None,
    latency_s: float = 0.0,
    overwrite: bool = False,
) -> ExportProof:
    """Write a model with a mask in it, and return the proof that it loads as the masked model.

    Args:
        model: the model the mask was made for.
        mask: the mask file.
        out: `NAME.safetensors` for a checkpoint file, which `open_clip.create_model(ARCHITECTURE, pretrained=FILE)`
            loads; any other name for a folder in the layout of Hugging Face, with a model card, which
            `open_clip.create_model("local-dir:FOLDER")` loads.
        prune: remove the heads instead of folding them; always a folder, which `headmask.load_pruned` loads.
        format: `open_clip`, or `transformers` for a model that came from there: a folder with its processor, which
            `from_pretrained` loads. By default, what the model came as.
        latency_s: approximate time to spend on measuring latency, in seconds; 0 for none.
        overwrite: replace an existing export; anything else at that place stays, and is an error.

    Raises:
        MaskFileError: the mask was made for other weights, or a pruned model is to be a file.
        OutputError: something is at `out` that may not be replaced, or nothing can be written there.
        AblationError: the ablation cannot be folded or pruned, or what was written is not equal; nothing is kept then.
        ModelError: the model cannot be written in this format.
    """
    mask.check_model(model.reference)
    format = chosen_format(model, format, prune=prune, is_file=_is_file(Path(out)))
    check_target(out, prune=prune, overwrite=overwrite, inputs=model.reference.paths)
    if prune and not mask.heads:
        raise AblationError("this mask ablates nothing, so there is nothing to prune")
    changed = pruning.prune(model.clip, mask) if prune else fold(model.clip, mask)
    target = Path(out)
    if _is_file(target):
        with written(target, CHECKPOINT) as scratch, scratch_folder(target) as folder:
            proof = _write_and_prove(model, mask, changed, folder / target.name, target, latency_s=latency_s)
            (folder / target.name).replace(scratch)
    elif format == TRANSFORMERS:
        with written_folder(target, MODEL_FOLDER) as folder:
            proof = _write_transformers(model, mask, changed, folder, target, latency_s=latency_s)
            (folder / CARD).write_text(model_card(mask, proof, prune=False), encoding="utf-8")
    else:
        with written_folder(target, MODEL_FOLDER) as folder:
            proof = _write_and_prove(model, mask, changed, folder / WEIGHTS, target, prune=prune, latency_s=latency_s)
            (folder / CARD).write_text(model_card(mask, proof, prune=prune), encoding="utf-8")
    return proof


def check_target(
    out: str | os.PathLike[str],
    *,
    prune: bool = False,
    overwrite: bool = False,
    inputs: Iterable[str | Path | None] = (),
) -> None:
    """Check that an export may be written, before anything is loaded for it.

    Raises:
        MaskFileError: a pruned model is a folder, and the name is that of a file.
        OutputError: something is there that may not be replaced, or nothing can be written there.
    """
    is_file = _is_file(Path(out))
    if prune and is_file:
        raise MaskFileError(f"a pruned model is a folder; choose a name that does not end in {Path(out).suffix}")
    check_output(out, CHECKPOINT if is_file else MODEL_FOLDER, inputs=inputs, overwrite=overwrite)


def _is_file(target: Path) -> bool:
    return target.suffix == ".safetensors"


def _write_and_prove(
    model: LoadedModel,
    mask: MaskFile,
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
    inputs = probe_images(model.clip, 1) if mask.tower == "image" else model.tokenizer(list(_TEXTS[:1]))
    footprints = compare(model.clip, loaded, inputs, mask.tower, seconds=latency_s)
    how_to_load = _how_to_load(model, target, prune=prune)
    return ExportProof(max_difference, tolerance, NUM_PROBES, how_to_load, footprints)


def _write(model: LoadedModel, mask: MaskFile, changed: nn.Module, checkpoint: Path, metadata: dict[str, str]) -> None:
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
    config: dict[str, Any] = {
        "model_cfg": open_clip_config(model_config(model.reference.name)),
        "preprocess_cfg": model.clip.visual.preprocess_cfg,
    }
    if mask.pixels != STOCK:
        # Read by `headmask.load_model`; open_clip leaves keys that it does not know.
        config["headmask"] = {"pixels": mask.pixels}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    # Safetensors lets nobody but the user read what it writes; other files are as the umask says.
    shutil.copymode(folder / CONFIG, checkpoint)
    mask.write(folder / MASK)


def _check_tokenizer(model: LoadedModel, folder: Path) -> None:
    tokenizer = tokenizer_of(f"local-dir:{folder}")
    if not torch.equal(tokenizer(list(_TEXTS)), model.tokenizer(list(_TEXTS))):
        raise AblationError(f"the tokenizer of {model} cannot be kept in a folder; export a .safetensors file instead")


def _write_transformers(
    model: LoadedModel, mask: MaskFile, changed: nn.Module, folder: Path, target: Path, *, latency_s: float
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
    largest = _difference(model, mask, written, loaded)
    beside = " ".join(sorted(each.name for each in folder.iterdir() if each.name != TRANSFORMERS_WEIGHTS))
    writing.mark(folder, FOLDED | {PIXELS_KEY: mask.pixels, BESIDE: beside})
    mask.write(folder / MASK)
    inputs = probe_images(model.clip, 1) if mask.tower == "image" else model.tokenizer(list(_TEXTS[:1]))
    footprints = compare(model.clip, changed, inputs, mask.tower, seconds=latency_s)
    how_to_load = f'transformers.{type(loaded).__name__}.from_pretrained("{target}")'
    return ExportProof(largest, TOLERANCE, NUM_PROBES, how_to_load, footprints, TRANSFORMERS)


@torch.no_grad()
def _difference(model: LoadedModel, mask: MaskFile, written: Source, loaded: nn.Module) -> float:
    """Return the largest difference between embeddings of the masked model and of a folder of transformers."""
    images = probe_images(model.clip, NUM_PROBES)
    exported = [image_features(loaded, written, images)]
    with ablate(model.clip, mask):
        masked = [model.clip.encode_image(images)]
        if written.has_texts:
            tokens = model.tokenizer(list(_TEXTS))
            masked.append(model.clip.encode_text(tokens))
            exported.append(text_features(loaded, tokenized(written, model.tokenizer, list(_TEXTS), tokens)))
    return _checked(masked, exported, TOLERANCE)


@torch.no_grad()
def _prove(model: LoadedModel, mask: MaskFile, loaded: Any) -> tuple[float, float]:
    """Return the largest difference between embeddings of the masked and the exported model, and the tolerance."""
    images, texts = probe_images(model.clip, NUM_PROBES), model.tokenizer(list(_TEXTS))
    exported = loaded.encode_image(images), loaded.encode_text(texts)
    with ablate(model.clip, mask):
        masked = model.clip.encode_image(images), model.clip.encode_text(texts)
    tolerance = 1e-6 if sum(p.numel() for p in model.clip.parameters()) < SMALL_MODEL else 1e-5
    return _checked(masked, exported, tolerance), tolerance


def _checked(masked: Sequence[Tensor], exported: Sequence[Tensor], tolerance: float) -> float:
    """Return the largest difference between normalised embeddings.

    Raises:
        AblationError: it is larger than allowed.
    """
    largest = max(
        (F.normalize(first, dim=-1) - F.normalize(second, dim=-1)).abs().max().item()
        for first, second in zip(masked, exported, strict=True)
    )
    if not largest <= tolerance:
        raise AblationError(
            f"the exported model is not equal to the masked one: embeddings differ by {largest:.1e}, "
            f"allowed are {tolerance:.0e}; nothing was kept"
        )
    return float(largest)


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
