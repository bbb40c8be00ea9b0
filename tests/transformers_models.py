"""Tiny models of Hugging Face's transformers that tests make: random weights in which every head matters."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

WORDS = [
    *"一只猫坐在沙发上两个人骑马城市夜景",
    "a",
    "picture",
    "of",
    "photo",
    "dog",
    "cat",
    "the",
    "number",
    "in",
    "again",
]
VISION = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
KINDS = ("clip", "siglip", "siglip2", "chinese_clip", "clip_vision_model", "clip_vision_model alone")


def write_transformers_model(
    folder: Path,
    kind: str = "clip",
    *,
    seed: int = 0,
    vision: dict | None = None,
    text: dict | None = None,
    **save: Any,
) -> Path:
    """Write a folder with a model, its image processor and its tokenizer; `save` goes to `save_pretrained`."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind != "clip_vision_model" and not kind.endswith("alone"):
            text = {"vocab_size": _write_tokenizer(folder, kind), **TEXT, **(text or {})}
        model = _model(kind, {**VISION, **(vision or {})}, text or {})
        _lively(model)
        model.save_pretrained(folder, **save)
        _processor(kind).save_pretrained(folder)
    return folder


def _model(kind: str, vision: dict[str, Any], text: dict[str, Any]) -> Any:
    import transformers as hf

    if kind == "clip":
        eos = text["vocab_size"] - 1
        text = {"eos_token_id": eos, "bos_token_id": eos - 1, "pad_token_id": eos, **text}
        return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20))
    if kind == "chinese_clip":
        vision = {**vision, "hidden_act": "quick_gelu"}
        return hf.ChineseCLIPModel(hf.ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=20))
    if kind == "siglip":
        text = {
            "hidden_size": 32,
            "pad_token_id": 1,
            "eos_token_id": 1,
            "bos_token_id": 0,
            **text,
            "projection_size": 32,
        }
        return hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=vision))
    if kind == "siglip2":
        text = {**text, "pad_token_id": 1, "eos_token_id": 1, "bos_token_id": 0, "projection_size": 32}
        vision = {**vision, "num_patches": 16}
        del vision["image_size"]
        return hf.Siglip2Model(hf.Siglip2Config(text_config=text, vision_config=vision))
    alone = kind.endswith("alone")
    config = hf.CLIPVisionConfig(**vision, projection_dim=20)
    return hf.CLIPVisionModel(config) if alone else hf.CLIPVisionModelWithProjection(config)


def _processor(kind: str) -> Any:
    import transformers as hf

    colours = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    if kind == "siglip":
        return hf.SiglipImageProcessor(size={"height": 28, "width": 28}, **colours)
    if kind == "siglip2":
        return hf.Siglip2ImageProcessor(patch_size=7, max_num_patches=16, **colours)
    sides = {"height": 28, "width": 28}
    if kind == "chinese_clip":  # The only kind of size that transformers 4.55 resizes to.
        return hf.ChineseCLIPImageProcessor(size=sides, do_center_crop=False, **colours)
    return hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=sides, **colours)


def _write_tokenizer(folder: Path, kind: str) -> int:
    """Write a tokenizer as models of a kind have it, and return the size of its vocabulary."""
    import transformers as hf
    from tokenizers import pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    if kind == "clip":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
        numbers = json.dumps({name: n for n, name in enumerate(names)})
        _save(hf.CLIPTokenizer, {"vocab.json": numbers, "merges.txt": "#version: 0.2\n"}, folder)
        return len(names)
    if kind == "chinese_clip":
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        _save(hf.BertTokenizer, {"vocab.txt": "".join(f"{name}\n" for name in names)}, folder)
        return len(names)
    return _write_siglip_tokenizer(folder)


def _save(kind: Any, files: dict[str, str], folder: Path) -> None:
    """Write the tokenizer that is in some files, which every version of transformers reads."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in files.items():
            Path(scratch, name).write_text(text)
        kind.from_pretrained(scratch, model_max_length=16).save_pretrained(folder)


def pooled(output: Any) -> torch.Tensor:
    """Return the embeddings that `get_image_features` and its kin return: alone before transformers 5."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _write_siglip_tokenizer(folder: Path) -> int:
    """Write a tokenizer that ends texts with what it pads with, and does not say what is padding, as SigLIP's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "</s>", "<pad>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=16,
        model_input_names=["input_ids"],
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
    )
    fast.save_pretrained(folder)
    return len(names)


def _lively(model: Any) -> None:
    """Give attention and positions a size at which every head and every token changes the embedding."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attn" in name or "attention" in name or "position" in name or "probe" in name or "head" in name:
                parameter.normal_(std=0.3)
            if "logit_scale" in name:
                parameter.fill_(2.0)
            if "logit_bias" in name:
                parameter.fill_(-7.0)
