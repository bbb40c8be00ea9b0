"""The configuration of a search: a TOML file, overridden by command-line flags, validated as a whole.

All mistakes are reported at once; unknown keys come with the nearest known name.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from headmask.border.foreign import reason_of
from headmask.border.passwords import redacted
from headmask.border.reading import read_text
from headmask.border.shown import counted, shown
from headmask.errors import ConfigError, HeadmaskError, did_you_mean
from headmask.pixels.images import COMPOSITED
from orchestrator.settings.location import absolute, is_url, located
from orchestrator.settings.sections import (
    SECTIONS,
    BudgetSection,
    DataSection,
    ModelSection,
    OutputSection,
    PoolSection,
    SearchSection,
)
from orchestrator.settings.setting import Section


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


class SearchConfig(Section):
    """Everything a search needs to know."""

    model: ModelSection
    data: tuple[DataSection, ...]
    """One data set, or several that are searched on together."""
    output: OutputSection
    search: SearchSection = SearchSection()
    budget: BudgetSection = BudgetSection()
    pool: PoolSection = PoolSection()

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_several(cls, data: Any) -> Any:
        # Not by a minimum length of the tuple: a mistake in the only data set would be reported as one of length, too.
        if data == [] or data == ():
            raise ValueError(_MISSING["data"])
        return [data] if isinstance(data, dict | DataSection) else data

    @model_validator(mode="after")
    def _data_sets_fit(self) -> Self:
        names = [section.name or Path(section.path).stem for section in self.data]
        if len(set(names)) < len(names):
            raise ValueError(f"two data sets are called {_twice(names)}; give them a name each")
        if all(section.max_loss is not None for section in self.data):
            raise ValueError("every data set has a max_loss, so there is nothing to improve; leave one without")
        if self.search.tower == "text" and self.pool.shards not in ("auto", 1):
            raise ValueError(
                f"pool.shards splits images, and the heads of the text tower are searched; got {self.pool.shards}"
            )
        return self

    @property
    def data_sets(self) -> dict[str, DataSection]:
        """The data sets by name."""
        return {section.name or Path(section.path).stem: section for section in self.data}

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output.folder)

    @property
    def study_name(self) -> str:
        """Name of the study."""
        return self.output.study or self.folder.resolve().name

    @property
    def storage(self) -> str:
        """Journal file or database URL."""
        return self.output.storage or str(self.folder / "study.journal")

    def anywhere(self) -> Self:
        """Return the configuration with absolute paths, as a study keeps it, to be resumed from any folder.

        Paths of the model become absolute when it is loaded: only then is it known what is a tag.
        """
        uri = self.output.tracking_uri
        output = self.output.model_copy(
            update={
                "folder": absolute(self.output.folder),
                "storage": None if self.output.storage is None else located(self.output.storage),
                "tracking_uri": uri if uri is None or not is_url(uri) else located(uri),
            }
        )
        data = tuple(section.anywhere() for section in self.data)
        return self.model_copy(update={"data": data, "output": output})

    def with_tracking(self, uri: str | None) -> SearchConfig:
        """Return the configuration with another address for tracking."""
        return self.model_copy(update={"output": self.output.model_copy(update={"tracking_uri": uri})})

    def public(self) -> dict[str, Any]:
        """Return everything as JSON values, without passwords, and with paths that are valid from any folder.

        The study's name stays the same when its folder is moved.
        """
        content: dict[str, Any] = self.anywhere().model_dump(mode="json")
        content["output"]["study"] = self.study_name
        for key in ("storage", "tracking_uri"):
            if content["output"][key] is not None:
                content["output"][key] = redacted(content["output"][key])
        return content


def flat_settings(public: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's JSON values by dotted keys; with several data sets, keys contain their names."""
    sections = {name: part for name, part in public.items() if name != "data"}
    for part in public["data"]:
        name = part["name"] or Path(part["path"]).stem
        sections["data" if len(public["data"]) == 1 else f"data.{name}"] = part
    return {f"{section}.{key}": value for section, part in sections.items() for key, value in part.items()}


def read_config(path: Path | None, flags: Mapping[str, Any]) -> SearchConfig:
    """Return the configuration of a TOML file, overridden by flags.

    Args:
        path: the file, or None for flags alone.
        flags: dotted keys such as `budget.masks`; None values are left out.

    Raises:
        ConfigError: the file cannot be read, or has mistakes; all of them are listed.
    """
    content = {} if path is None else _read_toml(path)
    for key, value in flags.items():
        if value is not None:
            section, name = key.split(".")
            if section == "data":
                _set_data(content, name, value)
            elif isinstance(part := content.setdefault(section, {}), dict):
                content[section] = {**SECTIONS[section].renamed(part), name: value}
    return parse_config(content, str(path) if path else "the search")


def _read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file."""
    text = read_text(path, "configuration file", ConfigError)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
    except RecursionError:
        reason = "its values are nested too deeply"
    # Such as an integer of 5,000 digits, or a date that no calendar has.
    except ValueError as error:
        reason = "it holds a number with too many digits" if "limit" in str(error) else reason_of(error)
    raise ConfigError(f"cannot read {path}: {reason}")


def _set_data(content: dict[str, Any], name: str, value: Any) -> None:
    """Set a key of all data sets. Each path makes a data set; limits of loss are given by data set name."""
    sections = content.setdefault("data", {})
    are_tables = isinstance(sections, list) and all(isinstance(section, dict) for section in sections)
    if not isinstance(sections, dict) and not are_tables:
        return  # The validation reports this, whatever a flag says.
    if name == "path":
        is_several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
        paths = list(value) if is_several else [value]
        # One path keeps the other settings of a file's only data set.
        content["data"] = [
            {**(sections if isinstance(sections, dict) and len(paths) == 1 else {}), "path": _plain(path)}
            for path in paths
        ]
        return
    sections = [sections] if isinstance(sections, dict) else sections
    if name == "max_loss" and isinstance(value, Mapping):
        _limit_losses(sections, value)
    else:
        for section in sections:
            section[name] = value


def _limit_losses(sections: list[dict[str, Any]], limits: Mapping[str, Any]) -> None:
    by_name = {str(section.get("name") or Path(str(section.get("path"))).stem): section for section in sections}
    for name, points in limits.items():
        if name not in by_name:
            raise ConfigError(
                f"max_loss: there is no data set {name!r}{did_you_mean(name, by_name)}; there are {', '.join(by_name)}"
            )
        by_name[name]["max_loss"] = points


MAX_SHOWN = 60
"""Maximum number of characters of a wrong value in a message."""


def _plain(value: Any) -> Any:
    """Return a path as text, and anything else unchanged."""
    return str(value) if isinstance(value, Path) else value


def parse_config(content: Mapping[str, Any], source: str) -> SearchConfig:
    """Return the configuration that a mapping of sections holds.

    Raises:
        ConfigError: it has mistakes; all of them are listed.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f"{source} must hold the sections of a configuration; it holds {_received(content)}")
    try:
        return SearchConfig.model_validate(content)
    except (ValidationError, HeadmaskError) as error:
        several = isinstance(content.get("data"), list | tuple) and len(content["data"]) > 1
        mistakes = list(_mistakes(error, several=several)) if isinstance(error, ValidationError) else [str(error)]
        count = counted(len(mistakes), "mistake")
        raise ConfigError("\n  ".join([f"{source} has {count}:", *mistakes])) from None


def parse_stored(content: Mapping[str, Any], source: str) -> SearchConfig:
    """Return a stored configuration; one without a pixel rule comes from before there was a choice.

    A share of gates, which 0.1 had, is left out.

    Raises:
        ConfigError: it has mistakes; all of them are listed.
    """
    search = content.get("search")
    if isinstance(search, Mapping):
        search = {key: value for key, value in search.items() if key != "gate_share"}
        content = {**content, "search": {"pixels": COMPOSITED, **search}}
    return parse_config(content, source)


def parse_data(sections: Sequence[Mapping[str, Any]]) -> tuple[DataSection, ...]:
    """Return the data sets that mappings describe.

    Raises:
        ConfigError: one has mistakes; all of them are listed.
    """
    try:
        return tuple(DataSection.model_validate(section) for section in sections)
    except ValidationError as error:
        raise ConfigError("\n  ".join(["the data set has mistakes:", *_mistakes(error)])) from None


def _mistakes(error: ValidationError, *, several: bool = False) -> Iterator[str]:
    """Yield every mistake; with several data sets, the key says which one it is in."""
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"] if not isinstance(part, int))
        if item["type"] == "extra_forbidden":
            text = f"unknown key{did_you_mean(key, _known_keys())}"
        elif item["type"] == "missing":
            text = _MISSING.get(key, "is required")
        else:
            text = _rule(item)
            # A rule over the whole configuration has no value of its own.
            text += f", got {_received(item['input'])}" if item["loc"] and " got " not in text else ""
        if several and len(item["loc"]) > 1 and isinstance(item["loc"][1], int):
            key = key.replace("data", f"data[{item['loc'][1]}]", 1)
        yield f"{shown(key) or 'data'}: {text}"


def _rule(item: ErrorDetails) -> str:
    """Return the rule that a value breaks, in TOML's terms."""
    kind, place = item["type"], item["loc"]  # Empty for a rule over the whole configuration.
    is_section = len(place) == 1 or isinstance(place[-1] if place else None, int)
    if kind in ("model_type", "dict_type") or (kind == "tuple_type" and is_section):
        name = place[0]
        return f"must be a table, which begins with {f'[[{name}]] or ' * (name == 'data')}[{name}]"
    if kind == "tuple_type":
        return 'must be a list, such as [1, 2] or ["L1H2"]'
    text = item["msg"].removeprefix("Value error, ").replace("Input should", "must").replace("String should", "must")
    text = text.partition(", got a number")[0]
    if kind == "value_error":  # Our own errors, which may quote a URL with a port.
        return text
    return re.sub(r"\b\d{5,30}\b", lambda number: f"{int(number[0]):,}", text)


def _received(value: Any) -> str:
    """Return a value fit for a message: short, on one line, without a password."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = redacted(value)
        return shown(repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."))
    if isinstance(value, int) and abs(value) >= 10**MAX_SHOWN:
        return f"a number of about {round(value.bit_length() * math.log10(2)):,} digits"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        listed = ", ".join(map(_received, value[:5]))
        return f"[{listed}{', ...' * (len(value) > 5)}]"
    text = "nothing" if value is None else str(value)
    return shown(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


_MISSING = {
    "model": "say which model, with --model",
    "model.name": "say which model, with --model",
    "data": "say which data, with --data",
    "data.path": "say which data, with --data",
    "output": "say where results go, with --out",
    "output.folder": "say where results go, with --out",
}


def _known_keys() -> list[str]:
    return [*SECTIONS, *(f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields)]
