"""A model's own open_clip preprocessing, split where pixels are still whole numbers.

open_clip's evaluation transform resizes, crops, and only then divides uint8 by 255 and normalises; so the uint8 crop is
a lossless cache of everything that is slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headmask.errors import ModelError


class UInt8Preprocess:
    """The part of a transform before the tensor: PIL image to uint8 (3, Y, X).

    Args:
        transform: what open_clip returns as `preprocess_val`.

    Raises:
        ModelError: the transform does not end in to-tensor and normalise.
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        steps = list(getattr(transform, "transforms", []))
        names = [type(step).__name__ for step in steps[-2:]]
        if len(names) < 2 or not names[0].endswith("ToTensor") or names[1] != "Normalize":
            raise ModelError(
                f"preprocessing must end in ToTensor and Normalize; this model's ends in {names or transform!r}"
            )
        self._steps = steps[:-2]
        self.mean: NDArray[np.float32] = np.array(steps[-1].mean, dtype=np.float32)
        self.std: NDArray[np.float32] = np.array(steps[-1].std, dtype=np.float32)
        self.description = re.sub(r" at 0x[0-9a-f]+", "", "; ".join(map(repr, steps)))
        """The transform as text, the same for the same transform."""
        self.shape: tuple[int, int, int] = self(Image.new("RGB", (8, 8))).shape

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the crop of an RGB image as uint8 (3, Y, X)."""
        for step in self._steps:
            image = step(image)
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
