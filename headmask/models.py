"""Loading open_clip models, by open_clip's own loader, with its refusals turned into clear messages."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from headmask.errors import ModelError, did_you_mean
from headmask.images import COMPOSITED, STOCK, PixelRule, by_rule
from headmask.maskfile import ModelReference

SCHEMES = ("local-dir:", "hf-hub:")


@dataclass(frozen=True)
class LoadedModel:
    """An open_clip model in evaluation mode, with what belongs to it."""

    clip: Any
    """The model, an `open_clip.CLIP` or one of its kin."""
    preprocess: Callable[..., Tensor]
    """open_clip's evaluation transform, under a pixel rule: opened PIL image to normalised float32 (3, Y, X)."""
    tokenizer: Callable[..., Tensor]
    reference: ModelReference

    def __str__(self) -> str:
        return str(self.reference)

    def with_pixels(self, rule: str) -> LoadedModel:
        """Return the same model with a preprocessing that follows a pixel rule, see `headmask.images`.

        Raises:
            ConfigError: there is no such rule.
        """
        return replace(self, preprocess=by_rule(self.preprocess, rule))

    @property
    def scale(self) -> float:
        """What similarities are multiplied by before a softmax: one over the model's temperature."""
        return float(self.clip.logit_scale.detach().exp())


def load_model(name: str, pretrained: str | None = None) -> LoadedModel:
    """Return a model with its weights, on the CPU in float32.

    Args:
        name: open_clip architecture such as `ViT-B-32`, or `local-dir:FOLDER`, or `hf-hub:ORG/REPO`.
        pretrained: open_clip tag such as `openai`, or a checkpoint file; with a scheme in the name, None.

    Raises:
        ModelError: unknown architecture or tag, missing or malformed weights, or an activation that does not match.
    """
    _check_names(name, pretrained)
    with quiet_open_clip():
        try:
            clip, _, preprocess = open_clip.create_model_and_transforms(
                name, pretrained=pretrained, require_pretrained=True
            )
            tokenizer = open_clip.get_tokenizer(name)
        except ModelError:
            raise
        # open_clip, torch, safetensors and the hub each raise their own kinds for an unusable checkpoint.
        except Exception as error:
            raise _cannot_load(name, pretrained, error) from error
    clip.requires_grad_(False).eval()
    reference = ModelReference(name=name, pretrained=pretrained, weights_sha256=weights_digest(clip))
    return LoadedModel(clip, preprocess, tokenizer, reference).with_pixels(rule_of_folder(name))


def rule_of_folder(name: str) -> PixelRule:
    """Return the pixel rule that an exported folder names for its model; stock for any other model."""
    if not name.startswith("local-dir:"):
        return STOCK
    path = Path(name.removeprefix("local-dir:")) / "open_clip_config.json"
    own = json.loads(path.read_text(encoding="utf-8")).get("headmask")
    return COMPOSITED if isinstance(own, dict) and own.get("pixels") == COMPOSITED else STOCK


def tokenizer_of(name: str) -> Callable[..., Tensor]:
    """Return the tokenizer of a model: texts to token ids (Q, T).

    Raises:
        ModelError: unknown model, or a tokenizer that cannot be had.
    """
    if not name.startswith(SCHEMES):
        check_architecture(name)
    try:
        with quiet_open_clip():
            tokenizer: Callable[..., Tensor] = open_clip.get_tokenizer(name)
    except ModelError:
        raise
    # The hub and its libraries raise their own kinds.
    except Exception as error:
        raise _cannot_load(name, None, error) from error
    return tokenizer


def _cannot_load(name: str, pretrained: str | None, error: Exception) -> ModelError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if _is_hugging_face(name) and find_spec("transformers") is None:
        reason = "its texts need Hugging Face's transformers: pip install 'headmask[transformers]'"
    return ModelError(f"cannot load {name}{f' with {pretrained}' if pretrained else ''}: {reason}")


def _is_hugging_face(name: str) -> bool:
    """Return whether a model's text tower or tokenizer is Hugging Face's."""
    config = open_clip.get_model_config(name) or {}
    if name.startswith("local-dir:"):
        path = Path(name.removeprefix("local-dir:")) / "open_clip_config.json"
        config = json.loads(path.read_text(encoding="utf-8")).get("model_cfg", {})
    text = config.get("text_cfg", {})
    return bool(text.get("hf_model_name") or text.get("hf_tokenizer_name"))


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model's state: names, types, shapes and bytes, in order of name."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def model_config(name: str) -> dict[str, Any]:
    """Return open_clip's architecture configuration of a model name.

    Raises:
        ModelError: there is none.
    """
    config = open_clip.get_model_config(name)
    if config is None:
        raise ModelError(f"open_clip has no configuration for {name}")
    return dict(config)


def _check_names(name: str, pretrained: str | None) -> None:
    if name.startswith(SCHEMES):
        if pretrained is not None:
            raise ModelError(f"{name} brings its own weights; leave out pretrained ({pretrained})")
        folder = Path(name.removeprefix("local-dir:"))
        if name.startswith("local-dir:") and not (folder / "open_clip_config.json").is_file():
            raise ModelError(f"{name}: the folder must hold open_clip_config.json and a checkpoint; it does not")
        return
    check_architecture(name)
    if pretrained is None:
        raise ModelError(
            f"{name} needs weights: pass pretrained, a tag ({', '.join(_tags(name)[:4]) or 'none known'}) or a file"
        )
    if pretrained not in _tags(name) and not Path(pretrained).is_file():
        raise ModelError(
            f"pretrained must be a file or a tag of {name}: {', '.join(_tags(name)) or 'none known'}; "
            f"got {pretrained!r}"
        )


def check_architecture(name: str) -> None:
    """Check that open_clip has an architecture of a name.

    Raises:
        ModelError: it has none; the message has the nearest one.
    """
    if name not in open_clip.list_models():
        hint = did_you_mean(name, open_clip.list_models()) or "; `headmask models` lists them"
        raise ModelError(f"open_clip has no architecture {name!r}{hint}")


def _tags(name: str) -> list[str]:
    return list(open_clip.list_pretrained_tags_by_model(name))


@contextlib.contextmanager
def quiet_open_clip() -> Iterator[None]:
    """Silence open_clip's progress log, and make its QuickGELU warning an error: such a model scores too low."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        logging.disable(level)
    for warning in caught:
        if "QuickGELU mismatch" in str(warning.message):
            raise ModelError(
                f"{warning.message} Use the architecture with the other activation (its name ends in -quickgelu)"
            )
