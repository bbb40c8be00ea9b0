"""Write the pages of the reference that are made of code: `python docs/generate.py`, which `make docs` runs."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from headmask.maskfile import MaskFile
from orchestrator.compare.content import Comparison
from orchestrator.explain.explanation import Explanation
from orchestrator.outcome.schema import SearchResult
from orchestrator.settings.config import SearchConfig

Schema = dict[str, Any]

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Made by docs/generate.py of the code; change that. -->"
FILES: dict[str, type[BaseModel]] = {
    "result.json": SearchResult,
    "mask.json": MaskFile,
    "explain.json": Explanation,
    "compare --json": Comparison,
}
"""What machines read, and what describes it."""


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


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
