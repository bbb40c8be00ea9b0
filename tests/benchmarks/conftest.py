"""Benchmarks that are commands, run in this process."""

import sys

import pytest

from benchmarks.command import run_command


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a benchmark as a command, and returns exit code, standard output and standard error."""

    def run(function, name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_command(function, name)
        return end.value.code, *capsys.readouterr()

    return run
