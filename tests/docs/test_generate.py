"""The reference is what the code says now."""

import pytest

from docs.generate import FOLDER, TESTED, TYPED, pages, ranges, typed
from orchestrator.outcome.schema import SearchResult
from orchestrator.settings.options import SEARCH


@pytest.fixture(scope="module")
def made():
    return pages()


@pytest.mark.parametrize("name", ["commands.md", "settings.md", "files.md"])
def test_pages_are_fresh(made, name):
    assert made[name] == (FOLDER / name).read_text(), "run `python docs/generate.py`"


def test_options_of_python_are_fresh():
    assert typed() == TYPED.read_text(), "run `python docs/generate.py`"


def test_tested_versions_are_those_of_the_constraints():
    assert ranges() == TESTED.read_text(), "run `python docs/generate.py`"


def test_every_option_is_in_the_settings(made):
    assert [option.key for option in SEARCH.values() if f"| `{option.key}` |" not in made["settings.md"]] == []


def test_every_setting_says_what_it_is(made):
    rows = [line for line in made["settings.md"].splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_field_of_a_result_is_in_the_schemas(made):
    assert [name for name in SearchResult.model_fields if f"| `{name}` |" not in made["files.md"]] == []
