"""The code of a registered model, logged with it; it needs mlflow, torch and open_clip, and nothing of headmask.

    model = mlflow.pyfunc.load_model("models:/NAME@ALIAS")
    model.predict(pandas.DataFrame({"text": ["a red bicycle"], "image": [open("bicycle.jpg", "rb").read()]}))

Input: rows with a `text`, an `image`, or both. An image is the bytes of a file, PNG, JPEG or whatever Pillow opens, or
these bytes in base64, as JSON has them. Paths are not taken: a server must not open files that its callers name.

Output: a row for each, with `text_embedding` and `image_embedding`, L2-normalised, and `similarity`, their dot product;
None where the row lacks what it takes.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from PIL import Image

# R rows, B rows of a batch, E embedding


class ClipEmbedder(PythonModel):  # type: ignore[misc]
    """Embeds texts and images with a CLIP model whose weights have the mask folded in."""

    _skip_type_hint_validation = True
    """For MLflow: what goes in is described by the signature; without this, loading warns."""

    def load_context(self, context: Any) -> None:
        """Load the model, on a GPU where there is one."""
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        name = f"local-dir:{context.artifacts['model']}"
        self._clip, _, self._preprocess = open_clip.create_model_and_transforms(name, device=self._device)
        self._clip.eval()
        if _pixel_rule(context.artifacts["model"]) == "composited":
            # Logged beside this file; the images that the mask was searched on became RGB by it.
            from composited_pixels import composited  # type: ignore[import-not-found]

            self._rgb = composited
        else:
            self._rgb = _loaded
        self._tokenizer = open_clip.get_tokenizer(name)

    # No hint for model_input: MLflow would take it for the signature, which is logged with the model.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Return embeddings and similarities, row by row.

        Args:
            context: of MLflow.
            model_input: a DataFrame, a list of dictionaries or a dictionary of lists, with `text`, `image` or both.
            params: `batch_size`, rows computed together; 64 by default.

        Raises:
            ValueError: there is neither a `text` nor an `image` column, or an image cannot be read.
        """
        table = _table(model_input)
        if not {"text", "image"} & set(table.columns):
            raise ValueError(f"there must be a column text, image or both; got {', '.join(map(str, table.columns))}")
        size = int((params or {}).get("batch_size", 64))
        texts, images = (list(table[name]) if name in table else [None] * len(table) for name in ("text", "image"))
        text_R = self._embed(texts, self._embed_texts, size)
        image_R = self._embed(images, self._embed_images, size)
        similarity = [
            None if text_E is None or image_E is None else float(text_E @ image_E)
            for text_E, image_E in zip(text_R, image_R, strict=True)
        ]
        columns = {"text_embedding": text_R, "image_embedding": image_R, "similarity": similarity}
        return pd.DataFrame(columns, dtype=object, index=table.index)

    def _embed(self, items: list[Any], embed: Any, size: int) -> list[np.ndarray | None]:
        """Return the embeddings of a column, with None for empty cells."""
        found: list[np.ndarray | None] = [None] * len(items)
        rows = [row for row, item in enumerate(items) if not _is_missing(item)]
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            with torch.inference_mode():
                embedding_BE = F.normalize(embed([items[row] for row in batch], batch), dim=-1)
            for row, embedding_E in zip(batch, embedding_BE.float().cpu().numpy(), strict=True):
                found[row] = embedding_E
        return found

    def _embed_texts(self, texts: list[str], rows: list[int]) -> torch.Tensor:
        return self._clip.encode_text(self._tokenizer(texts).to(self._device))  # type: ignore[no-any-return]

    def _embed_images(self, images: list[Any], rows: list[int]) -> torch.Tensor:
        pixels = [self._pixels(image, row) for image, row in zip(images, rows, strict=True)]
        return self._clip.encode_image(torch.stack(pixels).to(self._device))  # type: ignore[no-any-return]

    def _pixels(self, image: Any, row: int) -> torch.Tensor:
        """Return the model's input for an image, from its file's bytes, plain or in base64."""
        try:
            content = base64.b64decode(image, validate=True) if isinstance(image, str) else bytes(image)
            # As it is opened: a transform of open_clip resizes before it converts to RGB.
            with Image.open(io.BytesIO(content)) as opened:
                return self._preprocess(self._rgb(opened))  # type: ignore[no-any-return]
        # Pillow's plugins raise anything on broken files.
        except Exception as error:
            reason = "it must be the bytes of an image file, or base64 of them"
            raise ValueError(f"image of row {row} cannot be read: {reason} ({error})") from None


def _table(model_input: Any) -> pd.DataFrame:
    """Return the input as rows. MLflow makes one row of a dictionary, of one with lists, too."""
    table = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame(model_input)
    is_packed = len(table) == 1 and all(isinstance(cell, list | tuple | np.ndarray) for cell in table.iloc[0])
    return table.explode(list(table.columns), ignore_index=True) if is_packed else table


def _is_missing(item: Any) -> bool:
    return item is None or (isinstance(item, float) and np.isnan(item))


def _pixel_rule(folder: str) -> str:
    """Return how images became RGB when the mask was searched."""
    content = json.loads(Path(folder, "open_clip_config.json").read_text(encoding="utf-8"))
    return str(content.get("headmask", {}).get("pixels", "stock"))


def _loaded(image: Image.Image) -> Image.Image:
    image.load()
    return image


set_model(ClipEmbedder())
