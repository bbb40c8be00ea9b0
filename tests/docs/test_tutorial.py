"""The tutorial's commands run in the order in which they stand, with fewer masks."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from orchestrator.cli import main
from orchestrator.demo import unpack_demo
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
COMMANDS = re.findall(r"^ {4}((?:headmask|python) .*)$", PAGE, re.MULTILINE)
FEWER = {"--masks 150": "--masks 60", "--masks 200": "--masks 70"}


def shortened(command):
    """Return a command with fewer masks, scored in this process."""
    for before, after in FEWER.items():
        command = command.replace(before, after)
    return f"{command} --pool inline" if command.startswith("headmask search") else command


def call(command, monkeypatch):
    """Run a command as the shell would."""
    program, *arguments = shlex.split(shortened(command))
    if program == "python":
        subprocess.run([sys.executable, *arguments], check=True)
    else:
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_can_be_followed(tmp_path, monkeypatch, empty_mlflow, pixel_cache):
    monkeypatch.chdir(tmp_path)
    unpack_demo(tmp_path / "runs" / "demo")
    shutil.copyfile(empty_mlflow, tmp_path / "runs" / "mlflow.db")
    (script,) = re.findall(r"```python\n(import csv.*?)```", PAGE, re.DOTALL)
    for command in COMMANDS:
        call(command, monkeypatch)
        if "scenes.parquet" in command:
            exec(compile(script, "unpack.py", "exec"), {})
    assert {path.name for path in tmp_path.iterdir()} >= {"my.parquet", "my.samples.png", "refined", "pruned"}
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
