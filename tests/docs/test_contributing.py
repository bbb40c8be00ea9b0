"""What CONTRIBUTING.md says of the layout is so."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("headmask", "workers", "strategies", "orchestrator")
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILE = re.compile(r"`([\w.]+/[\w./]+)`")


def named_in(text):
    """Return the files and folders that a text names, but those that stand for the reader's own."""
    return {name for name in FILE.findall(text) if "yours" not in name}


def test_every_place_that_it_names_is_there():
    assert len(named_in(TEXT)) > 10
    assert [name for name in sorted(named_in(TEXT)) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("kind", ["An ablation", "A task"])
def test_a_recipe_names_three_files_at_most(kind):
    recipe = TEXT.split(f"\n## {kind}\n")[1].split("\n## ")[0]
    assert 1 <= len(named_in(recipe)) <= 3


def test_tests_lie_in_the_rooms_of_the_code():
    rooms = {
        path.parent.relative_to(ROOT / "tests") for each in PACKAGES for path in ROOT.glob(f"tests/{each}/**/test_*.py")
    }
    assert len(rooms) > 20
    assert [str(room) for room in sorted(rooms) if not (ROOT / room / "__init__.py").exists()] == []


def test_no_benchmark_puts_its_folder_on_the_path():
    """`benchmarks/strategies` would stand in for the package `strategies`, in every process started after that."""
    assert [path.name for path in (ROOT / "benchmarks").rglob("*.py") if "sys.path" in path.read_text()] == []
