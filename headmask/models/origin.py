"""Where a model comes from: the meaning of its name and `pretrained`, checked before anything is built.

A name is an open_clip architecture, a user's configuration file (`NAME.json`), a folder (`local-dir:FOLDER`), a folder
of Hugging Face's transformers (`hf-dir:FOLDER`) or a repository of the Hugging Face Hub (`hf-hub:ORG/REPO`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
from open_clip.factory import _find_checkpoint_in_dir

from headmask.border.reading import check_text, is_file, is_folder, is_there, parse_model, read_json
from headmask.border.schemes import FOLDER, HUB, TRANSFORMERS, folder_of, is_transformers
from headmask.border.shown import shown
from headmask.errors import ModelError, did_you_mean
from headmask.models.checkpoints import FORM_KEY, PIXELS_KEY, metadata_of, preprocess_of
from headmask.models.configuration import CONFIG, read_config
from headmask.models.hf.reading import preprocessing_of
from headmask.models.hf.source import CONFIG as TRANSFORMERS_CONFIG
from headmask.models.hf.source import Source, check_kind
from headmask.models.hub import download
from headmask.pixels.preprocessing import GivenPreprocessing

SCHEMES = (FOLDER, TRANSFORMERS, HUB)
CHECKPOINTS = ("*.safetensors", "*.bin", "*.pth")
"""Files that open_clip looks for in a folder."""
_ENDINGS = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".npz", ".npy")


@dataclass(frozen=True)
class Origin:
    """The parts of a model."""

    name: str
    """Name as given, with absolute paths, so that it is valid from any folder."""
    pretrained: str | None
    """Tag, or the absolute path of a checkpoint file; None if the name brings the weights."""
    config: Mapping[str, Any]
    """open_clip's configuration of the architecture."""
    preprocess: GivenPreprocessing | None = None
    """Preprocessing that comes with the weights or with the configuration; None if neither brings any."""
    checkpoint: Path | None = None
    """Checkpoint file; None for tags, whose weights open_clip downloads."""
    notes: tuple[str, ...] = ()
    """What was chosen during the look-up, in sentences."""
    pixels: str | None = None
    """The pixel rule recorded in an export of headmask (see `headmask.pixels.images`)."""
    source: Source | None = None
    """The model of transformers that is converted; None for open_clip's own."""
    unprepared: str | None = None
    """Why the image processor that comes with the weights cannot be used."""

    def __str__(self) -> str:
        return self.name if self.pretrained is None else f"{self.name} ({self.pretrained})"

    @property
    def is_tag(self) -> bool:
        """Whether the weights are those of a tag that open_clip knows."""
        return self.pretrained is not None and self.checkpoint is None

    @cached_property
    def tags(self) -> dict[str, GivenPreprocessing]:
        """The preprocessing of every pretrained tag of this architecture, by name or by an equal configuration."""
        names = [self.name] if is_listed(self.name) else _same_architectures(self.config)
        return {tag: preprocessing_of_tag(name, tag) for name in names for tag in tags_of(name)}

    @property
    def is_hugging_face(self) -> bool:
        """Whether the text tower or the tokenizer is Hugging Face's."""
        text = self.config.get("text_cfg", {})
        return bool(text.get("hf_model_name") or text.get("hf_tokenizer_name"))


def find_origin(name: str, pretrained: str | None = None) -> Origin:
    """Return the origin that a model's name and `pretrained` stand for.

    Raises:
        ModelError: there is no such model, no such weights, or they are not valid.
    """
    if name.startswith(SCHEMES) and pretrained is not None:
        raise ModelError(
            f"{shown(name)} brings its own weights; leave out pretrained ({shown(pretrained)}). "
            f"{_same_with_others(name)}"
        )
    if (source := source_of(name)) is not None:
        given = preprocessing_of(source)
        found = Origin(full_name(name), None, source.architecture, source=source, pixels=source.pixels)
        if isinstance(given, str):
            return dataclasses.replace(found, unprepared=given)
        return dataclasses.replace(found, preprocess=given)
    config, preprocess = find_config(name)
    full = full_name(name)
    if name.startswith(SCHEMES):
        checkpoint, notes = _own_checkpoint(name)
        return _with_carried(Origin(full, None, config, preprocess, checkpoint, notes))
    listed = tags_of(name)
    if pretrained is not None and pretrained in listed:
        return Origin(full, pretrained, config, preprocessing_of_tag(name, pretrained))
    path = _given_weights(name, pretrained, listed)
    return _with_carried(Origin(full, str(path), config, preprocess, path))


def _same_with_others(name: str) -> str:
    """Return how the architecture of a folder or repository is used with other weights."""
    if name.startswith(TRANSFORMERS):
        return "Other weights of transformers are a folder of their own"
    config_file = f"{shown(name.removeprefix(FOLDER))}/{CONFIG}"
    return f"For other weights of the same architecture name its configuration, such as {config_file}, as the model"


def _given_weights(name: str, pretrained: str | None, listed: list[str]) -> Path:
    """Return the checkpoint file that `pretrained` names.

    Raises:
        ModelError: it names none.
    """
    if pretrained is None:
        tags = (
            f"a tag ({', '.join(listed[:4])}{', ...' * (len(listed) > 4)}) or a file" if listed else "a checkpoint file"
        )
        raise ModelError(f"{shown(name)} needs weights: pass pretrained, {tags}")
    path = absolute(pretrained)
    if not is_there(path):
        choices = (
            f"a file or a tag of {shown(name)}: {', '.join(listed)}" if listed else f"a file: {shown(name)} has no tags"
        )
        raise ModelError(
            f"pretrained must be {choices}; got {shown(repr(pretrained))}{did_you_mean(pretrained, listed)}, and there "
            f"is no file {shown(path)}"
        )
    if is_folder(path):
        hint = f": pass --model {FOLDER}{shown(path)} alone" if is_file(path / CONFIG) else "; name a file in it"
        if is_transformers(pretrained):
            hint = " of transformers, which is a whole model: pass it without --model"
        raise ModelError(f"pretrained must be a file or a tag; {shown(path)} is a folder{hint}")
    return path


def _with_carried(origin: Origin) -> Origin:
    """Return an origin with the preprocessing in its checkpoint, if headmask wrote that."""
    path = origin.checkpoint
    if path is None:
        return origin
    metadata = metadata_of(path)
    if metadata.get(FORM_KEY) == "pruned":
        raise ModelError(
            f"{shown(origin.name)} is a pruned model, which open_clip cannot build: headmask.load_pruned loads it"
        )
    origin = dataclasses.replace(origin, pixels=metadata.get(PIXELS_KEY) or _pixels_beside(origin.name))
    content = preprocess_of(metadata, path)
    if content is None:
        return origin
    where = f"the {FORM_KEY} metadata of {shown(origin.checkpoint)}"
    carried = parse_model(content, GivenPreprocessing, where, ModelError)
    if origin.preprocess is not None:
        before, after = (each.changes() for each in (origin.preprocess, carried))
        if any(before[key] != after[key] for key in (before.keys() & after.keys()) - {"size"}):
            raise ModelError(
                f"the weights in {shown(origin.checkpoint)} carry another preprocessing ({after}) than "
                f"{shown(origin.name)} has ({before}): correct the one that is wrong"
            )
    return dataclasses.replace(origin, preprocess=carried)


def _pixels_beside(name: str) -> str | None:
    """Return the pixel rule in a folder's configuration, if there is one."""
    if not name.startswith(FOLDER):
        return None
    own = read_json(Path(name.removeprefix(FOLDER), CONFIG), "model configuration", ModelError).get("headmask")
    pixels = own.get(PIXELS_KEY) if isinstance(own, dict) else None
    return pixels if isinstance(pixels, str) else None


def source_of(name: str) -> Source | None:
    """Return the model of transformers that a name stands for; None if it stands for one of open_clip.

    A repository with both is taken as open_clip's.

    Raises:
        ModelError: the folder holds no model of transformers.
    """
    if name.startswith(TRANSFORMERS):
        folder = absolute(name.removeprefix(TRANSFORMERS))
        if not name.removeprefix(TRANSFORMERS) or not is_file(folder / TRANSFORMERS_CONFIG):
            what = (
                "it does not" if is_folder(folder) else "it is a file" if is_file(folder) else "there is no such folder"
            )
            raise ModelError(f"{TRANSFORMERS}{shown(folder)}: the folder must hold {TRANSFORMERS_CONFIG}; {what}")
        return Source(str(folder))
    if not name.startswith(HUB):
        return None
    try:
        download(name, CONFIG)
    except ModelError:
        try:
            path = download(name, TRANSFORMERS_CONFIG)
        except ModelError:
            return None
        check_kind(read_json(path, "model configuration", ModelError), name)
        return Source(name.removeprefix(HUB), is_repository=True)
    return None


def find_config(name: str) -> tuple[dict[str, Any], GivenPreprocessing | None]:
    """Return open_clip's configuration of a model's architecture, with the preprocessing that comes with it, if any.

    Raises:
        ModelError: there is no such model, or its configuration is not valid.
    """
    if why := check_text(name):
        raise ModelError(f"the model's name {shown(repr(name))} cannot be used: {why}")
    if (source := source_of(name)) is not None:
        return source.architecture, None
    if name.startswith(HUB):
        return read_config(download(name, CONFIG))
    if name.startswith(FOLDER):
        folder = absolute(name.removeprefix(FOLDER))
        if not name.removeprefix(FOLDER) or not is_there(folder / CONFIG):
            what = (
                "there is no such folder"
                if not is_there(folder)
                else "it is a file"
                if is_file(folder)
                else "it does not"
            )
            if is_transformers(str(folder)):
                what = f"it is of transformers: pass {TRANSFORMERS}{shown(folder)}"
            raise ModelError(f"{FOLDER}{shown(folder)}: the folder must hold {CONFIG} and a checkpoint; {what}")
        return read_config(folder / CONFIG)
    if is_config_file(name):
        return read_config(absolute(name))
    check_architecture(name)
    return dict(open_clip.get_model_config(name)), None


def is_config_file(name: str) -> bool:
    """Return whether a model's name is a user's configuration file."""
    return name.endswith(".json") and not name.startswith(SCHEMES)


def is_listed(name: str) -> bool:
    """Return whether open_clip lists an architecture of a name."""
    return name in open_clip.list_models()


def check_architecture(name: str) -> None:
    """Check that open_clip has an architecture of a name.

    Raises:
        ModelError: it has none; the message suggests what was meant.
    """
    if is_listed(name):
        return
    path = absolute(name) if name and not check_text(name) else None
    if path is not None and is_folder(path):
        hint = f"; {shown(path)} is a folder: pass {TRANSFORMERS if is_transformers(name) else FOLDER}{shown(name)}"
    elif name.endswith(_ENDINGS):
        hint = "; a checkpoint file goes to --pretrained, beside the --model that it is of"
    elif near := did_you_mean(name, open_clip.list_models()):
        hint = near
    elif name.count("/") == 1:
        hint = f"; a repository of the Hugging Face Hub is {HUB}{shown(name)}"
    else:
        hint = "; `headmask models` lists them, and one of your own is a configuration file, NAME.json"
    raise ModelError(f"open_clip has no architecture {shown(repr(name))}{hint}")


def full_name(name: str) -> str:
    """Return a model's name, made absolute if it is a path."""
    if (folder := folder_of(name)) is not None:
        return f"{name.removesuffix(folder)}{absolute(folder)}"
    return str(absolute(name)) if is_config_file(name) else name


def absolute(path: str) -> Path:
    """Return an absolute path, with its links kept; shells do not expand `~` after `local-dir:`."""
    expanded = os.path.expanduser(path) if path.startswith("~/") else path
    return Path(os.path.abspath(expanded))


def is_tag(name: str, text: str) -> bool:
    """Return whether a text is a pretrained tag of an architecture."""
    return is_listed(name) and text in tags_of(name)


def tags_of(name: str) -> list[str]:
    """Return open_clip's pretrained tags of an architecture."""
    return list(open_clip.list_pretrained_tags_by_model(name))


def preprocessing_of_tag(name: str, tag: str) -> GivenPreprocessing:
    """Return the preprocessing of a pretrained tag."""
    config = open_clip.get_pretrained_cfg(name, tag)
    return GivenPreprocessing.model_validate({key: value for key, value in config.items() if key != "size"})


def _same_architectures(config: Mapping[str, Any]) -> list[str]:
    """Return open_clip's architectures with an equal configuration."""
    return [name for name in open_clip.list_models() if open_clip.get_model_config(name) == config]


def _own_checkpoint(name: str) -> tuple[Path, tuple[str, ...]]:
    """Return the checkpoint in a folder or a repository."""
    if name.startswith(HUB):
        return download(name, None), ()
    folder = absolute(name.removeprefix(FOLDER))
    found = sorted({path for pattern in CHECKPOINTS for path in folder.glob(pattern)})
    if not found:
        others = sorted(path.name for path in folder.iterdir() if path.suffix in _ENDINGS)
        looked = f"open_clip looks for {', '.join(CHECKPOINTS)}, and there is none in {shown(folder)}"
        names = ", ".join(map(shown, others[:8])) + ", ..." * (len(others) > 8)
        file = others[0] if len(others) == 1 else "FILE"
        found_other = f"; it holds {names}: pass {_by_file(folder, file)}" if others else ""
        hint = found_other or "; put the checkpoint there"
        raise ModelError(f"{FOLDER}{shown(folder)} has no weights: {looked}{hint}")
    chosen = Path(str(_find_checkpoint_in_dir(folder)))
    rest = [path for path in found if path != chosen]
    if rest and chosen.name not in _PREFERRED:
        names = ", ".join(shown(path.name) for path in found[:8]) + ", ..." * (len(found) > 8)
        hint = (
            "they are parts of one: put them together in one file"
            if "-of-" in chosen.name
            else f"keep one there, or name one: {_by_file(folder, 'FILE')}"
        )
        raise ModelError(f"{FOLDER}{shown(folder)} holds {len(found)} checkpoints, {names}: {hint}")
    notes = [f"Of {len(found)} checkpoints in the folder, {chosen.name} is taken, as open_clip does"] if rest else []
    return chosen, tuple(notes)


_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Names that open_clip prefers over everything else in a folder."""


def _by_file(folder: Path, name: str) -> str:
    return f"--model {shown(folder / CONFIG)} --pretrained {shown(folder / name)}"
