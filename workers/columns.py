"""Which columns of a table hold what, and whether they have types that can be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from headmask.errors import DataError
from workers.tasks import TaskName

COLUMNS = {
    "image": ("image", "img", "jpg", "jpeg", "png", "webp"),
    "caption": ("caption", "captions", "text", "sentences", "sentence", "raw", "alt_text", "txt"),
    "label": ("label", "labels", "cls", "fine_label", "class"),
    "group": ("group", "groups"),
    "pair": ("pair",),
    "split": ("split",),
}
"""What columns are usually called, by what they hold."""


@dataclass(frozen=True)
class Columns:
    """Names of columns; those that are None are found by what they are usually called."""

    image: str | None = None
    caption: str | None = None
    label: str | None = None
    group: str | None = None
    pair: str | None = None
    split: str | None = None

    def find(self, what: str, schema: pa.Schema, where: str) -> str | None:
        """Return the name of a column in a file, or None where it is not named and not there.

        Raises:
            DataError: a column that is named is not there.
        """
        asked = getattr(self, what)
        if asked is not None and asked not in schema.names:
            raise no_column(what, asked, schema, where)
        return asked or next((name for name in COLUMNS[what] if name in schema.names), None)

    def task(self, schema: pa.Schema, where: str) -> TaskName:
        """Return the task that the columns of a file are for."""
        if self.label is None or self.caption is not None:
            if self.find("pair", schema, where) and self.find("caption", schema, where):
                return "matching"
            if self.find("caption", schema, where):
                return "retrieval"
        return "classification" if self.find("label", schema, where) else "retrieval"


def no_column(what: str, wanted: str, schema: pa.Schema, where: str) -> DataError:
    """Return the error for a column that is not there."""
    names = ", ".join(schema.names)
    return DataError(f"{where} has no {what} column {wanted}; it has {names}. Name one with --{what}-column")


def label_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Return the class names that a file's description for the Hugging Face hub gives a column; there may be none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[column]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def check_labels(values: Sequence[int], num_classes: int, where: str) -> None:
    """Check that labels name classes.

    Raises:
        DataError: one does not.
    """
    for number, value in enumerate(values):
        if not 0 <= value < num_classes:
            raise DataError(f"{where} row {number}: label must be 0 to {num_classes - 1}; got {value}")


def check_type(what: str, column: str, schema: pa.Schema, where: str) -> None:
    """Check that a column has a type that can be read.

    Raises:
        DataError: it has not.
    """
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    listed = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    is_text = pa.types.is_string(listed) or pa.types.is_large_string(listed)
    if what == "image":
        is_struct = pa.types.is_struct(kind) and {"bytes", "path"} & {each.name for each in kind}
        fits = is_struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        wanted = "struct<bytes, path> or binary"
    elif what == "caption":
        fits, wanted = is_text, "string or list<string>"
    elif what == "label" and listed is not kind:
        raise DataError(
            f"{where}: label column {column} holds several labels per image ({kind}); multi-label data is not "
            "supported, give every image one label"
        )
    elif what == "label":
        fits, wanted = is_text or pa.types.is_integer(kind), "integer or string"
    else:
        fits, wanted = pa.types.is_integer(kind), "integer"
    if not fits:
        raise DataError(f"{where}: {what} column {column} must be {wanted}; got {kind}")
