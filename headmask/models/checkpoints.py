"""Checkpoint files: what kind a file is, by its content; its weights as open_clip expects them; why one does not fit.

    with bare_weights(path) as weights:
        open_clip.load_checkpoint(clip, str(weights.path))

Files that are not checkpoints, or not of a CLIP model, are refused with a way out before a model is built.
"""

from __future__ import annotations

import re
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from headmask.border.foreign import reason_of
from headmask.border.reading import check_file, check_text
from headmask.border.shown import shown
from headmask.errors import ModelError
from headmask.models.positions import POSITIONS
from headmask.models.prefixes import PREFIXES, unwrapped, without_counter, without_inserted

WRAPPERS = ("state_dict", "model_state_dict", "model", "weights")
"""Keys under which training stores the weights, the one that open_clip knows first."""
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
PREPROCESS_KEY, PIXELS_KEY, FORM_KEY = "preprocess_cfg", "pixels", "headmask"
"""Metadata of safetensors files that headmask writes."""
NUMPY = (".npz", ".npy")
"""Endings of big_vision's files, which open_clip reads itself."""
_PICKLE, _ZIP = b"\x80", b"PK\x03\x04"
_MAX_HEADER = 100_000_000
_FOREIGN = (
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"GGUF", "a GGUF file of llama.cpp; take the checkpoint that it was made from"),
    (b"\x89HDF", "an HDF5 file of TensorFlow; take the checkpoint for PyTorch"),
)
MAX_DEPTH = 4
"""Maximum depth of nested dictionaries that are searched for weights."""
_NAME = re.compile(r'"([^"]+)"')
_SIZE = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\) from checkpoint, "
    r"the shape in current model is torch\.Size\((.*?)\)"
)


@dataclass(frozen=True)
class Weights:
    """A file whose weights have the names that open_clip gives them."""

    path: Path
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata of a safetensors file."""
    notes: tuple[str, ...] = ()
    """What was done with the weights or left out, in sentences."""
    positions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of position embeddings by the tensor's name; open_clip resizes them to the model."""


@contextmanager
def bare_weights(path: Path) -> Iterator[Weights]:
    """Yield a checkpoint file as open_clip expects it: the file itself, or one without the prefixes of training.

    Raises:
        ModelError: it is not a checkpoint of a CLIP model; the message has the way out.
    """
    metadata = metadata_of(path)
    if path.suffix in NUMPY:
        yield Weights(path)
        return
    found = _State.read(path)
    plain, averaged = without_counter(found.state, path.name)
    state, prefix = unwrapped(plain)
    state, inserted = without_inserted(state)
    _check_names(path, state)
    notes = [*found.notes, *averaged]
    positions = {name: tuple(state[name].shape) for name in POSITIONS if name in state and state[name].ndim}
    if not (prefix or inserted or averaged) and found.key in (None, "state_dict"):
        yield Weights(path, metadata, tuple(notes), positions)
        return
    if prefix:
        notes.append(f"All names in {path.name} begin with {prefix}, which is stripped")
    if inserted:
        notes.append(f"Names in {path.name} have {' and '.join(inserted)} in them, which is taken out")
    with tempfile.TemporaryDirectory(prefix="headmask-") as scratch:
        bare = Path(scratch, "weights.pt")
        try:
            torch.save(state, bare)
        except OSError as error:
            raise ModelError(
                f"{path} must be copied to take {prefix or ' '.join(inserted) or found.key} off its names, and that "
                f"fails: {reason_of(error)}. Free disk space, or name another folder in TMPDIR"
            ) from None
        del state, plain, found
        yield Weights(bare, metadata, tuple(notes), positions)


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty for others.

    Raises:
        ModelError: the file is not a checkpoint; the message says what it is.
    """
    check_file(path, "checkpoint", ModelError)
    check_utf8(path, "checkpoint")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ModelError(f"cannot read checkpoint {shown(path)}: {reason_of(error)}") from None
    _check_kind(path, head, size)
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as weights:
            return dict(weights.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def check_utf8(path: Path, what: str) -> None:
    """Check that a path is UTF-8, because libraries that read weights accept nothing else.

    Raises:
        ModelError: it is not UTF-8.
    """
    if check_text(str(path)):
        raise ModelError(f"the name of {what} {shown(path)} is not UTF-8, which safetensors needs: rename it")


def _check_kind(path: Path, head: bytes, size: int) -> None:
    """Refuse files that do not begin like a checkpoint, or that open_clip would misread because of their ending."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if size == 0:
        raise ModelError(f"checkpoint {shown(path)} is empty: it was not written, or not downloaded, to its end")
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"{shown(path)} is a pointer of Git LFS, not the weights: run `git lfs pull` in its repository"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(
            f"{shown(path)} is a web page, not a checkpoint: it was saved from a page about the file; download the file"
        )
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise ModelError(f"{shown(path)} is {what}")
    is_safetensors = _is_safetensors(head, size)
    if path.suffix == ".safetensors":
        if head.startswith(_ZIP) or head.startswith(_PICKLE):
            raise ModelError(f"{shown(path)} was written by torch.save: rename it so that it ends in .pt")
        return
    if is_safetensors:
        raise ModelError(f"{shown(path)} is a safetensors file: rename it so that it ends in .safetensors")
    if text.startswith((b"{", b"[")):
        raise ModelError(f"{shown(path)} is a JSON file, not a checkpoint: name the file of weights")
    if path.suffix in NUMPY:
        return
    if head[257:262] == b"ustar":
        raise ModelError(f"{shown(path)} is a tar archive: unpack it, and name the file of weights in it")
    if not head.startswith((_ZIP, _PICKLE)):
        raise ModelError(f"{shown(path)} is not a checkpoint: neither torch nor safetensors wrote it")
    if head.startswith(_ZIP):
        _check_archive(path)


def _is_safetensors(head: bytes, size: int) -> bool:
    length = struct.unpack("<Q", head[:8])[0] if len(head) > 8 else 0
    return 0 < length <= min(_MAX_HEADER, size - 8) and head[8:9] == b"{"


def _check_archive(path: Path) -> None:
    """Refuse ZIP archives that torch.save did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    last = {name.rsplit("/", 1)[-1] for name in names}
    if "constants.pkl" in last:
        raise ModelError(
            f"{shown(path)} is a TorchScript archive (JIT), which holds code besides the weights. Where you trust it, "
            f'save them alone: torch.save(torch.jit.load({str(path)!r}).state_dict(), "weights.pt"). '
            "For OpenAI's own files pass --pretrained openai"
        )
    if "data.pkl" not in last:
        raise ModelError(f"{shown(path)} is a ZIP archive without a checkpoint of torch in it: unpack it")


def _damaged(path: Path, error: BaseException) -> ModelError:
    return ModelError(f"checkpoint {shown(path)} is damaged or was cut off ({reason_of(error, 160)}): get it again")


@dataclass(frozen=True)
class _State:
    """Tensors by name, read from disk only when needed if the file allows it, and where in the file they were."""

    state: dict[str, Any]
    key: str | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> _State:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            try:
                return cls(load_file(path))
            except (SafetensorError, OSError, ValueError) as error:
                raise _damaged(path, error) from None
        return cls._chosen(path, _unpickled(path))

    @classmethod
    def _chosen(cls, path: Path, content: Any) -> _State:
        """Return the weights in the content of a torch.save file."""
        if not isinstance(content, dict):
            raise ModelError(
                f"{shown(path)} holds {_kind(content)}, not weights by name: save model.state_dict() of a CLIP model"
            )
        if _is_state(content):
            return cls(content)
        inner = [key for key in content if isinstance(content[key], dict) and _is_state(content[key])]
        averaged = [key for key in inner if key in AVERAGED]
        for key in WRAPPERS:
            if key in inner:
                notes = [
                    f"{path.name} also holds averaged weights under {each}, which are not used" for each in averaged
                ]
                return cls(content[key], key, tuple(notes))
        if deeper := next(_deeper(content), None):
            place = "".join(f"[{key!r}]" for key in deeper)
            raise ModelError(
                f"{shown(path)} holds weights under {shown(' / '.join(deeper))}, deeper than headmask looks. Save "
                f"them alone: torch.save(torch.load({str(path)!r}, weights_only=True){place}, 'weights.pt')"
            )
        if not inner:
            names = ", ".join(shown(key) for key in list(content)[:6]) or "nothing"
            raise ModelError(
                f"{shown(path)} holds no weights: there is {names}. Save model.state_dict() of a CLIP model"
            )
        raise ModelError(
            f"{shown(path)} holds weights under {', '.join(map(shown, inner))}, and none under {' or '.join(WRAPPERS)}"
            f"{' (averaged ones: another model than the last step)' if averaged else ''}. Save those that you mean: "
            f"torch.save(torch.load({str(path)!r}, weights_only=True)[{inner[0]!r}], 'weights.pt')"
        )


def _deeper(content: Mapping[Any, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the keys, outermost first, of weights that are two to four dictionaries deep."""
    for key, value in content.items():
        place = (*above, str(key))
        if isinstance(value, dict) and len(place) > 1 and _is_state(value):
            yield place
        elif isinstance(value, dict) and len(place) < MAX_DEPTH:
            yield from _deeper(value, place)


def _unpickled(path: Path) -> Any:
    """Return the content of a torch.save file, without running code in it."""
    for mmap in (True, False):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        # torch, pickle and zipfile raise many kinds, for files of hostile origin any at all.
        except Exception as error:
            if mmap and "mmap" in str(error):
                continue  # Of a torch before 1.6.
            raise _refused(path, error) from None
    raise AssertionError


def _refused(path: Path, error: Exception) -> ModelError:
    text = " ".join(str(error).split())
    if "TorchScript" in text:
        return ModelError(
            f"{shown(path)} is a TorchScript archive (JIT). Where you trust it, save its weights alone: "
            f'torch.save(torch.jit.load({str(path)!r}).state_dict(), "weights.pt")'
        )
    if found := re.search(r"GLOBAL ([\w.<>]+)|Unsupported (?:class|global)[:\s]+(?:GLOBAL )?([\w.]+)", text):
        what = found.group(1) or found.group(2)
        return ModelError(
            f"{shown(path)} holds more than weights, an object of {shown(what)}, and unpickling it would run its code. "
            f"Where you trust the file, save the weights alone: found = torch.load({str(path)!r}, weights_only=False); "
            "torch.save(found['state_dict'], 'weights.pt'), or found.state_dict() where it is a model"
        )
    return _damaged(path, error)


def _kind(value: Any) -> str:
    return f"an object of type {type(value).__name__}"


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Return whether a dictionary holds tensors by name; other values, such as a step's number, may be among them."""
    return bool(content) and all(isinstance(key, str) for key in content) and _tensors(content) > len(content) / 2


def _tensors(content: Mapping[Any, Any]) -> int:
    return sum(isinstance(value, torch.Tensor) for value in content.values())


def _check_names(path: Path, state: Mapping[str, Any]) -> None:
    """Refuse weights of other libraries' models, by their names, and values that are not weights."""
    names = set(state)
    strays = [name for name in state if not isinstance(state[name], torch.Tensor)]
    if strays:
        raise ModelError(
            f"{shown(path)} holds {shown(strays[0])}, {_kind(state[strays[0]])}, among its weights; save tensors alone"
        )

    for prefix in PREFIXES:
        wrapped = [name for name in state if name.startswith(prefix)]
        if wrapped:  # Where all are, the prefix is gone.
            other = next(name for name in state if not name.startswith(prefix))
            raise ModelError(
                f"in {shown(path)} some names, {len(wrapped)} of {len(state)}, begin with {prefix}, and others, such "
                f"as {shown(other)}, do not: save those of the CLIP model alone, without {prefix}"
            )

    def has(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    if any("lora_" in name for name in names):
        raise ModelError(f"{shown(path)} holds LoRA adapters: merge them into the model, and save its state_dict()")
    if has("vision_model.") or has("text_model."):
        raise ModelError(
            f"{shown(path)} is a checkpoint of Hugging Face's transformers ({sorted(names)[0]}, ...), which is read "
            "with its folder: pass --model hf-dir:FOLDER alone, where FOLDER holds config.json, tokenizer and weights, "
            "or hf-hub:ORG/REPO"
        )
    is_tower = has("blocks.0.", "patch_embed.", "conv1.", "transformer.resblocks.0.")
    if is_tower and not has("visual.", "text.", "token_"):
        raise ModelError(
            f"{shown(path)} holds one tower ({sorted(names)[0]}, ...), not a CLIP model of two: save the "
            "state_dict() of the whole model"
        )
    integers = [name for name, value in state.items() if name.endswith("weight") and not value.is_floating_point()]
    if integers:
        raise ModelError(
            f"{shown(path)} is quantized: {shown(integers[0])} is of {state[integers[0]].dtype}. Take the checkpoint "
            "in float32, float16 or bfloat16 that it was made from"
        )


def why_not(error: BaseException, path: Path, name: str) -> str:
    """Return why a model did not accept the weights of a file, with the names that show it."""
    text = str(error)
    missing, unexpected, sizes = _listed(text, "Missing key"), _listed(text, "Unexpected key"), _SIZE.findall(text)
    parts = [
        *([f"{_count(missing, 'is', 'are')} missing, such as {shown(missing[0])}"] if missing else []),
        *([f"{_count(unexpected, 'is', 'are')} not expected, such as {shown(unexpected[0])}"] if unexpected else []),
        *([f"{_count(sizes, 'has', 'have')} another shape, such as {_shapes(*sizes[0])}"] if sizes else []),
    ]
    if not parts:
        return f"the weights in {shown(path)} do not fit {shown(name)}: {reason_of(error)}"
    return (
        f"the weights in {shown(path)} are not those of {shown(name)}: {'; '.join(parts)}. Name the architecture that "
        "they were trained as; `headmask models` lists all, and a configuration file of your own is one, too"
    )


def _count(found: list[Any], one: str, several: str) -> str:
    return f"{len(found)} tensors {several}" if len(found) > 1 else f"1 tensor {one}"


def _listed(text: str, heading: str) -> list[str]:
    return [name for line in text.splitlines() if heading in line for name in _NAME.findall(line)]


def _shapes(name: str, there: str, here: str) -> str:
    there, here = (shape.strip("[]") or "no axes" for shape in (there, here))
    return f"{shown(name)} ({there} in the file, {here} in the model)"


def preprocess_of(metadata: Mapping[str, str], path: Path) -> Any:
    """Return the preprocessing in the metadata of a file that headmask wrote; None if there is none.

    Raises:
        ModelError: the metadata is not JSON.
    """
    from headmask.border.reading import parse_json

    text = metadata.get(PREPROCESS_KEY)
    return None if text is None else parse_json(text, f"the metadata of {shown(path)}", ModelError)


def check_finite(path: str, state: Mapping[str, torch.Tensor]) -> None:
    """Check that all weights are finite.

    Raises:
        ModelError: one is NaN or infinite, so every score would be, too.
    """
    for name, value in state.items():
        if value.is_floating_point() and not name.endswith("attn_mask") and not bool(torch.isfinite(value).all()):
            raise ModelError(
                f"{shown(path)} has weights that are no numbers (NaN or infinite), in {shown(name)}: training went "
                "wrong there, so take an earlier checkpoint"
            )
