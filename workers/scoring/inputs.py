"""A tower's inputs: images or texts of a split, chunk by chunk, ready on its device."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headmask.tower.views import TextView, TowerView
from workers.data.ahead import ahead
from workers.data.pixels import Pixels

# N images or texts, T tokens, C channels, Y by X pixels

Part = slice | NDArray[np.int64]
RESIDENT_SHARE = 0.25
"""Maximum share of a GPU's free memory for a split's pixels; larger splits are uploaded chunk by chunk."""


@dataclass(frozen=True)
class Normalisation:
    """The last step of a model's preprocessing: (uint8 / 255 - mean) / std per channel."""

    mean_3: NDArray[np.float32]
    std_3: NDArray[np.float32]

    def __call__(self, pixels_NCYX: NDArray[np.uint8] | Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Return normalised float32 images on a device; only bytes are uploaded."""
        if not isinstance(pixels_NCYX, Tensor):
            pixels_NCYX = torch.from_numpy(np.ascontiguousarray(pixels_NCYX))
        images = pixels_NCYX.to(device, non_blocking=True).float().div_(255)
        mean, std = (torch.from_numpy(part).to(device).view(1, 3, 1, 1) for part in (self.mean_3, self.std_3))
        return images.sub_(mean).div_(std)


def shared_tensor(array: NDArray) -> Tensor:
    """Return a read-only tensor that shares an array's memory, so that a host's replicas share what they were sent."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


class Inputs(ABC):
    """The images or texts of a split."""

    order_N: NDArray[np.int64]
    """The row of each input in the order in which they are computed."""

    def __len__(self) -> int:
        return len(self.order_N)

    def first(self, count: int) -> Inputs:
        """Return the inputs that are computed first."""
        fewer = copy.copy(self)
        fewer.order_N = self.order_N[:count]
        return fewer

    def take(self, part: Part) -> Tensor:
        """Return a part of the inputs, by places in `order_N`, in the form that the tower's `embed` expects."""
        return self._on_device(self._fetch(part))

    def stream(self, parts: Sequence[slice]) -> Iterator[Tensor]:
        """Yield slices as `take` returns them; the next one is read during the computation with this one."""
        return map(self._on_device, ahead(self._fetch, parts, threads=1, per_thread=1))

    @abstractmethod
    def _fetch(self, part: Part) -> Tensor:
        """Return a part from wherever it is kept; runs in a separate thread."""

    @abstractmethod
    def _on_device(self, fetched: Tensor) -> Tensor:
        """Return fetched inputs in the form that the tower's `embed` expects."""


class ImageInputs(Inputs):
    """Images, as uint8 until they are on the device, where they stay if there is room."""

    def __init__(self, pixels: Pixels, normalisation: Normalisation, device: torch.device, dtype: torch.dtype) -> None:
        self.order_N = np.arange(len(pixels))
        self._pixels, self._normalisation, self._device, self._dtype = pixels, normalisation, device, dtype
        self._resident: Tensor | None = None
        if device.type == "cuda" and pixels.nbytes <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self._resident = torch.from_numpy(pixels[:]).pin_memory().to(device, non_blocking=True)

    def _fetch(self, part: Part) -> Tensor:
        if self._resident is not None:
            return self._resident[part]
        pixels = torch.from_numpy(self._pixels[part])
        return pixels.pin_memory() if self._device.type == "cuda" else pixels

    def _on_device(self, fetched: Tensor) -> Tensor:
        """Return normalised images (n, 3, Y, X) in the tower's precision."""
        return self._normalisation(fetched, self._device).to(self._dtype)


class TextInputs(Inputs):
    """Texts as token ids, short ones first: a view skips everything after the last token read in a chunk."""

    def __init__(self, tokens_NT: NDArray[np.int64], view: TextView) -> None:
        tokens = torch.from_numpy(np.array(tokens_NT))
        order_N = view.read_tokens(tokens).argsort(stable=True)
        self.order_N = order_N.numpy()
        self._tokens_NT = tokens[order_N].to(view.device)

    def _fetch(self, part: Part) -> Tensor:
        return self._tokens_NT[part]

    def _on_device(self, fetched: Tensor) -> Tensor:
        """Return token ids (n, T)."""
        return fetched


def make_inputs(inputs: Pixels | NDArray[np.int64], view: TowerView, normalisation: Normalisation) -> Inputs:
    """Return the inputs of a view: pixels for an image tower, token ids (N, T) for a text tower."""
    if isinstance(view, TextView):
        if isinstance(inputs, Pixels):
            raise TypeError("a text tower is given token ids, not pixels")
        return TextInputs(inputs, view)
    if not isinstance(inputs, Pixels):
        raise TypeError("an image tower is given pixels, not token ids")
    return ImageInputs(inputs, normalisation, view.device, view.dtype)
