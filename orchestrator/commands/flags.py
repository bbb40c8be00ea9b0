"""Flags made of settings: their names, types and help are what `orchestrator.settings.sections` says."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from types import MappingProxyType
from typing import Annotated, Any

import typer

from headmask.errors import HeadmaskError
from orchestrator.commands.tools import cut
from orchestrator.settings.options import MODEL, READING, SEARCH, Option, Options, alternatives

Settings = Mapping[str, Any]
"""Settings that a command was given, by short name; those that it was not given are left out."""
Command = Callable[..., None]
GIVEN: Settings = MappingProxyType({})
"""The default of `settings`, so that a command may have flags of its own before those that are in its place."""
PLACE = "settings"
"""The parameter of a command in whose place its flags are."""
SCORING = {**MODEL, **READING, "pixels": SEARCH["pixels"]}
"""The options of commands that score or explain a mask that is there."""


def takes(options: Options, *, defaults: bool = False) -> Callable[[Command], Command]:
    """Return a decorator that gives a command a flag for each option; its parameter `settings` gets their values.

        @app.command()
        @takes(READING)
        def show(file: Path, settings: Settings) -> None: ...

    Args:
        options: by short name.
        defaults: whether help shows the defaults of settings and lists flags by their sections.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        flags = [flag for option in options.values() for flag in _flags(option, defaults)]
        parameters = [each for own in signature.parameters.values() for each in (flags if own.name == PLACE else [own])]

        @functools.wraps(command)
        def called(**given: Any) -> None:
            settings = {name: value for name, value in _taken(options, given) if value is not None}
            command(**given, **{PLACE: settings})

        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return called

    return decorate


def for_reading(settings: Settings) -> dict[str, Any]:
    """Return the settings that say how a data set is read."""
    return {name: value for name, value in settings.items() if name in READING}


def for_model(settings: Settings) -> dict[str, Any]:
    """Return the settings that say which model is meant and how images are prepared for it."""
    return {name: value for name, value in settings.items() if name not in READING}


def _taken(options: Options, given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the options that a command line has, taken out of its values."""
    for name, option in options.items():
        value = given.pop(name)
        former = given.pop(option.setting.formerly) if option.setting.formerly else None
        value = former if value is None else value
        # Typer has an empty list where a flag that may be repeated is not given.
        yield name, None if value is None or value == [] else _parsed(option, value)


def _parsed(option: Option, value: Any) -> Any:
    if option.setting.takes == "by_name":
        return _limits(option, value)
    (kind, *_) = option.kinds
    if typing.get_origin(kind) is tuple:
        (item,) = alternatives(typing.get_args(kind)[0])
        return _numbers(option, value) if item is int else _heads(option, value)
    return value


def _flags(option: Option, defaults: bool) -> Iterator[Parameter]:
    """Yield the flag of a setting, and, hidden, the flag that it had before."""
    setting = option.setting
    kind = _kind(option)
    help_text = option.description + (_default(option) if defaults else "")
    names = [option.flag]
    if kind is bool and option.default is True:
        names = [f"{option.flag}/--no-{option.flag[2:]}"]
    panel = option.section.capitalize() if defaults else None
    metavar = setting.metavar or _metavar(option)
    shown = typer.Option(*names, help=help_text, metavar=metavar, rich_help_panel=panel, show_default=False)
    yield _parameter(option.name, kind, shown)
    if former := setting.formerly:
        names = [name.replace(option.flag[2:], former.replace("_", "-")) for name in names]
        yield _parameter(former, kind, typer.Option(*names, hidden=True))


def _parameter(name: str, kind: Any, shown: Any) -> Parameter:
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Annotated[kind | None, shown])


def _kind(option: Option) -> Any:
    """Return the type that Typer is told; what else a value must be is checked with all settings."""
    if option.setting.takes != "one":
        return list[str]
    return option.kinds[0] if option.kinds in ((bool,), (int,), (float,)) else str


def _metavar(option: Option) -> str | None:
    """Return what help shows in the place of a value: the words to choose from, N for a number; None for the type."""
    if option.choices:
        return "|".join(["N"] * (int in option.kinds) + list(option.choices))
    return "PATH" if option.is_path else None


def _default(option: Option) -> str:
    """Return a sentence on the default; nothing where a description says what holds by default, or a flag is off."""
    if option.default is None or option.default is False:
        return ""
    if isinstance(option.default, bool):
        return " Default: on."
    return f" Default: {option.default:g}." if isinstance(option.default, float) else f" Default: {option.default}."


def _limits(option: Option, texts: list[str]) -> dict[str, float]:
    limits = {}
    for text in texts:
        name, _, points = text.rpartition("=")
        try:
            limits[name] = float(points)
        except ValueError:
            raise HeadmaskError(f"{option.flag} must be NAME=POINTS, such as coco=0.5; got {cut(text)!r}") from None
    return limits


def _heads(option: Option, text: str) -> list[str]:
    if not (heads := text.replace(",", " ").split()):
        raise HeadmaskError(f"{option.flag} must be heads separated by commas, such as L11H3,L0H1; got {cut(text)!r}")
    return heads


def _numbers(option: Option, text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise HeadmaskError(f"{option.flag} must be numbers separated by commas; got {cut(text)!r}") from None
