"""A setting: its type with its checks, and the properties given where it is defined, in `sections.py`."""

from __future__ import annotations

import numbers
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator
from pydantic.fields import FieldInfo

from headmask.border.reading import check_text


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Properties of a setting besides its key, type, default and description; a part of `Annotated`."""

    fingerprint: Literal["value", "changed", "effect"] | None = None
    """How it determines a study. `value`: the fingerprint has its value under its key. `changed`: the same, but only if
    it is not the default, so that studies from before the setting existed can continue. `effect`: the fingerprint has
    its result, such as the digest of a data set, which `Session.fingerprint` names."""
    resume: bool = False
    """Whether it may change when a study is resumed."""
    scan: bool = False
    """Whether `headmask.scan` has it, too; then a refinement without a search has it as well."""
    refine: bool = False
    """Whether a refinement without a search has it, although a scan has not."""
    reading: bool = False
    """Whether it says how a data set is read, for every command that reads one."""
    name: str | None = None
    """Name of its flag and of its Python option, if that is not the key."""
    flag: bool = True
    """Whether it has a flag and a Python option; other settings are for files only."""
    metavar: str | None = None
    """Placeholder for the value in the help text, if the type does not give one."""
    takes: Literal["one", "several", "by_name"] = "one"
    """With several data sets: one value for all, one each, or one by data set name."""
    formerly: str | None = None
    """Its former name, which still works."""


def setting_of(field: FieldInfo) -> Setting:
    """Return the properties of a section's field."""
    return next((each for each in field.metadata if isinstance(each, Setting)), Setting())


def _number(value: Any) -> Any:
    """Return a number; booleans and texts are refused."""
    # NumPy's numbers are registered, its booleans are not.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError("must be a number")
    return value


def count_or(word: str, value: Any, maximum: int, minimum: int = 1) -> int | str:
    """Return a word, or a number between bounds, also as text.

    Checked here, because a union of types would report every mistake twice.
    """
    if isinstance(value, str) and value == word:
        return word
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        value = int(value)
    # As for other whole numbers, 3.0 is 3.
    is_whole = not isinstance(value, bool) and isinstance(value, numbers.Real) and value == value // 1
    if not is_whole or not minimum <= value <= maximum:
        raise ValueError(f"must be {word}, or a whole number from {minimum} to {maximum:,}")
    return int(value)


def _boolean(value: Any) -> Any:
    # NumPy's booleans are not instances of bool.
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise ValueError("must be true or false")
    return bool(value)


def _text(text: str) -> str:
    """Return a text that can name something."""
    if not text.strip():
        raise ValueError("must not be empty")
    if reason := check_text(text):
        raise ValueError(reason)
    return text


Whole = Annotated[int, BeforeValidator(_number)]
"""A whole number. Its range is given with the setting: `Annotated[Whole, Field(ge=..., le=...)]`."""
Real = Annotated[float, BeforeValidator(_number)]
"""A finite number."""
Switch = Annotated[bool, BeforeValidator(_boolean)]
Text = Annotated[str, Strict(), AfterValidator(_text)]
MAX_SEED = 2**63 - 1
MAX_MASKS = 10_000_000
"""Maximum number of masks in a study; the trials of more would fill a large machine's memory."""
MAX_HEADS = 1_000_000
MAX_THREADS = 1_024
MAX_CHUNK = 65_536
MAX_POOL = 100_000
"""Maximum number of replicas, however large the cluster is."""
PATH = object()
"""Marks a text that may also be given as a path."""
AnyPath = Annotated[Text, PATH]
HeadCount = Annotated[Whole, Field(ge=1, le=MAX_HEADS)]
MaskCount = Annotated[Whole, Field(ge=1, le=MAX_MASKS)]
Seed = Annotated[Whole, Field(ge=0, le=MAX_SEED)]
Threads = Annotated[Whole, Field(ge=1, le=MAX_THREADS)]


class Section(BaseModel):
    """Settings that belong together; unknown settings and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, content: Any) -> Any:
        return cls.renamed(content) if isinstance(content, dict) else content

    @classmethod
    def renamed(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Return the content with settings under their current names."""
        former = {setting_of(field).formerly: name for name, field in cls.model_fields.items()}
        return {former.get(key, key) if former.get(key) not in content else key: content[key] for key in content}

    def decisive(self) -> dict[str, Any]:
        """Return the settings whose values determine a study, as JSON values by their keys."""
        kinds = {name: setting_of(field).fingerprint for name, field in type(self).model_fields.items()}
        changed = self.model_dump(include={name for name in kinds if kinds[name] == "changed"}, exclude_defaults=True)
        return self.model_dump(mode="json", include={name for name in kinds if kinds[name] == "value"} | changed.keys())
