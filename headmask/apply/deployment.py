"""What deploying ONNX models needs to know: how inputs are prepared, as a file and as code for the model card."""

from __future__ import annotations

import textwrap
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from headmask.apply.onnx import INPUTS, OUTPUT
from headmask.border.kinds import IMAGE_ONNX, TEXT_ONNX
from headmask.models.hf.reading import FolderTokenizer
from headmask.models.loading import LoadedModel
from headmask.pixels.images import STOCK
from headmask.pixels.preprocessing import Preprocessing

FORMAT = "headmask-onnx/1"
_RESIZED = {
    "shortest": """\
short, side = min(image.size), {width}
sizes = [side if size == short else int(side * size / short) for size in image.size]
image = image.resize(sizes, Image.Resampling.{interpolation})
left, top = (round((size - side) / 2) for size in image.size)
image = image.crop((left, top, left + side, top + side))""",
    "squash": "image = image.resize(({width}, {height}), Image.Resampling.{interpolation})",
}
_PILLOW = """\
import numpy as np
import onnxruntime
from PIL import Image


def pixel_values(image):
    \"\"\"Return an image, as Pillow opens it, as the model takes it.\"\"\"
{resized}
    values = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    mean, std = np.float32({mean}), np.float32({std})
    return ((values - mean) / std).transpose(2, 0, 1)

"""
_OPEN_CLIP = """\
import numpy as np
import onnxruntime
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

pixel_values = image_transform_v2(PreprocessCfg(**{changes}), is_train=False)
"""
_IMAGE = """
session = onnxruntime.InferenceSession("PATH/image.onnx")  # of this folder
images = np.stack([pixel_values(Image.open("photo.jpg"))])
(image_embeddings,) = session.run(["embeddings"], {"pixel_values": images})
"""
_TOKENIZERS = {
    True: """
import transformers

tokenizer = transformers.AutoTokenizer.from_pretrained("PATH")
padded = {{"padding": "max_length", "truncation": True, "max_length": {length}}}
tokens = tokenizer(["a photo of a dog"], **padded, return_tensors="np")["input_ids"].astype(np.int64)
""",
    False: """
import open_clip  # for its tokenizer alone

tokens = open_clip.get_tokenizer("local-dir:PATH")(["a photo of a dog"]).numpy()
""",
}
_TEXT = """\
session = onnxruntime.InferenceSession("PATH/text.onnx")
(text_embeddings,) = session.run(["embeddings"], {"input_ids": tokens})

images = image_embeddings / np.linalg.norm(image_embeddings, axis=-1, keepdims=True)
texts = text_embeddings / np.linalg.norm(text_embeddings, axis=-1, keepdims=True)
cosine = texts @ images.T
"""
_COMPOSITED = """

Images were scored *composited*: upright, on white, scaled to 8 bits. For images that are transparent, turned by EXIF,
of more than 8 bits, or otherwise neither 8-bit RGB nor gray, `headmask.pixels.compositing.composited(image)` comes
first."""


def has_texts(model: LoadedModel) -> bool:
    """Return whether a model has a text tower."""
    return model.source is None or model.source.has_texts


def tokens_of(model: LoadedModel, texts: list[str]) -> Tensor:
    """Return token ids (Q, T) of the model's full text length, which is that of its ONNX model."""
    tokens, tokenizer = model.tokenizer(texts), model.tokenizer
    if isinstance(tokenizer, FolderTokenizer):  # May leave out what is padding in all texts.
        padding = tokenizer.context_length - tokens.shape[1]
        tokens = F.pad(tokens, (0, padding), value=tokenizer.tokenizer.pad_token_id)
    return tokens


def config_of(model: LoadedModel, pixels: str, files: list[str]) -> dict[str, Any]:
    """Return what `onnx_config.json` holds: the names of inputs and outputs, and how inputs are prepared.

    Args:
        model: the model that was exported.
        pixels: the pixel rule under which its images were scored.
        files: names of the files in the folder that belong to the models.
    """
    bias = getattr(model.clip, "logit_bias", None)
    image = {"file": IMAGE_ONNX, "input": INPUTS[IMAGE_ONNX], "pixels": pixels}
    content = {
        "format": FORMAT,
        "output": OUTPUT,
        "image": image | {"preprocess": model.preprocessing.model_dump(mode="json")},
    }
    if has_texts(model):
        length = tokens_of(model, ["a"]).shape[1]
        content["text"] = {"file": TEXT_ONNX, "input": INPUTS[TEXT_ONNX], "context_length": length}
        content["similarity"] = {"scale": model.scale, "bias": None if bias is None else float(bias)}
    return content | {"files": files}


def loading(model: LoadedModel, pixels: str) -> str:
    """Return the part of a model card that says how the ONNX models are run, with code that runs."""
    prepared, code = model.preprocessing, _preparing(model.preprocessing) + _IMAGE
    height, width = prepared.size
    said = f"Images: {prepared}. `image.onnx` takes any number of them, float32 `(N, 3, {height}, {width})`."
    if has_texts(model):
        length = tokens_of(model, ["a"]).shape[1]
        code += _TOKENIZERS[model.source is not None].format(length=length) + _TEXT
        said += f" `text.onnx` takes any number of texts, int64 `(N, {length})`. {_similarity(model)}"
    text = (
        "ONNX Runtime runs these models without torch, open_clip or headmask. Embeddings are not normalised.\n\n"
        f"{said}\n\n```python\n{code.strip()}\n```\n\nThe same as data: `onnx_config.json`."
    )
    return text if pixels == STOCK else text + _COMPOSITED


def _preparing(how: Preprocessing) -> str:
    """Return code that defines `pixel_values`: with Pillow and numpy alone where open_clip resizes as Pillow does."""
    height, width = how.size
    if how.resize_mode not in _RESIZED or (how.resize_mode == "shortest" and height != width):
        changes = {"size": how.size, **how.changes()}
        return _OPEN_CLIP.format(changes=changes)
    resized = _RESIZED[how.resize_mode].format(height=height, width=width, interpolation=how.interpolation.upper())
    return _PILLOW.format(resized=textwrap.indent(resized, "    "), mean=list(how.mean), std=list(how.std))


def _similarity(model: LoadedModel) -> str:
    bias = getattr(model.clip, "logit_bias", None)
    if bias is None:
        return f"Probabilities are the softmax of {model.scale:.6g} times the cosine."
    return f"Probabilities are the sigmoid of {model.scale:.6g} times the cosine {float(bias):+.6g}."
