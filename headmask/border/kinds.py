"""The kinds of files and folders that headmask writes, each recognised by its content, never by its name.

Pictures and pages name the software that made them, Parquet files and checkpoints have metadata, JSON files a format.
Standard library only, so that a path can be checked before anything heavy is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOFTWARE = "headmask"
"""The software name in pictures and pages."""
PARQUET_KEY = "headmask.kind"
"""The key of a Parquet file's metadata that holds its kind."""
BESIDE = "headmask.files"
"""The key of a checkpoint's metadata that lists the other files of its folder, separated by spaces."""
CONFIG, WEIGHTS, CARD = "open_clip_config.json", "open_clip_model.safetensors", "README.md"
MASK, SCALES = "mask.json", "scales.json"
"""The files of an exported folder, which has a mask or scales."""
TRANSFORMERS_WEIGHTS = "model.safetensors"
"""The checkpoint of an exported folder of transformers; its other files are listed in it."""
IMAGE_ONNX, TEXT_ONNX, ONNX_CONFIG = "image.onnx", "text.onnx", "onnx_config.json"
"""The models of an exported folder of ONNX, and the file that lists all files of the folder."""
PICTURE_METADATA = {"Software": SOFTWARE}
"""The text chunks of a picture, for matplotlib and Pillow."""


_PACKAGED = {
    "MLmodel",
    "artifacts",
    "code",
    "conda.yaml",
    "input_example.json",
    "python_env.yaml",
    "requirements.txt",
    "served.py",
    "serving_input_example.json",
}
"""Names that MLflow writes into the folder of a model."""


@dataclass(frozen=True)
class Kind:
    """A kind of file that headmask writes."""

    name: str
    """Name with its article, such as `a mask file`."""
    is_ours: Callable[[Path], bool]
    """Returns, by content, whether headmask wrote a file of this kind; may raise anything on damaged content."""

    @property
    def noun(self) -> str:
        """Name without its article."""
        return self.name.partition(" ")[2]

    def made(self, path: Path) -> bool:
        """Return whether headmask wrote a file of this kind; False if the file cannot be read."""
        try:
            return self.is_ours(path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False
        except (struct.error, sqlite3.Error):
            return False


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that headmask writes and replaces as a whole."""

    name: str
    """Name with its article, such as `a model folder`."""
    foreign: Callable[[Path], list[str]]
    """Returns the names in a folder that headmask did not write; may raise anything on damaged content."""

    def others(self, folder: Path) -> list[str]:
        """Return the names in a folder that headmask did not write; all names if that cannot be decided."""
        try:
            return sorted(self.foreign(folder))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return sorted(each.name for each in folder.iterdir())


def json_of(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        ValueError: it is not JSON.
    """
    return json.loads(path.read_bytes())


def has_format(name: str) -> Callable[[Path], bool]:
    """Return a test for JSON objects whose `format` is one of some versions, such as `headmask/1` of `headmask`."""
    return lambda path: str(json_of(path)["format"]).partition("/")[0] == name


def has_keys(*keys: str) -> Callable[[Path], bool]:
    """Return a test for JSON objects that have some keys."""
    return lambda path: set(keys) <= json_of(path).keys()


def _is_own_png(path: Path) -> bool:
    """Return whether a PNG names headmask in its text chunk `Software`."""
    with path.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return False
        while header := file.read(8):
            length, name = struct.unpack(">I4s", header)
            if name in (b"tEXt", b"iTXt") and length < 1 << 16:
                content = file.read(length)
                if content.startswith(f"Software\0{SOFTWARE}".encode()):
                    return True
                file.seek(4, os.SEEK_CUR)
            else:
                file.seek(length + 4, os.SEEK_CUR)
    return False


def _is_own_page(path: Path) -> bool:
    """Return whether an HTML page names headmask as its generator, in its head."""
    with path.open("rb") as file:
        start = file.read(1 << 14)
    head = start[: start.find(b"<body")] if b"<body" in start else start
    return start.lstrip()[:9].lower() == b"<!doctype" and f'<meta name="generator" content="{SOFTWARE}'.encode() in head


def parquet_metadata(kind: str) -> dict[str, str]:
    """Return the metadata that marks a Parquet file as headmask's."""
    return {PARQUET_KEY: kind}


def has_parquet_kind(kind: str) -> Callable[[Path], bool]:
    """Return a test for Parquet files with the metadata of `parquet_metadata`."""
    # A key and its value in Thrift's compact protocol: both are strings, the fields 1 and 2 of a struct.
    key, value = PARQUET_KEY.encode(), kind.encode()
    entry = bytes([0x18, len(key)]) + key + bytes([0x18, len(value)]) + value + b"\0"

    def is_ours(path: Path) -> bool:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < 12:
                return False
            file.seek(size - 8)
            length, magic = struct.unpack("<I4s", file.read(8))
            if magic != b"PAR1" or length > size - 8:
                return False
            file.seek(size - 8 - length)
            return entry in file.read(length)

    return is_ours


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file.

    Raises:
        ValueError: it is no such file.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(path.stat().st_size, 1 << 27):
            raise ValueError("no safetensors file")
        found: dict[str, str] = json.loads(file.read(length)).get("__metadata__", {})
    return found


def _is_own_checkpoint(path: Path) -> bool:
    return "headmask" in safetensors_metadata(path)


def _is_journal(path: Path) -> bool:
    """Return whether a file begins like an Optuna journal."""
    with path.open("rb") as file:
        line = file.readline(1 << 24)
    if not line.endswith(b"\n"):  # Its writer was killed in the middle of the first line.
        return line.startswith(b'{"op_code"'[: len(line)])
    return set(json.loads(line)) >= {"op_code", "worker_id"}


def _is_spool(path: Path) -> bool:
    """Return whether a file begins like a list of tracked operations."""
    with path.open("rb") as file:
        line = file.readline(1 << 24)
    if not line.endswith(b"\n"):
        return line.startswith(b'{"time_ms"'[: len(line)])
    return set(json.loads(line)) >= {"time_ms", "kind"}


def _is_study_database(path: Path) -> bool:
    """Return whether a file is an SQLite database with no tables except Optuna's."""
    names = tables_of(path)
    return names is None or all(name.startswith(("stud", "trial", "version_info", "alembic")) for name in names)


def _is_tracking_database(path: Path) -> bool:
    """Return whether a file is an SQLite database with tables of MLflow, or with no tables."""
    names = tables_of(path)
    return not names or bool(names & {"datasets", "experiments", "inputs", "registered_models", "runs"})


def tables_of(path: Path) -> set[str] | None:
    """Return the names of the tables of an SQLite database, without changing it; None if another process holds it.

    Raises:
        ValueError: the file is not an SQLite database.
    """
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise ValueError("no SQLite database")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError:
        return None


def _foreign_to_model(folder: Path) -> list[str]:
    """Return the names in a folder that are not part of an exported model; all names if there is no model."""
    own = _listed(folder)
    if own:
        own |= {MASK} if MASK_FILE.made(folder / MASK) else set()
        own |= {SCALES} if SCALES_FILE.made(folder / SCALES) else set()
        own |= {CONFIG} if Kind(CONFIG, has_keys("model_cfg", "preprocess_cfg")).made(folder / CONFIG) else set()
        own |= {CARD} if Kind(CARD, _is_card).made(folder / CARD) else set()
    names = sorted(each.name for each in folder.iterdir())
    return [name for name in names if name not in own or not (folder / name).is_file()]


def _listed(folder: Path) -> set[str]:
    """Return the names of an exported model's weights and of the files that they list; none if there is no model."""
    for name in (WEIGHTS, TRANSFORMERS_WEIGHTS):
        if CHECKPOINT.made(folder / name):
            return {name, *safetensors_metadata(folder / name).get(BESIDE, "").split()}
    if ONNX_MODEL.made(folder / IMAGE_ONNX):
        return {ONNX_CONFIG, *json_of(folder / ONNX_CONFIG)["files"]}
    return set()


def _is_own_onnx(path: Path) -> bool:
    """Return whether an ONNX file names headmask as its producer, which comes second in it, after a version."""
    with path.open("rb") as file:
        return file.read(12)[2:] == bytes((18, len(SOFTWARE))) + SOFTWARE.encode()


def _foreign_to_package(folder: Path) -> list[str]:
    """Return the names in a folder that are not part of a model packaged for MLflow; all names if there is none."""
    names = sorted(each.name for each in folder.iterdir())
    if "headmask.verdict:" not in (folder / "MLmodel").read_text(encoding="utf-8"):
        return names
    models = folder / "artifacts" / "model"
    inside = [f"artifacts/{each.name}" for each in (folder / "artifacts").iterdir() if each != models]
    inside += [f"artifacts/model/{name}" for name in _foreign_to_model(models)]
    return [*(name for name in names if name not in _PACKAGED), *inside]


def _foreign_to_explanation(folder: Path) -> list[str]:
    """Return the names in a folder that are not part of an explanation."""

    def is_own(path: Path) -> bool:
        if path.name == "explain.json":
            return EXPLANATION.made(path)
        return re.fullmatch(r"L\d+H\d+\.png", path.name) is not None and PICTURE.made(path)

    return [each.name for each in folder.iterdir() if not is_own(each)]


def _is_card(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return text.startswith("---\n") and "- headmask" in text.split("\n---\n")[0].splitlines()


PAGE = Kind("a page", _is_own_page)
PICTURE = Kind("a picture", _is_own_png)
MASK_FILE = Kind("a mask file", has_format("headmask"))
SCALES_FILE = Kind("a scales file", has_format("headmask-scales"))
RESULT = Kind("a search's result", has_format("headmask-result"))
REFINEMENT = Kind("a refinement's result", has_format("headmask-refine"))
EXPLANATION = Kind("an explanation", has_format("headmask-explain"))
RUN_CONFIG = Kind("a search's configuration", has_keys("model", "data", "output", "search", "budget", "pool"))
CHECKPOINT = Kind("a checkpoint", _is_own_checkpoint)
ONNX_MODEL = Kind("an ONNX model", _is_own_onnx)
DATA_SET = Kind("a data set", has_parquet_kind("data set"))
TRIALS = Kind("a search's table of trials", has_parquet_kind("trials"))
QUERIES = Kind("a search's table of queries", has_parquet_kind("queries"))
JOURNAL = Kind("a journal of studies", _is_journal)
STUDY_DATABASE = Kind("a database of studies", _is_study_database)
TRACKING_DATABASE = Kind("a database of MLflow", _is_tracking_database)
SPOOL = Kind("a list of what is tracked", _is_spool)
MODEL_FOLDER = FolderKind("a model folder", _foreign_to_model)
EXPLANATION_FOLDER = FolderKind("an explanation", _foreign_to_explanation)
PACKAGE = FolderKind("a registered model", _foreign_to_package)
