"""The conversion of a model of transformers, in memory, and the proof that both compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from headmask.errors import ModelError
from headmask.models.hf.names import renamings
from headmask.models.hf.reading import FolderTokenizer, NoTokenizer
from headmask.models.hf.source import Source

# B images or texts, T tokens, P patches, E embedding

TOLERANCE = 1e-5
"""Largest difference of L2-normalised embeddings that the proof allows."""
NUM_IMAGES = 3
TEXTS = (
    "a photo of a dog",
    "Two red circles, LEFT of a blue square.",
    "沙发上的猫",
    "",
    "a very long text " * 40,
)


class ImageTower(nn.Module):
    """A model without a text tower: it embeds images, and there are no texts to embed."""

    logit_bias = None

    def __init__(self, visual: nn.Module, embed_dim: int) -> None:
        super().__init__()
        self.visual: Any = visual
        self.logit_scale = torch.zeros(())
        self._embed_dim = embed_dim

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Return the embeddings of images (B, E)."""
        features: Tensor = self.visual(images)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, texts: Tensor, normalize: bool = False) -> Tensor:
        """Return embeddings for the empty texts that stand for none (B, E): zeros."""
        return torch.zeros(len(texts), self._embed_dim, device=texts.device)


def converted(clip: Any, source: Source, tokenizer: Callable[..., Tensor]) -> tuple[Any, tuple[str, ...]]:
    """Return the model with the weights of transformers, proven to compute the same, and notes.

    Args:
        clip: the model that open_clip built for `source.architecture`.
        source: the model of transformers.
        tokenizer: as `tokenizer_of` returns it.

    Raises:
        ModelError: the weights do not fit, or one of the models computes something else.
    """
    theirs = source.model()
    if not source.has_texts:
        clip = _without_texts(clip, theirs)
    _mask_padding(clip, tokenizer)
    fill(clip, source, theirs)
    clip.requires_grad_(False).eval()
    largest = difference(clip, theirs, source, tokenizer)
    what = "images and texts" if source.has_texts else "images"
    note = f"Converted from transformers, and proven equal to it on {what}: embeddings differ by at most {largest:.1e}"
    notes = [f"{note} (allowed {TOLERANCE:.0e})"]
    if source.config.model_type == "siglip2":
        side = source.architecture["vision_cfg"]["image_size"]
        notes.append(f"SigLIP 2 is used at one fixed resolution: images of all shapes are made {side} x {side} pixels")
    return clip, tuple(notes)


def _without_texts(clip: Any, theirs: nn.Module) -> ImageTower:
    """Return the image tower alone, without a projection where the weights have none."""
    visual = clip.visual
    if "visual_projection.weight" not in theirs.state_dict():
        visual.proj = None
    return ImageTower(visual, visual.output_dim)


def _mask_padding(clip: Any, tokenizer: Any) -> None:
    """Let a text tower without a causal mask see no padding where its tokenizer says what is padding."""
    text = getattr(clip, "text", None)
    is_masked = isinstance(tokenizer, FolderTokenizer) and tokenizer.masks_padding
    if isinstance(text, TextTransformer) and text.attn_mask is None and is_masked:
        text.use_pad_mask, text.pad_id = True, tokenizer.tokenizer.pad_token_id


def fill(clip: nn.Module, source: Source, theirs: nn.Module) -> None:
    """Give a model of open_clip the weights of a model of transformers.

    Raises:
        ModelError: a tensor of either is left over, or has another shape.
    """
    state, own = theirs.state_dict(), clip.state_dict()
    shapes = {name: value.shape for name, value in own.items()}
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    try:
        for each in renamings(source.config, state):
            found |= each.to_ours(state, shapes)
            used |= set(each.theirs)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(f"{source} cannot be converted: {each.theirs[0]} does not fit ({error})") from None
    left = sorted((state.keys() - used) | (own.keys() - found.keys()))
    if left:
        raise ModelError(f"{source} cannot be converted: open_clip and transformers do not both have {left[0]}")
    clip.load_state_dict(found)


def written_back(clip: nn.Module, source: Source, theirs: nn.Module) -> None:
    """Give a model of transformers the weights of the open_clip model that was made of it, changed or not."""
    ours, state = clip.state_dict(), theirs.state_dict()
    shapes = {name: value.shape for name, value in state.items()}
    found: dict[str, Tensor] = {}
    for each in renamings(source.config, state):
        found |= each.to_theirs(ours, shapes)
    theirs.load_state_dict(found)


@torch.no_grad()
def difference(clip: Any, theirs: Any, source: Source, tokenizer: Callable[..., Tensor]) -> float:
    """Return the largest difference between L2-normalised embeddings of two models, on a probe of images and texts.

    Raises:
        ModelError: it is larger than allowed, or scale, bias or token ids differ.
    """
    images = probe_images(source)
    pairs = [("images", clip.encode_image(images), image_features(theirs, source, images))]
    if source.has_texts:
        tokens = tokenizer(list(TEXTS))
        inputs = tokenized(source, tokenizer, list(TEXTS), tokens)
        pairs.append(("texts", clip.encode_text(tokens), text_features(theirs, inputs)))
        _check_scale(clip, theirs, source)
    largest = 0.0
    for what, ours_BE, theirs_BE in pairs:
        found = (F.normalize(ours_BE, dim=-1) - F.normalize(theirs_BE, dim=-1)).abs().max().item()
        if not found <= TOLERANCE:
            raise ModelError(
                f"{source} cannot be read as an open_clip model: its {source.config.model_type} computes something "
                f"else, embeddings of {what} differ by {found:.1e}, allowed are {TOLERANCE:.0e}"
            )
        largest = max(largest, found)
    return largest


def _check_scale(clip: Any, theirs: Any, source: Source) -> None:
    for name in ("logit_scale", "logit_bias"):
        ours, there = (getattr(model, name, None) for model in (clip, theirs))
        if ours is not there and (ours is None or there is None or ours.item() != there.item()):
            raise ModelError(f"{source} cannot be read as an open_clip model: its {name} differs")


def probe_images(source: Source, count: int = NUM_IMAGES) -> Tensor:
    """Return random images (B, 3, Y, X), normalised, of a model's size."""
    size = source.architecture["vision_cfg"]["image_size"]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def image_features(theirs: Any, source: Source, images: Tensor) -> Tensor:
    """Return the embeddings (B, E) of images by a model of transformers."""
    kind = source.config.model_type
    if kind == "siglip2":
        return _features(theirs.get_image_features(**_patches(source, images)))
    if source.has_texts:
        return _features(theirs.get_image_features(pixel_values=images))
    output = theirs(pixel_values=images)
    embeds = getattr(output, "image_embeds", None)
    return _features(output) if embeds is None else embeds


def _patches(source: Source, images: Tensor) -> dict[str, Tensor]:
    """Return images as SigLIP 2 takes them: patches, row by row, all of them seen."""
    count, size = len(images), source.config.vision_config.patch_size
    side = images.shape[-1] // size
    patches = images.reshape(count, 3, side, size, side, size).permute(0, 2, 4, 3, 5, 1).reshape(count, side**2, -1)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(count, side**2, dtype=torch.int64),
        "spatial_shapes": torch.tensor([[side, side]] * count),
    }


def text_features(theirs: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the embeddings (B, E) of tokenized texts by a model of transformers."""
    return _features(theirs.get_text_features(**inputs))


def _features(output: Any) -> Tensor:
    """Return the embeddings in an output: transformers gave them alone before version 5."""
    found: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return found


def tokenized(source: Source, tokenizer: Any, texts: list[str], tokens: Tensor) -> dict[str, Tensor]:
    """Return texts as the model's own tokenizer gives them.

    Raises:
        ModelError: its token ids are not those of `tokenizer`.
    """
    length = tokenizer.context_length
    padded = {"padding": "max_length", "truncation": True, "max_length": length}
    own = source.tokenizer()(texts, **padded, return_tensors="pt")
    inputs = {name: value[:, : tokens.shape[1]] for name, value in own.items()}
    if not torch.equal(inputs["input_ids"], tokens):
        raise ModelError(f"{source} cannot be read as an open_clip model: its tokenizer gives other tokens")
    return inputs


def tokenizer_of(source: Source) -> Callable[..., Tensor]:
    """Return the tokenizer of a model: texts to token ids (Q, T).

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    if not source.has_texts:
        return NoTokenizer(str(source))
    length = source.architecture["text_cfg"]["context_length"]
    return FolderTokenizer(source, length, trims=source.config.model_type == "chinese_clip")
