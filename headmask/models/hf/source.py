"""Where a model of transformers is, a folder or a repository of the hub, and its parts as transformers reads them.

    source = Source("/models/clip")
    tower = source.model()

Repositories go through huggingface_hub's cache, so that what was fetched once is there without a network.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from headmask.border.foreign import reason_of
from headmask.border.home import hub_cache
from headmask.border.libraries import check_sizes
from headmask.border.reading import is_file, is_folder, read_json
from headmask.border.shown import shown
from headmask.errors import ModelError
from headmask.models.checkpoints import PIXELS_KEY, metadata_of
from headmask.models.hf.architecture import KINDS, VISION_ONLY, architecture, has_projection

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_CHECKPOINTS = ("model*.safetensors", "pytorch_model*.bin")
_CLASSES = {
    "clip": "CLIPModel",
    "chinese_clip": "ChineseCLIPModel",
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
}
EXTRA = "needs Hugging Face's transformers: pip install 'headmask[transformers]'"


@dataclass(frozen=True)
class Source:
    """A model of transformers."""

    place: str
    """Absolute path of a folder, or ORG/REPO."""
    is_repository: bool = False

    def __str__(self) -> str:
        return f"the transformers model in {shown(self.place)}"

    @cached_property
    def config(self) -> Any:
        """The configuration, as transformers reads it.

        Raises:
            ModelError: it is malformed, of a kind that is not supported, or transformers is not installed.
        """
        if not self.is_repository:
            content = read_json(Path(self.place, CONFIG), "model configuration", ModelError)
            check_kind(content, self.place)
        config = self._read("AutoConfig", CONFIG)
        check_kind({"model_type": config.model_type}, self.place)
        try:
            check_sizes(config)
        except TypeError as error:
            raise ModelError(f"cannot load the {CONFIG} of {self}: {shown(str(error))}") from None
        return config

    @cached_property
    def architecture(self) -> dict[str, Any]:
        """The configuration of the open_clip architecture that computes the same.

        Raises:
            ModelError: there is none, or as `config`.
        """
        try:
            return architecture(self.config)
        except ModelError as error:
            raise ModelError(f"{self} cannot be read as an open_clip model: {error}") from None

    @property
    def has_texts(self) -> bool:
        """Whether the model has a text tower."""
        return bool(self.config.model_type != VISION_ONLY)

    @property
    def pixels(self) -> str | None:
        """The pixel rule in an export of headmask (see `headmask.pixels.images`); None elsewhere."""
        weights = Path(self.place, WEIGHTS)
        return metadata_of(weights).get(PIXELS_KEY) if not self.is_repository and is_file(weights) else None

    def model(self) -> nn.Module:
        """Return the model as transformers loads it, in float32 and in evaluation mode.

        Raises:
            ModelError: its weights are missing, damaged or not those of its configuration.
        """
        self._check_files()
        name = _CLASSES.get(self.config.model_type)
        if name is None:
            name = "CLIPVisionModelWithProjection" if has_projection(self.config) else "CLIPVisionModel"
        model, info = self._read(name, "weights", output_loading_info=True)
        _check_loaded(info, str(self))
        loaded: nn.Module = model.float().eval().requires_grad_(False)
        return loaded

    def tokenizer(self) -> Any:
        """Return the tokenizer as transformers loads it.

        Raises:
            ModelError: there is none, or it cannot be loaded.
        """
        if not self._has(TOKENIZERS):
            raise ModelError(
                f"{self} has no tokenizer: put its files beside {CONFIG}, {', '.join(TOKENIZERS[:2])}, ..."
            )
        return self._read("AutoTokenizer", "tokenizer")

    def image_processor(self) -> Any | None:
        """Return the image processor as transformers loads it; None if there is none.

        Raises:
            ModelError: it cannot be loaded.
        """
        return self._read("AutoImageProcessor", "image processor") if self._has(PROCESSORS) else None

    def _has(self, names: tuple[str, ...]) -> bool:
        if not self.is_repository:
            return any(is_file(Path(self.place, name)) for name in names)
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        for name in names:
            with contextlib.suppress(EntryNotFoundError, OSError):
                hf_hub_download(self.place, name, cache_dir=hub_cache())
                return True
        return False

    def _read(self, kind: str, what: str, **options: Any) -> Any:
        """Return what one of the classes of transformers loads."""
        if find_spec("transformers") is None:
            raise ModelError(f"{self} {EXTRA}")
        import transformers

        with quiet():
            try:
                return getattr(transformers, kind).from_pretrained(self.place, cache_dir=hub_cache(), **options)
            # transformers, torch, safetensors and the hub each raise their own kinds.
            except Exception as error:
                raise ModelError(f"cannot load the {what} of {self}: {shown(reason_of(error))}") from error

    def _check_files(self) -> None:
        """Refuse files that are no checkpoints with the way out, before transformers stumbles over them."""
        if self.is_repository or not is_folder(Path(self.place)):
            return
        found = [path for pattern in _CHECKPOINTS for path in sorted(Path(self.place).glob(pattern))]
        if not found:
            raise ModelError(
                f"{self} has no weights: transformers looks for model.safetensors, pytorch_model.bin, or parts of them "
                "with an index"
            )
        for path in found:
            metadata_of(path)


def check_kind(content: Any, place: str) -> None:
    """Check that a configuration is of a kind of model that is supported.

    Raises:
        ModelError: it is not; the message names it.
    """
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind not in KINDS:
        is_what = f"has model_type {shown(repr(kind))}" if kind else "has no model_type, so it is not of transformers"
        raise ModelError(f"{shown(f'{place}/{CONFIG}')} {is_what}; supported are {', '.join(KINDS)}")


def _check_loaded(info: dict[str, Any], what: str) -> None:
    """Refuse weights that transformers fills with random numbers or leaves out, which it only warns of."""
    missing, left = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    shapes = sorted(str(each[0] if isinstance(each, tuple) else each) for each in info["mismatched_keys"])
    for names, problem in ((missing, "missing"), (shapes, "of another shape"), (left, "not expected")):
        if names:
            are = "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
            raise ModelError(
                f"the weights of {what} are not those of its {CONFIG}: {are} {problem}, such as {names[0]}"
            )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the logs and progress bars of transformers and of the hub."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # Python's CRITICAL
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
