"""Loading open_clip models with open_clip's own loader; its refusals become clear messages."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

from headmask.border.foreign import reason_of
from headmask.border.home import hub_cache
from headmask.border.reading import is_there
from headmask.border.schemes import FOLDER, named
from headmask.border.shown import shown
from headmask.errors import ModelError
from headmask.maskfile import ModelReference
from headmask.models.checkpoints import bare_weights, check_finite, why_not
from headmask.models.configuration import as_folder
from headmask.models.hf.architecture import FILES
from headmask.models.hf.conversion import converted
from headmask.models.hf.source import Source
from headmask.models.origin import Origin, find_config, find_origin, is_config_file
from headmask.models.positions import resized
from headmask.models.tokenizer import make_tokenizer
from headmask.pixels.images import COMPOSITED, STOCK, by_rule
from headmask.pixels.preprocessing import GivenPreprocessing, Preprocessing, read_preprocessing

OPENAI = "openai"
"""The value of `preprocess` for OpenAI's own: mean, deviation and crop of the first CLIP models, open_clip's
default.
"""

PreprocessLike = str | os.PathLike[str] | GivenPreprocessing | Preprocessing


@dataclass(frozen=True)
class LoadedModel:
    """An open_clip model in evaluation mode, with everything that belongs to it."""

    clip: Any
    """The model, an `open_clip.CLIP` or a similar class."""
    preprocess: Callable[..., Tensor]
    """open_clip's evaluation transform, under a pixel rule: opened PIL image to normalised float32 (3, Y, X)."""
    tokenizer: Callable[..., Tensor]
    reference: ModelReference
    notes: tuple[str, ...] = ()
    """What was found and chosen during loading, in sentences: how images are prepared, and why."""
    source: Source | None = None
    """The model of transformers that this one was made of; None for one of open_clip."""

    def __str__(self) -> str:
        return str(self.reference)

    def with_pixels(self, rule: str) -> LoadedModel:
        """Return the same model with a preprocessing that follows a pixel rule, see `headmask.pixels.images`.

        Raises:
            ConfigError: there is no such rule.
        """
        return replace(self, preprocess=by_rule(self.preprocess, rule))

    @property
    def weights_sha256(self) -> str:
        """Digest of the weights as loaded; see `weights_digest`."""
        return self.reference.weights_sha256

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared, as values."""
        return Preprocessing.of(self.clip.visual.preprocess_cfg)

    @property
    def scale(self) -> float:
        """The factor on similarities before a softmax: one over the model's temperature."""
        return float(self.clip.logit_scale.detach().exp())


def load_model(
    name: str | None = None,
    pretrained: str | None = None,
    *,
    preprocess: PreprocessLike | None = None,
    otherwise: Preprocessing | None = None,
) -> LoadedModel:
    """Return a model with its weights, on the CPU in float32.

    Images are prepared as the pretrained tag, the folder or the file itself says; for a checkpoint file that says
    nothing, as all pretrained tags of its architecture do. `LoadedModel.notes` says which it was.

    Args:
        name: open_clip architecture such as `ViT-B-32`, a configuration file such as `my.json`, `local-dir:FOLDER`,
            `hf-dir:FOLDER` for a folder of Hugging Face's transformers, or `hf-hub:ORG/REPO`.
        pretrained: open_clip tag such as `openai`, or a checkpoint file; with a scheme in the name, None. Without a
            name, a folder of Hugging Face's transformers.
        preprocess: how images are prepared: a tag whose preprocessing is used, `openai`, or a JSON file with a
            `preprocess_cfg`; by default what belongs to the weights.
        otherwise: how images are prepared if nothing comes with the weights, such as a mask file's.

    Raises:
        ModelError: unknown architecture or tag, missing or malformed weights, an activation that does not match,
            pretrained tags that do not agree about the preprocessing, or a model of transformers that open_clip cannot
            compute.
    """
    name, pretrained = named(name, pretrained)
    if name is None:
        raise ModelError(
            "say which model: an architecture of open_clip with its weights, or a folder of Hugging Face's "
            f"transformers, which holds config.json; got {shown(repr(pretrained))} alone"
        )
    origin = find_origin(name, pretrained)
    chosen, why = choose_preprocessing(origin, preprocess, otherwise)
    with quiet_open_clip():
        tokenizer = _tokenizer(name, origin.config)
        clip, notes = _built(origin, chosen.changes(), tokenizer)
        transform = image_transform_v2(PreprocessCfg(**clip.visual.preprocess_cfg), is_train=False)
    _check_size(clip, chosen)
    check_finite(str(origin), clip.state_dict())
    clip.requires_grad_(False).eval()
    prepared = Preprocessing.of(clip.visual.preprocess_cfg)
    digest = weights_digest(clip)
    reference = ModelReference(
        name=origin.name, pretrained=origin.pretrained, weights_sha256=digest, preprocess=prepared
    )
    notes = (*origin.notes, *notes, f"Weights {digest[:12]}; images are prepared {why}: {prepared}")
    rule = COMPOSITED if origin.pixels == COMPOSITED else STOCK
    return LoadedModel(clip, transform, tokenizer, reference, notes, origin.source).with_pixels(rule)


def choose_preprocessing(
    origin: Origin, asked: PreprocessLike | None = None, otherwise: Preprocessing | None = None
) -> tuple[GivenPreprocessing, str]:
    """Return how images are prepared for a model, and where that comes from, as part of a sentence.

    Raises:
        ModelError: it is unknown, because the pretrained tags of the architecture do not agree, or the request is
            neither a tag nor a file.
    """
    if asked is not None:
        return _asked(origin, asked)
    if origin.preprocess is not None:
        return origin.preprocess, f"as the tag {origin.pretrained} has it" if origin.is_tag else "as the weights say"
    if otherwise is not None:
        return _given(otherwise), "as the mask file says"
    if origin.unprepared is not None:
        raise ModelError(
            f"how images are prepared for {shown(origin)} is unknown: {origin.unprepared}. Say it with --preprocess "
            f"and a JSON file (or {OPENAI})"
        )
    kinds: dict[str, list[str]] = {}
    for tag, each in origin.tags.items():
        kinds.setdefault(str(each.changes()), []).append(tag)
    if len(kinds) > 1:
        raise ModelError(
            f"how images are prepared for {shown(origin)} is unknown: nothing comes with the weights, and the "
            "pretrained tags of this architecture differ. Pass --preprocess with a tag whose preprocessing is meant, "
            f"{' or '.join(map(_some, kinds.values()))}, or with a JSON file"
        )
    if kinds:
        count = len(origin.tags)
        whose = f"all {count} pretrained tags" if count > 1 else f"the pretrained tag {next(iter(origin.tags))}"
        why = f"as {whose} of its architecture {'have' if count > 1 else 'has'} it, for nothing comes with the weights"
        return next(iter(origin.tags.values())), why
    return GivenPreprocessing(), (
        "as OpenAI did, for nothing comes with the weights, and there are no pretrained tags of the architecture "
        "(--preprocess says otherwise)"
    )


def _some(tags: list[str]) -> str:
    return f"{tags[0]} (as {len(tags) - 1} others)" if tags[1:] else tags[0]


def _asked(origin: Origin, asked: PreprocessLike) -> tuple[GivenPreprocessing, str]:
    if isinstance(asked, GivenPreprocessing | Preprocessing):
        return _given(asked), "as asked for"
    text = os.fspath(asked)
    if text in origin.tags:
        return origin.tags[text], f"as the tag {shown(text)} has it"
    if text == OPENAI:
        return GivenPreprocessing(), "as OpenAI did"
    path = Path(text)
    if not text or (not is_there(path) and not text.endswith(".json")):
        known = dict.fromkeys([*origin.tags, OPENAI])
        raise ModelError(
            f"--preprocess must be a pretrained tag of the architecture ({', '.join(known)}) or a JSON file; got "
            f"{shown(repr(text))}, and there is no such file"
        )
    return read_preprocessing(path), f"as {shown(text)} says"


def _given(values: GivenPreprocessing | Preprocessing) -> GivenPreprocessing:
    return GivenPreprocessing.model_validate(values.model_dump())


def _check_size(clip: Any, chosen: GivenPreprocessing) -> None:
    """Check that images get the size that the image tower expects."""
    wanted = clip.visual.image_size
    wanted = (wanted, wanted) if isinstance(wanted, int) else tuple(wanted)
    size = (chosen.size, chosen.size) if isinstance(chosen.size, int) else chosen.size
    if size is not None and tuple(size) != wanted:
        raise ModelError(
            f"preprocessing makes images of {size[1]} x {size[0]} pixels, and the model takes "
            f"{wanted[1]} x {wanted[0]}: leave out the size"
        )


def _built(origin: Origin, preprocess: dict[str, Any], tokenizer: Callable[..., Tensor]) -> tuple[Any, tuple[str, ...]]:
    """Return a model with its weights, and notes on what was done with them."""
    # The size is the model's own, and checked.
    changes = {key: value for key, value in preprocess.items() if key != "size"}
    if origin.source is not None:
        return converted(build(origin.name, origin.config, force_preprocess_cfg=changes), origin.source, tokenizer)
    if origin.checkpoint is None:
        options = {"pretrained": origin.pretrained, "require_pretrained": True}
        return _create(origin, origin.name, force_preprocess_cfg=changes, **options), ()
    with bare_weights(origin.checkpoint) as weights:
        clip = build(origin.name, origin.config, force_preprocess_cfg=changes)
        interpolated = resized(clip, weights.positions, origin.checkpoint)
        try:
            open_clip.load_checkpoint(clip, str(weights.path))
        # open_clip's conversions raise whatever they stumble over.
        except Exception as error:
            raise ModelError(
                f"cannot load {shown(origin)}: {why_not(error, origin.checkpoint, origin.name)}"
            ) from error
        return clip, (*weights.notes, *interpolated)


def build(name: str, config: Any, **options: Any) -> Any:
    """Return a model without weights.

    Raises:
        ModelError: open_clip cannot build it.
    """
    options = {"load_weights": False, "pretrained_text": False, **options}
    if is_config_file(name) or name.startswith(FOLDER) or FILES in config:
        # A folder would be searched for weights that are not taken.
        with as_folder(config) as folder:
            return _create(Origin(name, None, config), f"{FOLDER}{folder}", **options)
    return _create(Origin(name, None, config), name, **options)


def _create(origin: Origin, name: str, **options: Any) -> Any:
    try:
        return open_clip.create_model(name, cache_dir=hub_cache(), **options)
    except ModelError:
        raise
    # open_clip, timm, torch and the hub each raise their own kinds.
    except Exception as error:
        raise _cannot_load(origin, error) from error


def tokenizer_of(name: str) -> Callable[..., Tensor]:
    """Return the tokenizer of a model: texts to token ids (Q, T).

    Raises:
        ModelError: unknown model, or a tokenizer that cannot be loaded.
    """
    config, _ = find_config(name)
    with quiet_open_clip():
        return _tokenizer(name, config)


def _tokenizer(name: str, config: Any) -> Callable[..., Tensor]:
    try:
        return make_tokenizer(name, config)
    except ModelError:
        raise
    # The hub and its libraries raise their own kinds.
    except Exception as error:
        raise _cannot_load(Origin(name, None, config), error) from error


def _cannot_load(origin: Origin, error: Exception) -> ModelError:
    reason = shown(reason_of(error))
    if origin.is_hugging_face and find_spec("transformers") is None:
        reason = "its texts need Hugging Face's transformers: pip install 'headmask[transformers]'"
    return ModelError(f"cannot load {shown(origin)}: {reason}")


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
        ModelError: there is no such model.
    """
    return find_config(name)[0]


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
