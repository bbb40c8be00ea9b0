"""Folding a mask into the weights, so that a stock loader needs no code of ours; and the proof that it is equal."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor, nn

from headmask.ablation import Ablation, check_ablation
from headmask.attention import HeadAttention
from headmask.errors import AblationError, MaskFileError
from headmask.live import ablate
from headmask.mask import HeadMask
from headmask.maskfile import MaskFile
from headmask.models import SCHEMES, LoadedModel, model_config
from headmask.towers import TowerName, check_grid, view_of

# B batch, L layers, H heads, d width of one head

SMALL_MODEL = 20_000_000
"""Parameters below which the tighter tolerance of the proof holds."""
NUM_PROBES = 4


@dataclass(frozen=True)
class FoldProof:
    """How far the folded checkpoint, loaded by stock open_clip, is from the masked model."""

    max_difference: float
    """Largest absolute difference of L2-normalised float32 embeddings."""
    tolerance: float
    num_probes: int
    how_to_load: str
    """The call of stock open_clip that loads the checkpoint."""


def fold(
    model: nn.Module,
    mask: HeadMask | MaskFile,
    *,
    ablation: Ablation = "zero",
    tower: TowerName = "image",
    means_LHd: Tensor | None = None,
) -> nn.Module:
    """Return a copy of the model with the mask written into its weights.

    `zero` clears the heads' columns of W_O; `mean` moves the constant output into b_O as well; `uniform` (image towers)
    clears the heads' query rows, so that every token weighs the same.

    Raises:
        GridError: the mask is of another grid.
        AblationError: the ablation cannot be written into these weights; the message says why.
    """
    if isinstance(mask, MaskFile):
        ablation, tower, means_LHd, mask = mask.ablation, mask.tower, mask.means_tensor(), mask.mask
    folded: nn.Module = deepcopy(model)
    view = view_of(folded, tower)
    check_grid(mask, view.grid, f"this model's {tower} tower")
    check_ablation(ablation, has_class_token=view.has_class_token, means=means_LHd)
    with torch.no_grad():
        for layer, head in mask.heads:
            mean_d = means_LHd[layer, head] if means_LHd is not None else None
            _fold_head(view.attentions[layer], head, ablation, tower, mean_d)
    return folded


def _fold_head(
    attention: HeadAttention, head: int, ablation: Ablation, tower: TowerName, mean_d: Tensor | None
) -> None:
    if attention.normalises_heads:
        raise AblationError(
            "this tower normalises the heads' outputs before W_O: no weights equal an ablated head there"
        )
    columns = attention.columns(head)
    weight, bias = attention.out_proj.weight, attention.out_proj.bias
    if ablation == "uniform":
        if tower != "image":
            raise AblationError("ablation uniform folds into image towers only; a causal mask needs z itself")
        if attention.normalises_query:
            raise AblationError("this tower normalises its queries: a zero query row does not give uniform attention")
        for parameter in attention.query_parameters():
            parameter[columns] = 0
    elif ablation == "cls":
        raise AblationError(
            "ablation cls does not fold into weights; use it live, or search with zero, mean or uniform"
        )
    else:
        if ablation == "mean" and mean_d is not None:
            if bias is None:
                raise AblationError("ablation mean folds into the output bias, and this tower has none")
            scale_H = attention.head_scale_H
            scaled_d = mean_d.to(weight) * (1 if scale_H is None else scale_H[head])
            bias.add_(weight[:, columns] @ scaled_d)
        weight[:, columns] = 0


def export(model: LoadedModel, mask: MaskFile, out: str | os.PathLike[str], *, overwrite: bool = False) -> FoldProof:
    """Write the folded checkpoint and return the proof that stock open_clip loads the masked model from it.

    Args:
        model: the model the mask was made for.
        mask: the mask file.
        out: `NAME.safetensors` for a checkpoint file, which `open_clip.create_model(ARCHITECTURE, pretrained=FILE)`
            loads; any other name for a folder, which `open_clip.create_model("local-dir:FOLDER")` loads.
        overwrite: replace what is there.

    Raises:
        MaskFileError: the mask was made for other weights, or `out` exists.
        AblationError: the ablation cannot be folded, or the folded checkpoint is not equal; nothing is kept then.
    """
    mask.check_model(str(model), model.reference.weights_sha256)
    target = Path(out)
    is_file = target.suffix == ".safetensors"
    _check_target(target, is_file=is_file, overwrite=overwrite)
    folded = fold(model.clip, mask)
    with _scratch_folder(target) as scratch:
        checkpoint = scratch / ("open_clip_model.safetensors" if not is_file else target.name)
        save_file({key: tensor.contiguous().clone() for key, tensor in folded.state_dict().items()}, checkpoint)
        config = {"model_cfg": model_config(model.reference.name), "preprocess_cfg": model.clip.visual.preprocess_cfg}
        (scratch / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
        proof = _prove(model, mask, checkpoint, as_folder=not is_file)
        if is_file:
            checkpoint.replace(target)
        else:
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
    return replace(proof, how_to_load=_how_to_load(model.reference.name, target))


def _check_target(target: Path, *, is_file: bool, overwrite: bool) -> None:
    """Refuse to replace anything unasked, and anything but a checkpoint when asked."""
    if not target.exists():
        return
    if not overwrite:
        raise MaskFileError(f"{target} exists; choose another name or pass --overwrite")
    if not (target.is_file() if is_file else (target / "open_clip_config.json").is_file()):
        raise MaskFileError(f"{target} is no {'file' if is_file else 'model folder'}; choose another name")


@contextmanager
def _scratch_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside the target; what a dead export left there goes, and so does what this one leaves."""
    scratch = target.with_name(f".{target.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@torch.no_grad()
def _prove(model: LoadedModel, mask: MaskFile, checkpoint: Path, *, as_folder: bool) -> FoldProof:
    images = probe_images(model.clip, NUM_PROBES)
    texts = torch.arange(1, NUM_PROBES + 1)[:, None].expand(-1, model.clip.context_length).contiguous()
    stock = _stock_load(model.reference.name, checkpoint, as_folder=as_folder)
    with ablate(model.clip, mask):
        differences = [
            (F.normalize(model.clip.encode_image(images), dim=-1) - F.normalize(stock.encode_image(images), dim=-1)),
            (F.normalize(model.clip.encode_text(texts), dim=-1) - F.normalize(stock.encode_text(texts), dim=-1)),
        ]
    largest = max(difference.abs().max().item() for difference in differences)
    tolerance = 1e-6 if sum(p.numel() for p in stock.parameters()) < SMALL_MODEL else 1e-5
    if not largest <= tolerance:
        raise AblationError(
            f"the folded checkpoint is not equal to the masked model: embeddings differ by {largest:.1e}, "
            f"allowed are {tolerance:.0e}; nothing was kept"
        )
    return FoldProof(largest, tolerance, NUM_PROBES, how_to_load="")


def _how_to_load(name: str, target: Path) -> str:
    if target.suffix != ".safetensors":
        return f'open_clip.create_model("local-dir:{target}")'
    if not name.startswith(SCHEMES):
        return f'open_clip.create_model("{name}", pretrained="{target}")'
    return f'open_clip.load_checkpoint(open_clip.create_model("{name}", load_weights=False), "{target}")'


def _stock_load(name: str, checkpoint: Path, *, as_folder: bool) -> Any:
    if as_folder:
        return open_clip.create_model(f"local-dir:{checkpoint.parent}").eval()
    if not name.startswith(SCHEMES):
        return open_clip.create_model(name, pretrained=str(checkpoint)).eval()
    stock = open_clip.create_model(name, load_weights=False)
    open_clip.load_checkpoint(stock, str(checkpoint))
    return stock.eval()


def probe_images(model: Any, count: int, *, seed: int = 0) -> Tensor:
    """Return normalised random images (count, 3, Y, X) float32 of the model's input size, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *model.visual.image_size, generator=generator)
