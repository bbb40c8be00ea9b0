"""ONNX: the towers of a folded or pruned model, each for any number of inputs, written and run.

    write(clip, folder, {"image.onnx": images, "text.onnx": tokens})
    embeddings = OnnxModel(folder).encode_image(images)

A pruned model has layers of different numbers of heads, which no stock loader builds; as ONNX it needs no loader.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headmask.border.foreign import reason_of
from headmask.border.kinds import IMAGE_ONNX, SOFTWARE, TEXT_ONNX
from headmask.border.shown import shown
from headmask.errors import AblationError, ModelError

TOLERANCE = 1e-5
"""Largest allowed difference of L2-normalised embeddings: another runtime adds up in another order."""
INPUTS = {IMAGE_ONNX: "pixel_values", TEXT_ONNX: "input_ids"}
"""The name of each model's only input."""
OUTPUT = "embeddings"
OPSET = 18
"""The version of ONNX's operators: what torch translates to, so that nothing is converted afterwards."""
MAX_BYTES = 1_500_000_000
"""Larger weights go into a file of their own, `image.onnx.data`: one of protobuf's has at most 2 GiB."""
_NEEDS = ("onnx", "onnxruntime", "onnxscript")
_METHODS = {IMAGE_ONNX: "encode_image", TEXT_ONNX: "encode_text"}


def check_installed() -> None:
    """Check that what writes and runs ONNX models is installed.

    Raises:
        ModelError: it is not; the message says how to install it.
    """
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise ModelError(f"--format onnx needs {' and '.join(missing)}: pip install 'headmask[onnx]'")


def write(clip: nn.Module, folder: Path, inputs: Mapping[str, Tensor]) -> None:
    """Write towers of a model into a folder.

    Args:
        clip: an open_clip model on the CPU, folded or pruned.
        folder: where to write.
        inputs: normalised images under `image.onnx`, token ids under `text.onnx`; at least two of each.

    Raises:
        AblationError: torch cannot express a tower in ONNX.
    """
    for name, given in inputs.items():
        program = _program(clip, name, given)
        size = sum(each.const_value.nbytes for each in program.model.graph.initializers.values())
        program.save(folder / name, external_data=size > MAX_BYTES)


def _program(clip: nn.Module, name: str, inputs: Tensor) -> Any:
    """Return a tower as an ONNX model in memory."""
    with _quiet():
        try:
            program = torch.onnx.export(
                _Tower(clip, _METHODS[name]).eval(),
                (inputs[:2],),
                input_names=[INPUTS[name]],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        # The exporter has its own exceptions for each of its steps.
        except Exception as error:
            tower, reason = name.partition(".")[0], shown(reason_of(error))
            raise AblationError(f"the {tower} tower cannot be written as ONNX: {reason}") from error
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    assert program is not None
    # Each node would name the lines of code that it came from, with paths of this machine.
    ClearMetadataAndDocStringPass()(program.model)
    program.model.producer_name = SOFTWARE
    return program


class OnnxModel:
    """The towers in a folder, run by ONNX Runtime on the CPU.

    Args:
        folder: holds `image.onnx` and, if the model has a text tower, `text.onnx`.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # Errors
        options.intra_op_num_threads = torch.get_num_threads()
        self._sessions = {
            name: onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in INPUTS
            if (folder / name).exists()
        }

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the embeddings of normalised images: the first alone, then all others together."""
        return self._run(IMAGE_ONNX, images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of token ids: the first alone, then all others together."""
        return self._run(TEXT_ONNX, tokens)

    def _run(self, name: str, inputs: Tensor) -> Tensor:
        batches = [batch.numpy() for batch in (inputs[:1], inputs[1:]) if len(batch)]
        found = [self._sessions[name].run([OUTPUT], {INPUTS[name]: batch})[0] for batch in batches]
        return torch.cat([torch.from_numpy(each) for each in found])


class _Tower(nn.Module):
    """One of a model's two ways to an embedding, as a module."""

    def __init__(self, clip: Any, method: str) -> None:
        super().__init__()
        self.clip, self.method = clip, method

    def forward(self, inputs: Tensor) -> Tensor:
        embeddings: Tensor = getattr(self.clip, self.method)(inputs)
        return embeddings


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, and keep attention from its fused path, which has no counterpart in ONNX."""
    level, fast = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    logging.disable(logging.WARNING)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.backends.mha.set_fastpath_enabled(fast)
