"""Class names and prompt templates of zero-shot classification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headmask.border.reading import lines_of, read_json, read_text
from headmask.border.shown import shown
from headmask.errors import DataError

IMAGENET, SIMPLE = "imagenet", "simple"


def prompts(class_names: Sequence[str], templates: Sequence[str]) -> tuple[str, ...]:
    """Return every template filled with every class name, class by class."""
    return tuple(template.replace("{c}", name) for name in class_names for template in templates)


def templates_of(wanted: str | None, own: Sequence[str] = ()) -> tuple[str, ...]:
    """Return prompt templates, with {c} for the class name.

    Args:
        wanted: `imagenet` for the 80 templates of CLIP's ImageNet evaluation, `simple` for the 7 best of them, or a
            file with one template per line; None for those that came with the data, or else `imagenet`.
        own: the templates that came with the data.

    Raises:
        DataError: there is no such file, or a line has no place for the class name.
    """
    if wanted is None and own:
        return check_templates(own, "the data file")
    if wanted in (None, IMAGENET, SIMPLE):
        from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

        fill = SIMPLE_IMAGENET_TEMPLATES if wanted == SIMPLE else OPENAI_IMAGENET_TEMPLATES
        return tuple(template("{c}") for template in fill)
    try:
        lines = read_lines(Path(str(wanted)), "template file")
    except DataError as error:
        raise DataError(f"templates must be {IMAGENET}, {SIMPLE} or a file: {error}") from None
    return check_templates(lines, shown(str(wanted)))


def check_templates(templates: Sequence[str], where: str) -> tuple[str, ...]:
    """Return prompt templates with {c} for the class name; {} is accepted and replaced.

    Raises:
        DataError: a template has no place for the class name.
    """
    found = tuple(template.replace("{}", "{c}") for template in templates)
    for template in found:
        if "{c}" not in template:
            raise DataError(f"{where}: a template needs {{c}} where the class name goes; got '{shown(template)}'")
    return found


def read_names(path: Path) -> tuple[str, ...] | dict[str, str]:
    """Return the class names of a file: one per line or a JSON list, in order of labels; or a JSON object by label.

    Names may repeat; two of ImageNet's do.

    Raises:
        DataError: no such file, none in it, or one is not a text.
    """
    if path.suffix.lower() != ".json":
        return read_lines(path, "class names")
    content = read_json(path, "class names", DataError)
    if not isinstance(content, list | dict) or not content:
        raise DataError(
            f"class names {shown(path)} must be a JSON list of names, or an object of names by label; "
            f"got {shown(repr(content)[:60])}"
        )
    if isinstance(content, dict):
        return {label: _name(name, f"for label {shown(label)}", path) for label, name in content.items()}
    return tuple(_name(name, f"at place {place}", path) for place, name in enumerate(content))


def _name(value: Any, place: str, path: Path) -> str:
    # ImageNet's class index has lists of synset and name.
    name = value[-1] if isinstance(value, list) and value else value
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"class names {shown(path)}: a name is a text; got {shown(repr(value)[:60])} {place}")
    return name.strip()


def read_lines(path: Path, what: str) -> tuple[str, ...]:
    """Return the non-empty lines of a UTF-8 file, without surrounding blanks.

    Args:
        path: the file.
        what: what the file should be, for errors.

    Raises:
        DataError: the file cannot be read, or there is nothing in it.
    """
    lines = tuple(line.strip() for line in lines_of(read_text(path, what, DataError)) if line.strip())
    if not lines:
        raise DataError(f"{what} {shown(path)} is empty")
    return lines
