"""Which columns of a table hold what, and whether their types can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import pyarrow as pa
from pydantic import BaseModel, Field

from headmask.border.reading import parse_json, parse_model
from headmask.border.shown import shown
from headmask.errors import DataError
from workers.tasks.registry import TASKS

COLUMNS = {
    "image": ("image", "img", "jpg", "jpeg", "png", "webp"),
    "caption": ("caption", "captions", "text", "sentences", "sentence", "raw", "alt_text", "txt"),
    "label": ("label", "labels", "cls", "fine_label", "class"),
    "group": ("group", "groups"),
    "pair": ("pair",),
    "split": ("split",),
}
"""Usual names of columns, by what they hold."""


@dataclass(frozen=True)
class Columns:
    """Names of columns; those that are None are found by their usual names."""

    image: str | None = None
    caption: str | None = None
    label: str | None = None
    group: str | None = None
    pair: str | None = None
    split: str | None = None

    def find(self, what: str, schema: pa.Schema, where: str) -> str | None:
        """Return the name of a column in a file; None if it was not asked for by name and does not exist.

        Raises:
            DataError: a column asked for by name does not exist, or one exists twice.
        """
        asked = getattr(self, what)
        if asked is not None and asked not in schema.names:
            raise no_column(what, asked, schema, where)
        found = asked or next((name for name in COLUMNS[what] if name in schema.names), None)
        if found is not None and schema.names.count(found) > 1:
            raise DataError(
                f"{shown(where)} has {schema.names.count(found)} columns called {shown(found)}; rename all but one"
            )
        return found

    def task(self, schema: pa.Schema, where: str) -> str:
        """Return the task that the columns of a file are for: of those that are told by them, the one by most."""
        told = {name: task.told_by for name, task in TASKS.items() if task.told_by}
        for name, columns in sorted(told.items(), key=lambda each: -len(each[1])):
            # Who names the labels and not the captions wants the labels.
            is_other = "caption" in columns and self.label is not None and self.caption is None
            if not is_other and all(self.find(what, schema, where) for what in columns):
                return name
        return next(iter(TASKS))


def no_column(what: str, wanted: str, schema: pa.Schema, where: str) -> DataError:
    """Return the error for a missing column."""
    names = shown(", ".join(schema.names) or "none")
    return DataError(
        f"{shown(where)} has no {what} column {shown(wanted)}; it has {names}. Name one with --{what}-column"
    )


def label_names(schema: pa.Schema, column: str, where: str) -> tuple[str, ...]:
    """Return the class names in a file's metadata for the Hugging Face Hub for a column; empty if there are none.

    Raises:
        DataError: the description is malformed.
    """
    content = (schema.metadata or {}).get(b"huggingface")
    if content is None:
        return ()
    place = f"{shown(where)}: the description for the Hugging Face hub in its metadata"
    described = parse_model(parse_json(content, place, DataError), _Description, place, DataError)
    feature = described.info.features.get(column)
    if not isinstance(feature, dict) or feature.get("_type", "ClassLabel") != "ClassLabel":
        return ()
    known = parse_model(feature, _ClassLabel, f"{place}: column {shown(column)}", DataError)
    if any(not name.strip() for name in known.names or ()):
        raise DataError(f"{place}: column {shown(column)} has a class without a name")
    return known.names or ()


class _Info(BaseModel):
    features: dict[str, Any] = Field(default_factory=dict)


class _Description(BaseModel):
    """What the library `datasets` writes into a file's metadata."""

    info: _Info = Field(default_factory=_Info)


class _ClassLabel(BaseModel):
    names: tuple[Annotated[str, Field(strict=True)], ...] | None = None


class Own(BaseModel):
    """What headmask writes into a file's metadata."""

    templates: tuple[Annotated[str, Field(strict=True)], ...] = ()
    """Prompt templates that came with the data."""
    labels: tuple[Annotated[str, Field(strict=True)], ...] = ()
    """The source's labels of the classes, if they differ from the class names."""
    ignored: dict[str, int] = Field(default_factory=dict)
    """Number of the source's files that are not images, by ending."""

    @classmethod
    def of(cls, schema: pa.Schema, where: str) -> Self:
        """Return the content of a file's metadata.

        Raises:
            DataError: it is malformed.
        """
        content = (schema.metadata or {}).get(b"headmask")
        if content is None:
            return cls()
        place = f"{shown(where)}: what headmask wrote into its metadata"
        return parse_model(parse_json(content, place, DataError), cls, place, DataError)


def check_labels(values: Sequence[int], num_classes: int, where: str) -> None:
    """Check that labels name classes.

    Raises:
        DataError: one does not.
    """
    for number, value in enumerate(values):
        if not 0 <= value < num_classes:
            raise DataError(f"{shown(where)} row {number}: label must be 0 to {num_classes - 1}; got {value}")


def check_type(what: str, column: str, schema: pa.Schema, where: str) -> None:
    """Check that a column has a type that can be read.

    Raises:
        DataError: its type cannot be read.
    """
    kind = schema.field(column).type
    fits, wanted = _FITS[what](kind), _WANTED[what]
    if what == "label" and _item(kind) is not None:
        raise DataError(
            f"{shown(where)}: label column {shown(column)} holds several labels per image ({kind}); multi-label data "
            "is not supported, give every image one label"
        )
    if not fits:
        raise DataError(f"{shown(where)}: {what} column {shown(column)} must be {wanted}; got {kind}")


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _item(kind: pa.DataType) -> pa.DataType | None:
    """Return the type of a list's items; None for any other type."""
    kind = _plain(kind)
    is_listed = any(
        test(kind)
        for test in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_fixed_size_list,
            pa.types.is_list_view,
            pa.types.is_large_list_view,
        )
    )
    return _plain(kind.value_type) if is_listed else None


def _is_text(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_bytes(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def is_whole(kind: pa.DataType) -> bool:
    """Return whether a type is an integer type."""
    return bool(pa.types.is_integer(_plain(kind)))


def _is_image(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    if not pa.types.is_struct(kind):
        return _is_bytes(kind)
    parts = {each.name: each.type for each in kind}
    fits = {"bytes": _is_bytes, "path": _is_text}
    known = [name for name in fits if name in parts]
    return bool(known) and all(fits[name](parts[name]) or pa.types.is_null(parts[name]) for name in known)


def _is_name(kind: pa.DataType) -> bool:
    """Return whether a type can hold names of groups or splits; all of them may be missing."""
    return _is_text(kind) or is_whole(kind) or bool(pa.types.is_boolean(kind)) or bool(pa.types.is_null(kind))


_FITS: dict[str, Callable[[pa.DataType], bool]] = {
    "image": _is_image,
    "caption": lambda kind: _is_text(_item(kind) or kind),
    "label": lambda kind: _is_text(kind) or is_whole(kind),
    "group": _is_name,
    "pair": is_whole,
    "split": _is_name,
}
_WANTED = {
    "image": "struct<bytes, path> of an encoded file and its name, or binary",
    "caption": "string or list<string>",
    "label": "integer or string",
    "group": "string or integer",
    "pair": "integer",
    "split": "string or integer",
}
