"""Tiny models and data that tests make for themselves."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file

from headmask.mask import HeadGrid, HeadMask
from workers.data.dataset import Kind, Row, write_dataset

VISION = {"image_size": 28, "patch_size": 7, "width": 32, "layers": 3, "head_width": 8}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
CLASSES, TEMPLATES = ("cat", "dog", "red bus", "tree", "house", "boat"), ("a photo of a {c}.", "the {c}", "{c}")
PREPROCESS = {"size": 28, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"}


def tiny_clip(seed: int = 0, text: dict | None = None, std: float = 0.3, **vision) -> CLIP:
    """Return a CLIP with random weights in which every head matters, the more the larger `std`."""
    torch.manual_seed(seed)
    model = CLIP(embed_dim=24, vision_cfg={**VISION, **vision}, text_cfg={**TEXT, "vocab_size": 64, **(text or {})})
    std = std * (VISION["width"] / model.visual.conv1.out_channels) ** 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attn" in name and "norm" not in name and "ln" not in name:
                parameter.normal_(std=std)
    return model.requires_grad_(False).eval()


def random_masks(grid: HeadGrid, count: int, seed: int = 0) -> list[HeadMask]:
    """Return some distinct random masks, sorted."""
    rng = np.random.default_rng(seed)
    words = {tuple(rng.integers(1 << grid.heads, size=grid.layers).tolist()) for _ in range(4 * count)}
    return [HeadMask(grid, word) for word in sorted(words)[:count]]


def write_tiny_model(folder: Path, seed: int = 0, **vision) -> Path:
    """Write a model folder that `local-dir:` loads, with CLIP's own tokenizer."""
    folder.mkdir(parents=True)
    model = tiny_clip(seed, text=TEXT, **vision)
    config = {"embed_dim": 24, "vision_cfg": {**VISION, **vision}, "text_cfg": TEXT}
    preprocess = {**PREPROCESS, "size": config["vision_cfg"]["image_size"]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_chinese_model(folder: Path) -> Path:
    """Write a model folder whose text tower and tokenizer are Hugging Face's: XLM-RoBERTa, random and tiny."""
    from open_clip import create_model
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    folder.mkdir(parents=True)
    words = [*"一只猫坐在沙发上两个人骑马城市夜景张桌子晚的街道", "dog", "cat"]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(special + words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace("", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **names)
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = XLMRobertaConfig(vocab_size=len(special + words), max_position_embeddings=20, pad_token_id=1, **sizes)
    XLMRobertaModel(config).save_pretrained(folder / "text")
    text = {
        "hf_model_name": str(folder / "text"),
        "hf_tokenizer_name": str(folder),
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
        "context_length": 16,
    }
    content = {"model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text}, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    model = create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def tiny_rows(splits: dict[str, int], seed: int = 0):
    """Yield rows of random 28 x 28 images with two captions each."""
    rng = np.random.default_rng(seed)
    for split, count in splits.items():
        for index in range(count):
            image = io.BytesIO()
            Image.fromarray(rng.integers(256, size=(28, 28, 3), dtype=np.uint8)).save(image, "PNG")
            captions = (f"picture {index} of {split}", f"number {index} in {split} again")
            yield Row(f"{split}{index}.png", image.getvalue(), captions, split)


def write_tiny_dataset(path: Path, seed: int = 0, **splits: int) -> Path:
    """Write a data set of random images: 24 search, 20 confirm and 30 test unless told otherwise."""
    write_dataset(path, tiny_rows(splits or {"search": 24, "confirm": 20, "test": 30}, seed))
    return path


def write_task_datasets(folder: Path) -> Path:
    """Write `labels.parquet` with groups, `pairs.parquet` and `other.parquet` with captions, and return the folder."""
    rows = list(tiny_rows({"search": 24, "confirm": 20, "test": 30}, seed=1))
    labelled = [
        Row(row.path, row.image, split=row.split, label=number % 6, group="ab"[number % 5 == 0])
        for number, row in enumerate(rows)
    ]
    write_dataset(folder / "labels.parquet", labelled, Kind("classification", CLASSES, TEMPLATES, has_groups=True))
    paired = [Row(row.path, row.image, row.captions[:1], row.split, pair=n // 2) for n, row in enumerate(rows)]
    write_dataset(folder / "pairs.parquet", paired, Kind("matching"))
    write_tiny_dataset(folder / "other.parquet", seed=7)
    return folder


def make_tiny_config(files: tuple[Path, Path], folder: Path, **changes):
    """Return the configuration of a small inline search of a model on data, with changes by key: `budget__masks=20`."""
    from orchestrator.settings.config import read_config

    model, data = files
    flags = {
        "model.name": f"local-dir:{model}",
        "data.path": str(data),
        "output.folder": str(folder),
        "search.precheck": False,
        "search.precision": "float32",
        "search.image_chunk": 16,
        "search.random_masks": 4,
        "search.finalists": 4,
        "search.block_size": 8,
        "budget.masks": 40,
        "pool.kind": "inline",
    }
    return read_config(None, flags | {key.replace("__", "."): value for key, value in changes.items()})
