"""Write what is made of code, the reference and the options of `headmask.search`: `python docs/generate.py`."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import textwrap
import tomllib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

import orchestrator.commands
import orchestrator.settings
from headmask.maskfile import MaskFile
from headmask.scalesfile import ScalesFile
from orchestrator.compare.content import Comparison
from orchestrator.explain.explanation import Explanation
from orchestrator.outcome.schema import SearchResult
from orchestrator.refine.content import RefineResult
from orchestrator.settings.config import SearchConfig
from orchestrator.settings.options import REFINE, RESUME, SCAN, SEARCH, Option, Options, alternatives

Schema = dict[str, Any]

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Made by docs/generate.py of the code; change that. -->"
FILES: dict[str, type[BaseModel]] = {
    "result.json": SearchResult,
    "mask.json": MaskFile,
    "refine.json": RefineResult,
    "scales.json": ScalesFile,
    "explain.json": Explanation,
    "compare --json": Comparison,
}
"""What machines read, and what describes it."""
TYPED = Path(orchestrator.settings.__file__).parent / "typed.py"
ROOT = Path(__file__).parents[1]
TESTED = Path(orchestrator.commands.__file__).parent / "tested.json"
TYPED_HEAD = '''"""The options of `headmask.search` and its kin, for editors and type checkers.

Made by docs/generate.py of `orchestrator.settings.sections`; change that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict
'''
TYPED_CLASSES = {
    "SearchOptions": ("Options of a search.", SEARCH),
    "ResumeOptions": ("Options that may change when a study is resumed.", RESUME),
    "ScanOptions": ("Options of a scan.", SCAN),
    "RefineOptions": ("Options of a refinement.", REFINE),
}
DOCSTRING_WIDTH = 112
USED = ("cluster", "mysql", "onnx", "postgresql", "transformers")
"""Extras that users install."""


def pages() -> dict[str, str]:
    """Return the text of every page by its name in `reference/`."""
    texts = {"commands.md": commands(), "settings.md": settings(), "files.md": files()}
    return {name: "\n\n".join([NOTE, *parts]) + "\n" for name, parts in texts.items()}


def commands() -> list[str]:
    """Return every command with its options, as Typer describes them."""
    typer = [sys.executable, "-m", "typer", "orchestrator.cli", "utils", "docs", "--name", "headmask"]
    text = subprocess.run(typer, capture_output=True, text=True, check=True).stdout.strip()
    _, _, described = html.unescape(text).partition("\n")
    # Lists of commands have the beginnings of sentences.
    whole = {name.split()[-1]: line for name, line in re.findall(r"^#+ `(.*)`\n\n(.*)$", described, re.MULTILINE)}
    described = re.sub(
        r"^\* `(\S+)`: .*\.\.\.$", lambda it: f"* `{it[1]}`: {whole[it[1]]}", described, flags=re.MULTILINE
    )
    return [
        "# Command line",
        # Products would be read as emphasis.
        described.strip().replace("*t2i", "\\*t2i").replace("*i2t", "\\*i2t"),
        "## Exit codes",
        "| code | means |\n|---|---|\n"
        "| 0 | done |\n"
        "| 1 | finished, but something failed, and a line says what |\n"
        "| 2 | bad input, said in one message |\n"
        "| 70 | an error that was not foreseen; the message names the file with its traceback, for a bug report |\n"
        "| 75 | replicas could not be had, or kept dying; the same again may do |\n"
        "| 130 | interrupted; everything scored is saved |",
    ]


def settings() -> list[str]:
    """Return every key of a configuration file."""
    schema = SearchConfig.model_json_schema()
    parts = [
        "# Settings",
        "`headmask search search.toml` reads these keys. Flags override the file. Several data sets are as many "
        "`[[data]]`; one may be `[data]`. Unknown keys are refused, with the nearest that is known.",
    ]
    for section, content in schema["properties"].items():
        model = _definition(schema, content)
        title = f"## `[[{section}]]`" if content.get("type") == "array" else f"## `[{section}]`"
        parts += [title, *_described(model), _settings_table(model)]
    return parts


def files() -> list[str]:
    """Return the schema of every file that machines read."""
    parts = [
        "# Schemas of files",
        "Every field of the JSON that headmask writes. What those of `result.json` mean is told in "
        "[result.json](../result.md), those of `explain.json` in [What the heads do](../explain.md), those of a "
        "comparison in [Comparing masks](../compare.md). `headmask schema` prints JSON schemas, to check files by.",
    ]
    for name, model in FILES.items():
        schema = model.model_json_schema()
        parts += [f"## {name}", *_described(schema), _fields_table(schema, name)]
        for part, content in schema.get("$defs", {}).items():
            parts += [f"### {name}: {part}", *_described(content), _fields_table(content, name)]
    return parts


def _definition(schema: Schema, content: Schema) -> Schema:
    reference = content.get("$ref") or content["items"]["$ref"]
    found: Schema = schema["$defs"][reference.rpartition("/")[2]]
    return found


def _described(model: Schema) -> list[str]:
    text, _, _ = model.get("description", "").partition("\n\nRaises:")
    return [" ".join(text.split())] if text else []


def _settings_table(model: Schema) -> str:
    required = model.get("required", [])
    rows = [
        (f"`{name}`", _type(content, ""), "required" if name in required else _default(content), _meaning(content))
        for name, content in model["properties"].items()
    ]
    return _table(("key", "type", "default", "what it is"), rows)


def _fields_table(model: Schema, file: str) -> str:
    fields = model.get("properties", {}).items()
    rows = [(f"`{name}`", _type(content, file), _meaning(content)) for name, content in fields]
    return _table(("field", "type", "what it is"), rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _meaning(content: Schema) -> str:
    return " ".join(content.get("description", "").split())


def _default(content: Schema) -> str:
    value = content.get("default")
    return "" if value is None or value == [] else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _type(content: Schema, file: str) -> str:
    """Return a type in words; parts of a file are links to their tables."""
    if "$ref" in content:
        part = content["$ref"].rpartition("/")[2]
        anchor = re.sub(r"[^\w\- ]", "", f"{file}: {part}".lower()).replace(" ", "-")
        return f"[{part}](#{anchor})"
    if "anyOf" in content:
        # TOML has no null: settings are left out instead.
        return " or ".join(_type(each, file) for each in content["anyOf"] if file or each.get("type") != "null")
    if "const" in content or "enum" in content:
        return ", ".join(f"`{value}`" for value in content.get("enum", [content.get("const")]))
    if content.get("type") == "array":
        kinds = [content["items"]] if "items" in content else content.get("prefixItems", [])[:1]
        return " of ".join(["list", *(_type(each, file) for each in kinds)])
    if isinstance(content.get("additionalProperties"), dict):
        return f"object of {_type(content['additionalProperties'], file)}"
    return str(content.get("type", "any"))


def ranges() -> str:
    """Return the oldest and the newest tested version of every library that users install, as JSON."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *(each for name in USED for each in extras[name])]
    pins = [_pins(ROOT / name) for name in ("constraints-lowest.txt", "constraints.txt")]
    pythons = [each.rpartition(" ")[2] for each in project["classifiers"] if re.search(r":: Python :: \d", each)]
    rows = {"python": [pythons[0], pythons[-1]]}
    names = {re.split(r"[\[<>=]", each)[0] for each in needed}
    for name in sorted(names, key=str.lower):
        rows[name] = [pin[_normal(name)] for pin in pins]
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(both)}" for name, both in rows.items())
    return f"{{\n{lines}\n}}\n"


def _pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if "==" in line]
    return {_normal(name): version for name, _, version in (line.partition("==") for line in lines)}


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def typed() -> str:
    """Return the text of the file."""
    return TYPED_HEAD + "".join(_typed_class(name, *content) for name, content in TYPED_CLASSES.items())


def _typed_class(name: str, described: str, options: Options) -> str:
    keys = "".join(
        f"    {each.name}: {_python_type(each)}\n{textwrap.indent(_docstring(each.description), ' ' * 4)}\n"
        for each in options.values()
    )
    return f'\n\nclass {name}(TypedDict, total=False):\n    """{described}"""\n\n{keys}'


def _docstring(text: str) -> str:
    lines = textwrap.wrap(text, DOCSTRING_WIDTH)
    return f'"""{lines[0]}"""' if len(lines) == 1 else '"""' + "\n".join(lines) + '\n"""'


def _python_type(option: Option) -> str:
    names = [_python_name(kind) for kind in option.kinds if typing.get_origin(kind) is not Literal]
    if option.choices:
        # An ablation is a word, too, one of those that are registered.
        names = [name for name in names if name != "str"]
        words = ", ".join(f'"{word}"' for word in option.choices)
        names.append(f"Literal[{words}]")
    names += ["Path"] * option.is_path
    form = {"one": "", "several": "Sequence", "by_name": "Mapping"}[option.setting.takes]
    if form:
        names.append(f"{form}[{'str, ' * (form == 'Mapping')}{' | '.join(names)}]")
    return " | ".join(names)


def _python_name(kind: object) -> str:
    """Return a type as it is written in Python."""
    if typing.get_origin(kind) is tuple:
        (item,) = alternatives(typing.get_args(kind)[0])
        return f"Sequence[{_python_name(item)}]"
    return kind.__name__ if isinstance(kind, type) else str(kind)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    TYPED.write_text(typed(), encoding="utf-8")
    TESTED.write_text(ranges(), encoding="utf-8")
