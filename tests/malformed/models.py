"""Models, checkpoints, configurations, preprocessing and mask files that are not what they should be."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.malformed.case import Case
from tests.tiny import PREPROCESS, TEXT, VISION, tiny_clip

CONFIG = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
FOLDER_CONFIG = "m/open_clip_config.json"
EXPORT = ["export", "--mask", "{mask}", "--out", "o"]
FILE = [*EXPORT, "--model", "my.json", "--pretrained", "w.pt"]
LISTED = [*EXPORT, "--model", "ViT-B-32", "--pretrained"]
LOCAL = [*EXPORT, "--model", "local-dir:m"]
HF = [*EXPORT, "--model", "hf-dir:m"]
HF_CONFIG = "m/config.json"


@cache
def state() -> dict[str, torch.Tensor]:
    """Return the weights of the tiny model."""
    return dict(tiny_clip(text=TEXT).state_dict())


def small(prefix: str = "", **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a few of its weights, enough to tell what they are of."""
    names = [name for name in state() if "resblocks" in name][:8]
    return {prefix + name: state()[name] for name in names} | changes


def saved(content: Any, name: str = "w.pt") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "my.json").write_text(json.dumps(CONFIG))
        torch.save(content() if callable(content) else content, folder / name)

    return make


def raw(content: bytes, name: str = "w.pt") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "my.json").write_text(json.dumps(CONFIG))
        (folder / name).write_bytes(content)

    return make


def config(content: Any, name: str = "my.json") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
        (folder / "w.pt").write_bytes(b"\x80\x02}.")

    return make


def model_folder(*files: str, preprocess: Any = PREPROCESS, **changes: Any) -> Callable[[Path], None]:
    """Make a folder as open_clip writes it, with checkpoints of some names."""

    def make(folder: Path) -> None:
        (folder / "m").mkdir()
        content = {"model_cfg": {**CONFIG, **changes}, "preprocess_cfg": preprocess}
        (folder / FOLDER_CONFIG).write_text(json.dumps(content))
        for name in files:
            if name.endswith(".safetensors"):
                save_file(state(), folder / "m" / name)
            else:
                torch.save(state(), folder / "m" / name)

    return make


def pruned(folder: Path) -> None:
    model_folder()(folder)
    save_file(small(), folder / "m" / "open_clip_model.safetensors", metadata={"headmask": "pruned"})


def carrying(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "my.json").write_text(json.dumps(CONFIG))
        save_file(small(), folder / "w.safetensors", metadata={"preprocess_cfg": text})

    return make


def archive(**files: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "my.json").write_text(json.dumps(CONFIG))
        with zipfile.ZipFile(folder / "w.pt", "w") as target:
            for name, text in files.items():
                target.writestr(name.replace("__", "/").replace("_pkl", ".pkl"), text)

    return make


def mask(**changes: Any) -> Callable[[Path], None]:
    """Make a mask file with changes."""

    def make(folder: Path) -> None:
        content = {
            "format": "headmask/1",
            "model": {"name": "ViT-B-32", "pretrained": "openai", "weights_sha256": "a" * 64},
            "grid": {"layers": 3, "heads": 4},
            "heads": ["L0H1"],
        }
        (folder / "mask.json").write_text(json.dumps(content | changes))

    return make


def without(*names: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state().items() if name not in names}


def not_finite() -> dict[str, torch.Tensor]:
    return state() | {"visual.proj": torch.full_like(state()["visual.proj"], float("nan"))}


def quantized() -> dict[str, torch.Tensor]:
    name = "visual.conv1.weight"
    return state() | {name: torch.ones(state()[name].shape, dtype=torch.int8)}


class Foreign:
    """An object that unpickling would have to make."""


OWN = ["eval", "--mask", "mask.json", "--data", "{data}"]
SEARCH = ["search", "--data", "{data}", "--out", "r", "--pool", "inline", "--masks", "4", "--json"]
JSON = ["--model", "my.json", "--pretrained", "w.pt"]
NESTED = "[" * 100_000


def scales(value: float) -> Callable[[Path], object]:
    """Write a scales file with a scale, of weights that are not here."""

    def write(folder: Path) -> None:
        content = {
            "format": "headmask-scales/1",
            "model": {"name": "ViT-B-32", "weights_sha256": "0" * 64},
            "grid": {"layers": 3, "heads": 4},
            "heads": {"L0H1": value},
        }
        (folder / "scales.json").write_text(json.dumps(content))

    return write


CASES = [
    # Names.
    Case(
        "several checkpoints of training",
        LOCAL,
        r"it holds epoch_10\.pt, epoch_9\.pt: pass --model .* --pretrained .*/FILE",
        make=model_folder("epoch_9.pt", "epoch_10.pt"),
    ),
    Case(
        "weights in three dictionaries",
        FILE,
        r"holds weights under checkpoint / model, .*\['checkpoint'\]\['model'\], 'weights.pt'\)",
        make=saved(lambda: {"checkpoint": {"model": state()}}),
    ),
    Case(
        "a size that is a text",
        LOCAL,
        r"(?s)malformed:\n  size: must be a valid integer, or must be a valid tuple, got '28'\n$",
        make=model_folder("open_clip_model.safetensors", preprocess={"size": "28"}),
    ),
    Case(
        "a preprocessing that is a list",
        LOCAL,
        r"malformed:\n  content: must be an object, got \[1\]",
        make=model_folder("open_clip_model.safetensors", preprocess=[1]),
    ),
    Case("an unknown architecture", [*SEARCH, "--model", "ViT-B-23"], r"no architecture 'ViT-B-23', did you mean ViT-"),
    Case("an empty name", [*SEARCH, "--model", ""], r"model\.name: must not be empty"),
    Case("a null byte in a name", [*SEARCH, "--model", "a\0b"], r"model\.name: .*null byte"),
    Case("half a surrogate pair in a name", [*SEARCH, "--model", "a\udcff"], r"model\.name: it has half of a surr"),
    Case("a checkpoint for a name", [*SEARCH, "--model", "x.pt"], r"a checkpoint file goes to --pretrained"),
    Case("a folder for a name", [*SEARCH, "--model", "m"], r"is a folder: pass local-dir:m", make=model_folder()),
    Case(
        "a repository for a name",
        [*SEARCH, "--model", "laion/CLIP"],
        r"the Hub.* is hf-hub:laion/CLIP|Hugging Face Hub",
    ),
    Case("no weights", [*SEARCH, "--model", "ViT-B-32"], r"ViT-B-32 needs weights: pass pretrained, a tag \(openai"),
    Case(
        "no weights for a file",
        [*SEARCH, "--model", "my.json"],
        r"needs weights: pass pretrained, a checkpoint file",
        make=config(CONFIG),
    ),
    Case("an unknown tag", [*LISTED, "laion2b"], r"got 'laion2b'.*, and there is no file /.*/laion2b"),
    Case(
        "a folder for weights",
        [*LISTED, "m"],
        r"/m is a folder: pass --model local-dir:/.*/m alone",
        make=model_folder(),
    ),
    Case(
        "a folder with weights of its own", [*LOCAL, "--pretrained", "w.pt"], r"brings its own weights; leave out pretr"
    ),
    Case("no such folder", [*EXPORT, "--model", "local-dir:none"], r"local-dir:/.*/none: .*; there is no such folder"),
    Case(
        "a folder of transformers for one of open_clip",
        LOCAL,
        r"local-dir:/.*/m: .*it is of transformers: pass hf-dir:/.*/m",
        make=config({"model_type": "clip"}, "m/config.json"),
    ),
    Case(
        "no such folder of transformers", HF, r"hf-dir:/.*/m: the folder must hold config\.json; there is no such fol"
    ),
    Case(
        "a file for a folder of transformers", [*EXPORT, "--model", "hf-dir:my.json"], r"it is a file", make=config({})
    ),
    Case("an empty name of a folder of transformers", [*EXPORT, "--model", "hf-dir:"], r"the folder must hold config"),
    Case(
        "a configuration of transformers that is no JSON", HF, r"config\.json is not JSON", make=config("{", HF_CONFIG)
    ),
    Case("a configuration of transformers that is a list", HF, r"has no model_type", make=config([1], HF_CONFIG)),
    Case(
        "a model of transformers of another kind",
        HF,
        r"m/config\.json has model_type 'blip'; supported are clip, chinese_clip, siglip, siglip2, clip_vision_model",
        make=config({"model_type": "blip"}, HF_CONFIG),
    ),
    Case(
        "a kind of model that is a number",
        HF,
        r"has model_type 7; supported",
        make=config({"model_type": 7}, HF_CONFIG),
    ),
    Case(
        "sizes of transformers that are texts",
        HF,
        r"cannot load the config\.json of the transformers model in .*hidden_size",
        make=config({"model_type": "clip", "vision_config": {"hidden_size": "wide"}}, HF_CONFIG),
    ),
    Case(
        "a folder of transformers without weights",
        [*HF, "--preprocess", "openai"],
        r"has no tokenizer: put its files beside config\.json",
        make=config({"model_type": "clip"}, HF_CONFIG),
    ),
    Case(
        "an architecture beside a folder of transformers",
        [*EXPORT, "--model", "ViT-B-32", "--pretrained", "m"],
        r"is a folder of transformers, which is a whole model: pass it without --model",
        make=config({"model_type": "clip"}, HF_CONFIG),
    ),
    Case("an empty folder name", [*EXPORT, "--model", "local-dir:"], r"the folder must hold open_clip_config.json"),
    Case("a file for a folder", [*EXPORT, "--model", "local-dir:my.json"], r"it is a file", make=config(CONFIG)),
    Case("a repository while offline", [*EXPORT, "--model", "hf-hub:a/b"], r"hf-hub:a/b .*HF_HUB_OFFLINE is set"),
    Case(
        "a malformed repository",
        [*EXPORT, "--model", "hf-hub:a/b/c d"],
        r"cannot get the open_clip_config.json of hf-hub",
    ),
    Case("an empty repository", [*EXPORT, "--model", "hf-hub:"], r"cannot get the open_clip_config.json of hf-hub:"),
    Case(
        "a model that is gone",
        OWN,
        r"made for local-dir:/gone, and there is nothing at /gone now: .*--model",
        make=mask(model={"name": "local-dir:/gone", "weights_sha256": "a" * 64}),
    ),
    Case(
        "an unknown model to time", ["bench", "engine", "--model", "ViT-B-23"], r"no architecture 'ViT-B-23', did you"
    ),
    Case(
        "heads of an unknown model",
        ["explain", "--data", "{data}", "--out", "o", "--heads", "L0H0", "--model", "V"],
        r"open_clip has no architecture 'V'",
    ),
    # Configurations.
    Case("no such configuration", [*EXPORT, *JSON], r"there is no model configuration at /.*/my.json"),
    Case(
        "a folder for a configuration",
        FILE,
        r"my.json is a folder; name a file",
        make=lambda f: (f / "my.json").mkdir(),
    ),
    Case("a pipe for a configuration", FILE, r"is a named pipe", make=lambda f: os.mkfifo(f / "my.json")),
    Case("a configuration that is no JSON", FILE, r"is not JSON", make=config("{")),
    Case("a configuration nested deep", FILE, r"nested too deep", make=config(NESTED)),
    Case("a configuration that is a list", FILE, r"must be a JSON object with model_cfg", make=config([1])),
    Case("a configuration without towers", FILE, r"missing (text_cfg|vision_cfg)", make=config({"embed_dim": 4})),
    Case("a tower that is a number", FILE, r"vision_cfg: must be", make=config(CONFIG | {"vision_cfg": 3})),
    Case("a width that is a text", FILE, r"vision_cfg.width", make=config(CONFIG | {"vision_cfg": {"width": "wide"}})),
    Case("a width that is true", FILE, r"vision_cfg.width", make=config(CONFIG | {"vision_cfg": {"width": True}})),
    Case("a huge width", FILE, r"vision_cfg.width.*100000", make=config(CONFIG | {"vision_cfg": {"width": 10**12}})),
    Case("no layers", FILE, r"text_cfg.layers", make=config(CONFIG | {"text_cfg": TEXT | {"layers": 0}})),
    Case(
        "an unknown key of a tower",
        FILE,
        r"vision_cfg has an unknown key widht, did you mean width",
        make=config(CONFIG | {"vision_cfg": VISION | {"widht": 3}}),
    ),
    Case("an unknown key", FILE, r"embed_dims", make=config(CONFIG | {"embed_dims": 3})),
    Case(
        "heads that do not divide",
        FILE,
        r"width must be a multiple of heads; got 16 and 3",
        make=config(CONFIG | {"text_cfg": TEXT | {"heads": 3}}),
    ),
    Case(
        "a patch larger than the image",
        FILE,
        r"patch_size must not be larger than image_size; got 512 and 28",
        make=config(CONFIG | {"vision_cfg": VISION | {"patch_size": 512}}),
    ),
    Case("a folder's configuration without model_cfg", LOCAL, r"missing", make=config({"a": 1}, FOLDER_CONFIG)),
    Case(
        "a model_cfg that is a text",
        LOCAL,
        r"must be a JSON object with model_cfg",
        make=config({"model_cfg": "x"}, FOLDER_CONFIG),
    ),
    Case(
        "preprocessing that is a list",
        LOCAL,
        r"preprocess_cfg of .* is malformed",
        make=model_folder("model.safetensors", preprocess=[1]),
    ),
    Case(
        "a mean of two numbers",
        LOCAL,
        r"preprocess_cfg.*\n.*mean",
        make=model_folder("model.safetensors", preprocess={"mean": [0, 1]}),
    ),
    Case(
        "a deviation of nothing",
        LOCAL,
        r"preprocess_cfg.*\n.*std",
        make=model_folder("model.safetensors", preprocess={"std": 0}),
    ),
    # Folders.
    Case("a folder without weights", LOCAL, r"has no weights: open_clip looks for", make=model_folder()),
    Case(
        "a folder with a .pt",
        LOCAL,
        r"it holds epoch_9.pt: pass --model /.*/open_clip_config.json --pretrained /.*/epoch_9.pt",
        make=model_folder("epoch_9.pt"),
    ),
    Case(
        "a folder with several checkpoints",
        LOCAL,
        r"holds 2 checkpoints, epoch_10.pth, epoch_9.pth: keep one there, or name one: --model .*FILE",
        make=model_folder("epoch_9.pth", "epoch_10.pth"),
    ),
    Case(
        "a folder with parts", LOCAL, r"parts of one", make=model_folder("m-00001-of-00002.bin", "m-00002-of-00002.bin")
    ),
    Case("a pruned model", LOCAL, r"is a pruned model, .*headmask.load_pruned loads it", make=pruned),
    # Files.
    Case("an empty checkpoint", FILE, r"w.pt is empty", make=raw(b"")),
    Case(
        "a pointer of Git LFS",
        FILE,
        r"a pointer of Git LFS.*git lfs pull",
        make=raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"),
    ),
    Case(
        "a pointer that ends in .safetensors",
        [*LISTED, "w.safetensors"],
        r"a pointer of Git LFS",
        make=raw(b"version https://git-lfs.github.com/spec/v1\n", "w.safetensors"),
    ),
    Case("a web page", FILE, r"is a web page", make=raw(b"\n<!DOCTYPE html><html>")),
    Case("a JSON file", FILE, r"is a JSON file, not a checkpoint", make=raw(b'{"weight_map": {}}')),
    Case("a text", FILE, r"is not a checkpoint: neither torch nor safetensors wrote it", make=raw(b"hello, world")),
    Case("a compressed checkpoint", FILE, r"compressed by gzip; unpack it", make=raw(gzip.compress(b"x"))),
    Case("a tar archive", FILE, r"is a tar archive", make=raw(b"a".ljust(257, b"\0") + b"ustar\0".ljust(300, b"\0"))),
    Case("a GGUF file", FILE, r"GGUF", make=raw(b"GGUF\3\0\0\0")),
    Case("a ZIP of something", FILE, r"is a ZIP archive without a checkpoint", make=archive(readme="x")),
    Case(
        "a TorchScript archive",
        FILE,
        r"is a TorchScript archive \(JIT\).*torch.jit.load",
        make=archive(m__constants_pkl="x"),
    ),
    Case("a ZIP that is cut off", FILE, r"is damaged or was cut off", make=raw(b"PK\x03\x04" + b"\0" * 60)),
    Case("a pickle that is cut off", FILE, r"is damaged or was cut off|holds no weights", make=raw(b"\x80\x02}q\0(X")),
    Case(
        "safetensors that end in .pt",
        FILE,
        r"is a safetensors file: rename it",
        make=lambda f: (config(CONFIG)(f), save_file(small(), f / "w.pt")),
    ),
    Case(
        "torch.save that ends in .safetensors",
        [*LISTED, "w.safetensors"],
        r"written by torch.save: rename it",
        make=saved(small, "w.safetensors"),
    ),
    Case(
        "safetensors that are cut off",
        [*LISTED, "w.safetensors"],
        r"is damaged or was cut off",
        make=raw(b"\xff\0\0\0\0\0\0\0{", "w.safetensors"),
    ),
    Case(
        "a pipe for a checkpoint",
        [*LISTED, "w.pt"],
        r"checkpoint /.*w.pt is a named pipe",
        make=lambda f: os.mkfifo(f / "w.pt"),
    ),
    Case(
        "a link to itself for a checkpoint",
        [*LISTED, "w.pt"],
        r"there is no file|too many|[Ll]ink",
        make=lambda f: (f / "w.pt").symlink_to("w.pt"),
    ),
    # What is in them.
    Case(
        "a checkpoint with an object",
        FILE,
        r"holds more than weights, an object of .*Foreign",
        make=saved({"a": Foreign()}),
    ),
    Case("a list of tensors", FILE, r"holds an object of type list, not weights by name", make=saved([torch.zeros(1)])),
    Case("nothing in a checkpoint", FILE, r"holds no weights: there is nothing", make=saved({})),
    Case(
        "a step without weights",
        FILE,
        r"holds no weights: there is epoch, optimizer",
        make=saved({"epoch": 1, "optimizer": {}}),
    ),
    Case(
        "averaged weights alone",
        FILE,
        r"holds weights under state_dict_ema, and none under state_dict.*averaged",
        make=saved(lambda: {"state_dict_ema": small(), "epoch": 3}),
    ),
    Case(
        "two models in a file",
        FILE,
        r"holds weights under student, teacher",
        make=saved(lambda: {"student": small(), "teacher": small()}),
    ),
    Case(
        "a number among weights",
        FILE,
        r"holds epoch, an object of type int, among its weights",
        make=saved(lambda: small() | {"epoch": 3}),
    ),
    Case(
        "a checkpoint of transformers",
        FILE,
        r"Hugging Face's transformers \(text_model.*pass --model hf-dir:FOLDER alone",
        make=saved(
            lambda: {f"{kind}_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2) for kind in ("text", "vision")}
        ),
    ),
    Case(
        "adapters", FILE, r"LoRA adapters: merge them", make=saved(lambda: {"visual.a.lora_A.weight": torch.zeros(2)})
    ),
    Case(
        "one tower",
        FILE,
        r"holds one tower",
        make=saved(lambda: {"blocks.0.attn.qkv.weight": torch.zeros(2), "pos_embed": torch.zeros(2)}),
    ),
    Case("quantized weights", FILE, r"is quantized: visual.conv1.weight is of torch.int8", make=saved(quantized)),
    Case(
        "weights that are no numbers", FILE, r"no numbers \(NaN or infinite\), in visual.proj", make=saved(not_finite)
    ),
    Case(
        "a missing tensor",
        FILE,
        r"1 tensor is missing, such as visual.proj",
        make=saved(lambda: without("visual.proj")),
    ),
    Case(
        "a tensor too many",
        FILE,
        r"1 tensor is not expected, such as head.weight",
        make=saved(lambda: state() | {"head.weight": torch.zeros(2)}),
    ),
    Case(
        "a tensor of another shape",
        FILE,
        r"1 tensor has another shape, such as visual.proj \(2, 2 in the file, 32, 24 in the model\)",
        make=saved(lambda: state() | {"visual.proj": torch.zeros(2, 2)}),
    ),
    Case(
        "a prefix on some names",
        FILE,
        r"some names, .* begin with model\., .*others, such as loss.scale",
        make=saved(
            lambda: {"pytorch-lightning_version": "2", "state_dict": small("model.") | {"loss.scale": torch.zeros(1)}}
        ),
    ),
    # Preprocessing.
    Case(
        "unknown preprocessing",
        [*EXPORT, "--preprocess", "imagenet"],
        r"--preprocess must be a pretrained tag .*got 'imagenet'",
    ),
    Case("no such preprocessing", [*EXPORT, "--preprocess", "p.json"], r"there is no preprocessing at p.json"),
    Case(
        "preprocessing of another kind",
        [*EXPORT, "--preprocess", "p.json"],
        r"must be a JSON object of size, mode, mean",
        make=config([], "p.json"),
    ),
    Case(
        "an unknown key of preprocessing",
        [*EXPORT, "--preprocess", "p.json"],
        r"unknown key men, did you mean mean",
        make=config({"men": 1}, "p.json"),
    ),
    Case(
        "another size",
        [*EXPORT, "--preprocess", "p.json"],
        r"of 9 x 9 pixels, and the model takes 28 x 28",
        make=config({"size": 9}, "p.json"),
    ),
    Case(
        "another preprocessing than the mask's",
        [*EXPORT, "--preprocess", "openai"],
        r"with other preprocessing .*: mean 0.48",
    ),
    Case(
        "tags that differ",
        [*SEARCH, "--model", "ViT-L-14", "--pretrained", "w.pt"],
        r"how images are prepared for ViT-L-14 .* is unknown.*--preprocess .*openai \(as 10 others\) or laion2b_s32b",
        make=saved(small),
    ),
    Case(
        "carried preprocessing that is no JSON",
        [*EXPORT, "--model", "my.json", "--pretrained", "w.safetensors"],
        r"is not JSON",
        make=carrying("{"),
    ),
    Case(
        "carried preprocessing of another kind",
        [*EXPORT, "--model", "my.json", "--pretrained", "w.safetensors"],
        r"is malformed",
        make=carrying('{"mean": "red"}'),
    ),
    # Mask files.
    Case("no mask file", OWN, r"there is no mask file at mask.json"),
    Case("a folder for a mask file", OWN, r"mask file mask.json is a folder", make=lambda f: (f / "mask.json").mkdir()),
    Case("a mask file that is no JSON", OWN, r"mask file mask.json is not JSON", make=config("nonsense", "mask.json")),
    Case("a mask file nested deep", OWN, r"nested too deep", make=config(NESTED, "mask.json")),
    Case(
        "another format",
        OWN,
        r"or 'headmask-scales/1'; got 'headmask/7'",
        make=mask(format="headmask/7"),
    ),
    Case(
        "a mask's format that is a list",
        OWN,
        r"'headmask/1' or 'headmask-scales/1'; got \[",
        make=mask(format=[1]),
    ),
    Case("a head beyond the grid", OWN, r"L9H9 is not on grid 3x4", make=mask(heads=["L9H9"])),
    Case("a head of 5,000 digits", OWN, r"heads", make=mask(heads=["L" + "9" * 5000 + "H0"])),
    Case("heads that are a number", OWN, r"heads: must be", make=mask(heads=7)),
    Case(
        "a grid of 10^12 layers", OWN, r"grid.layers: must be less than", make=mask(grid={"layers": 10**12, "heads": 4})
    ),
    Case("a grid of true", OWN, r"grid.layers: must be", make=mask(grid={"layers": True, "heads": 4})),
    Case(
        "a mean of an infinite number",
        OWN,
        r"too large for a number|mask file",
        make=lambda f: (
            mask()(f),
            (f / "mask.json").write_text('{"format": "headmask/1", "means": {"L0H1": [1e999]}}'),
        ),
    ),
    Case("a mean that is no number", OWN, r"means.L0H1.0", make=mask(ablation="mean", means={"L0H1": ["x"]})),
    Case(
        "a mean of a head beyond the grid",
        OWN,
        r"L8H0 is not on grid",
        make=mask(ablation="mean", means={"L0H1": [1], "L8H0": [1]}),
    ),
    Case("a score that is true", OWN, r"scores", make=mask(scores={"test": {"baseline": {"a": True}, "selected": {}}})),
    Case("a number of 5,000 digits", OWN, r"digits", make=config('{"format": ' + "9" * 5000 + "}", "mask.json")),
    Case("a model that is a text", OWN, r"model: ", make=mask(model="ViT-B-32")),
    Case(
        "a mask of other weights",
        [*OWN, "--model", "local-dir:{model}"],
        r"made for ViT-B-32 \(openai\) with weights aaaa",
        make=mask(),
    ),
    Case(
        "scales of nothing",
        ["eval", "--scales", "scales.json", "--data", "{data}"],
        r"there is no scales file at scales.json",
    ),
    Case(
        "neither a mask nor scales to evaluate",
        ["eval", "--data", "{data}"],
        r"name a mask file with --mask, or a scales file with --scales",
    ),
    Case(
        "neither a mask nor scales to export",
        ["export", "--out", "o"],
        r"name a mask file with --mask, or a scales file with --scales",
    ),
    Case(
        "a mask and scales to export",
        ["export", "--mask", "{mask}", "--scales", "{mask}", "--out", "o"],
        r"either a mask file with --mask, or a scales file with --scales; got both",
    ),
    Case(
        "scales beyond their range",
        ["export", "--scales", "scales.json", "--out", "o"],
        r"heads.L0H1: must be less than or equal to 3, got 4",
        make=scales(4),
    ),
    Case(
        "scales of other weights",
        ["eval", "--scales", "scales.json", "--model", "local-dir:{model}", "--data", "{data}"],
        r"these scales were made for ViT-B-32 with weights 0000",
        make=scales(0.5),
    ),
    Case(
        "explain without a mask file",
        ["explain", "--mask", "mask.json", "--data", "{data}", "--out", "o"],
        r"no mask file at",
    ),
    Case(
        "export without a mask file", ["export", "--mask", "x/mask.json", "--out", "o"], r"no mask file at x/mask.json"
    ),
]
