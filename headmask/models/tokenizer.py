"""The tokenizer of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import open_clip
from torch import Tensor

from headmask.border.home import hub_cache
from headmask.border.reading import is_file
from headmask.border.schemes import FOLDER
from headmask.models.configuration import as_folder
from headmask.models.hf.conversion import tokenizer_of as transformers_tokenizer
from headmask.models.origin import absolute, full_name, is_config_file, source_of

_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
"""Any of these in a folder is a tokenizer's."""


def make_tokenizer(name: str, config: Mapping[str, Any]) -> Callable[..., Tensor]:
    """Return the tokenizer of a model: texts to token ids (Q, T). Raises any error of open_clip and transformers."""
    if (source := source_of(name)) is not None:
        return transformers_tokenizer(source)
    if not is_config_file(name):
        made: Callable[..., Tensor] = open_clip.get_tokenizer(full_name(name), cache_dir=hub_cache())
        return made
    text = config["text_cfg"]
    if not (source := text.get("hf_tokenizer_name")):
        with as_folder(config) as folder:
            made = open_clip.get_tokenizer(f"{FOLDER}{folder}")
        return made
    folder = absolute(name).parent
    made = open_clip.tokenizer.HFTokenizer(
        str(folder) if any(is_file(folder / file) for file in _FILES) else source,
        context_length=text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
        tokenizer_mode=text.get("tokenizer_mode"),
        cache_dir=hub_cache(),
        **(text.get("tokenizer_kwargs") or {}),
    )
    return made
