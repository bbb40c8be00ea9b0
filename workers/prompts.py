"""Class names and prompt templates of zero-shot classification."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headmask.errors import DataError

IMAGENET, SIMPLE = "imagenet", "simple"


def prompts(class_names: Sequence[str], templates: Sequence[str]) -> tuple[str, ...]:
    """Return every template filled with every class name, class by class."""
    return tuple(template.replace("{c}", name) for name in class_names for template in templates)


def templates_of(wanted: str | None, own: Sequence[str] = ()) -> tuple[str, ...]:
    """Return prompt templates, with {c} for the class name.

    Args:
        wanted: `imagenet` for the 80 templates of CLIP's ImageNet evaluation, `simple` for the 7 best of them, or a
            file with a template per line; None for those that came with the data, or else `imagenet`.
        own: those that came with the data.

    Raises:
        DataError: there is no such file, or a line has no place for the class name.
    """
    if wanted is None and own:
        return _checked(own, "the data file")
    if wanted in (None, IMAGENET, SIMPLE):
        from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

        fill = SIMPLE_IMAGENET_TEMPLATES if wanted == SIMPLE else OPENAI_IMAGENET_TEMPLATES
        return tuple(template("{c}") for template in fill)
    return _checked(read_lines(Path(str(wanted)), f"templates must be {IMAGENET}, {SIMPLE} or a file"), str(wanted))


def _checked(templates: Sequence[str], where: str) -> tuple[str, ...]:
    found = tuple(template.replace("{}", "{c}") for template in templates)
    for template in found:
        if "{c}" not in template:
            raise DataError(f"{where}: a template needs {{c}} where the class name goes; got {template!r}")
    return found


def read_class_names(path: Path, own: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the class names of a file: one per line or a JSON list, in order of labels; or a JSON object by own name.

    Names may repeat; two of ImageNet's do.

    Args:
        path: the file.
        own: what the data calls its classes, such as folder names.

    Raises:
        DataError: no such file, another number of names than classes, or a class without a name.
    """
    names: Sequence[Any]
    if path.suffix.lower() == ".json":
        content = read_json(path)
        if isinstance(content, dict):
            missing = [name for name in own if name not in content]
            if missing:
                raise DataError(f"{path} has no name for class {missing[0]!r}, nor for {len(missing) - 1} others")
            content = [content[name] for name in own]
        # ImageNet's class index has lists of synset and name.
        names = [str(each[-1]) if isinstance(each, list) else str(each) for each in content]
    else:
        names = read_lines(path, "there is no file of class names")
    if own and len(names) != len(own):
        raise DataError(f"{path} has {len(names)} class names, the data has {len(own)} classes")
    return tuple(names)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: no such file, or not JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from None


def read_lines(path: Path, rule: str) -> tuple[str, ...]:
    """Return the lines of a UTF-8 file, those that are empty left out.

    Raises:
        DataError: there is no such file, or nothing in it; the message begins with the rule.
    """
    try:
        lines = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{rule}; got {str(path)!r} ({getattr(error, 'strerror', None) or error})") from None
    if not lines:
        raise DataError(f"{path} is empty")
    return lines
