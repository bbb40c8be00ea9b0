"""Settings for the command line and Python, each under one short name, all derived from `sections.py`."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import WithJsonSchema
from pydantic.fields import FieldInfo

from headmask.errors import ConfigError, did_you_mean
from orchestrator.settings.sections import SECTIONS
from orchestrator.settings.setting import PATH, Setting, setting_of


@dataclass(frozen=True)
class Option:
    """A setting under its short name: `masks` is `masks` of the section `budget`."""

    name: str
    section: str
    key: str
    field: FieldInfo

    @property
    def setting(self) -> Setting:
        """Properties of the setting besides its type, its default and its description."""
        return setting_of(self.field)

    @property
    def path(self) -> str:
        """The dotted key, such as `budget.masks`."""
        return f"{self.section}.{self.key}"

    @property
    def flag(self) -> str:
        """The flag, such as `--max-heads`."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def description(self) -> str:
        """Its description, on one line."""
        return " ".join((self.field.description or "").split())

    @property
    def default(self) -> Any:
        """Its default; None if there is none."""
        return None if self.field.is_required() or self.field.default == () else self.field.default

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that a value may have, except None."""
        return tuple(kind for kind in alternatives(self.field.annotation) if kind is not type(None))

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that a value may be, if there are only a few."""
        listed = [each.json_schema or {} for each in self.field.metadata if isinstance(each, WithJsonSchema)]
        words = [word for kind in self.kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind)]
        return (*words, *(word for schema in listed for word in schema.get("enum", ())))

    @property
    def is_path(self) -> bool:
        """Whether a value may be given as a path."""
        return PATH in self.field.metadata or any(
            PATH in getattr(part, "__metadata__", ()) for part in typing.get_args(self.field.annotation)
        )


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself, without annotations."""
    if typing.get_origin(annotation) is typing.Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in UNIONS:
        return tuple(kind for part in typing.get_args(annotation) for kind in alternatives(part))
    return (annotation,)


UNIONS = (typing.Union, type(int | None))


def _all() -> Iterator[Option]:
    for section, model in SECTIONS.items():
        for key, field in model.model_fields.items():
            if setting_of(field).flag:
                yield Option(setting_of(field).name or key, section, key, field)


Options = Mapping[str, Option]


def chosen(test: Callable[[Option], bool]) -> Options:
    """Return the options that pass a test, by name."""
    return MappingProxyType({option.name: option for option in _all() if test(option)})


SEARCH = chosen(lambda option: True)
"""The options of a search, which are all options."""
RESUME = chosen(lambda option: option.setting.resume)
"""The options that may change when a study is resumed."""
SCAN = chosen(lambda option: option.setting.scan)
"""The options of a scan."""
REFINE = chosen(
    lambda option: (
        option.setting.scan or option.setting.refine or (option.setting.resume and option.section != "budget")
    )
)
"""The options of a refinement."""
REFINE_RUN = chosen(lambda option: option.setting.resume and (option.section == "pool" or option.name == "out"))
"""The options of a refinement of a finished search, which brings the others."""
READING = chosen(lambda option: option.setting.reading)
"""The options that say how a data set is read."""
MODEL = chosen(lambda option: option.section == "model")
"""The options that say which model is meant."""


def flags_of(given: Mapping[str, Any], options: Options = SEARCH) -> dict[str, Any]:
    """Return settings given by short name as settings by dotted key, with paths as text.

    Raises:
        ConfigError: a name is unknown; the message gives the nearest one.
    """
    former = {option.setting.formerly: name for name, option in options.items() if option.setting.formerly}
    flags = {}
    for name, value in given.items():
        if (known := former.get(name, name)) not in options:
            raise ConfigError(f"{name}: unknown option{did_you_mean(name, options)}")
        flags[options[known].path] = str(value) if isinstance(value, Path) else value
    return flags
