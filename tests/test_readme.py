"""What the README and the other pages say is true: examples run, commands parse, links lead somewhere."""

import json
import re
import shlex
from pathlib import Path

import open_clip
import pytest

from orchestrator.demo import epilogue
from orchestrator.outcome.schema import SearchResult
from tests.commands import parse_headmask
from tests.docs.pages import PAGES, ROOT
from tests.orchestrator.run.test_runner import recall_of

COMMAND = re.compile(r"^ {4}(headmask .*)$", re.MULTILINE)
COMMANDS = sorted({line for page in PAGES for line in COMMAND.findall(page.read_text())})


def test_the_python_example_runs(demo_run, monkeypatch, capsys):
    monkeypatch.chdir(demo_run)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert "heads to ablate: L" in capsys.readouterr().out
    assert Path("refined.safetensors").stat().st_size > 1e6


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    parse_headmask(command)


def test_the_readme_shows_every_command_of_the_main_job():
    shown = {shlex.split(command)[1] for command in COMMANDS}
    assert shown >= {"data", "search", "resume", "report", "eval", "export"}


def test_the_readme_names_only_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"^ {4}make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets


def test_the_result_page_names_every_field():
    page = (ROOT / "docs" / "result.md").read_text()
    assert [field for field in SearchResult.model_fields if f"`{field}" not in page] == []


def test_the_demo_improves_reliably_and_its_folded_model_gives_the_reported_recall(demo_run):
    """With stock open_clip: its loader, its preprocessing, its tokenizer."""
    result = json.loads((demo_run / "runs" / "demo" / "result.json").read_text())
    assert result["verdict"] == "reliable improvement"
    assert "captions" in epilogue(SearchResult.model_validate(result), Path("runs/demo"))
    folder = f"local-dir:{demo_run / 'runs' / 'demo' / 'folded'}"
    model, _, preprocess = open_clip.create_model_and_transforms(folder)
    data = demo_run / "runs" / "demo" / "scenes.parquet"
    recall = recall_of(model.eval(), preprocess, open_clip.get_tokenizer(folder), data)
    assert recall == pytest.approx(result["splits"]["test"]["selected"]["mean_recall"], abs=2e-4)
