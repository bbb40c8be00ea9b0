"""The proof that an export is the masked model: both embed the same images and texts, and what the export costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from headmask.apply.folding import probe_images
from headmask.apply.footprint import Footprints, compare
from headmask.apply.formats import OPEN_CLIP, Format
from headmask.apply.live import ablate
from headmask.errors import AblationError
from headmask.maskfile import HeadFile
from headmask.models.loading import LoadedModel

NUM_PROBES = 4
TEXTS = ("a photo of a dog", "two red circles left of a blue square", "night", "Children build a castle of sand.")


@dataclass(frozen=True)
class ExportProof:
    """How far an export, loaded again, is from the masked model, and the footprint of its tower."""

    max_difference: float
    """Largest absolute difference of L2-normalised float32 embeddings."""
    tolerance: float
    num_probes: int
    """Number of images, and of texts."""
    how_to_load: str
    """The call that loads the export: that of stock open_clip, transformers or ONNX Runtime, or
    `headmask.load_pruned`.
    """
    footprints: Footprints
    """Footprints of the searched tower, before and after."""
    format: Format = OPEN_CLIP


def footprints_of(model: LoadedModel, mask: HeadFile, exported: Any, latency_s: float) -> Footprints:
    """Return the footprint of a mask's tower in the model and in the exported one."""
    inputs = probe_images(model.clip, 1) if mask.tower == "image" else model.tokenizer(list(TEXTS[:1]))
    return compare(model.clip, exported, inputs, mask.tower, seconds=latency_s)


@torch.no_grad()
def difference(
    model: LoadedModel,
    mask: HeadFile,
    encode_image: Callable[[Tensor], Tensor],
    encode_text: Callable[[list[str]], Tensor] | None,
    tolerance: float,
) -> float:
    """Return the largest difference between normalised embeddings of the masked model and of an export.

    Args:
        model: the model without the mask.
        mask: the mask file or scales file.
        encode_image: normalised images to embeddings by the export.
        encode_text: texts to embeddings by the export; None if there is no text tower.
        tolerance: the largest difference that is allowed.

    Raises:
        AblationError: it is larger.
    """
    images, texts = probe_images(model.clip, NUM_PROBES), list(TEXTS)
    exported = [encode_image(images), *([] if encode_text is None else [encode_text(texts)])]
    with ablate(model.clip, mask):
        masked = [model.clip.encode_image(images)]
        if encode_text is not None:
            masked.append(model.clip.encode_text(model.tokenizer(texts)))
    return _checked(masked, exported, tolerance)


def _checked(masked: Sequence[Tensor], exported: Sequence[Tensor], tolerance: float) -> float:
    """Return the largest difference between normalised embeddings, if it is allowed."""
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
