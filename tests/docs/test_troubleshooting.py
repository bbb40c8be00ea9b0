"""What the troubleshooting page quotes is what the code says."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUOTED = re.findall(r"```output\n(.*?)\n```", (ROOT / "docs" / "troubleshooting.md").read_text(), re.DOTALL)


@cache
def messages():
    """Return every text in the code, with `…` for what is filled in."""
    trees = [
        ast.parse(path.read_text())
        for package in ("headmask", "workers", "strategies", "orchestrator")
        for path in (ROOT / package).rglob("*.py")
    ]
    return [text for tree in trees for node in ast.walk(tree) if (text := _text(node)) is not None]


def _text(node):
    match node:
        case ast.JoinedStr():
            return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        case ast.Constant(value=str(text)):
            return text
    return None


def test_the_page_quotes_messages():
    assert len(QUOTED) > 30
    assert len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize("quoted", QUOTED)
def test_every_quoted_message_is_in_the_code(quoted):
    assert any(quoted in message for message in messages()), quoted
