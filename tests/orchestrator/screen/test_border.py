"""The outermost border: every way in which a command ends is an exit code and at most one message."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from headmask.errors import DataError, ReplicasLostError
from orchestrator.screen.border import ended


def failing(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("there is no file"), 2, "headmask: there is no file\n"),
        (ReplicasLostError("no node is left"), 75, "headmask: no node is left\n"),
        (DataError("a\x1b[31mb\nc\udcff"), 2, "headmask: a\\x1b[31mb\nc\\udcff\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.parquet"),
            2,
            "headmask: No space left on device: x.parquet\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(75), 75, ""),
        (SystemExit(None), 0, ""),
    ],
)
def test_what_was_foreseen_is_a_message_and_a_code(error, code, message, capsys):
    assert ended(failing(error)) == code
    assert capsys.readouterr().err == message


def test_what_was_not_foreseen_is_one_line_and_its_traceback_in_a_file(capsys):
    assert ended(failing(KeyError("layer"))) == 70
    err = capsys.readouterr().err
    found = re.fullmatch(
        r"headmask: unexpected error: KeyError: 'layer'\. Its traceback is in (\S+): please report it; "
        r"--debug prints it here\n",
        err,
    )
    assert found, err
    kept = Path(found[1])
    assert "in failing" not in err
    assert "raise error\nKeyError: 'layer'" in kept.read_text()
    kept.unlink()


def test_debug_prints_the_traceback_of_what_was_foreseen_too(capsys):
    assert ended(failing(DataError("there is no file")), debug=True) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("headmask: there is no file\n")


def test_a_message_as_long_as_a_file_is_cut_between_what_it_says_and_the_way_out(capsys):
    ended(failing(DataError(f"a number must be short; got {'9' * 10_000}; write fewer digits")))
    said = capsys.readouterr().err
    assert said.startswith("headmask: a number must be short; got 999")
    assert said.endswith("999; write fewer digits\n")
    assert len(said) < 5_000


def test_what_typer_returns_of_an_early_end_is_the_code():
    assert ended(lambda: 130) == 130
    assert ended(lambda: None) == 0


def test_the_exit_of_a_command_is_the_exit_code(headmask, monkeypatch):
    def fail(*_):
        raise typer.Exit(1)

    monkeypatch.setattr("orchestrator.track.tracker.sync", fail)
    assert headmask("track", "sync", "x")[0] == 1


def test_ctrl_c_in_any_command_is_130(headmask, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.track.tracker.sync", interrupt)
    assert headmask("track", "sync", "x") == (130, "", "")


def test_the_version_is_printed(headmask):
    code, out, err = headmask("--version")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"headmask \d+\.\d+\.\d+\n", out)


def test_debug_may_stand_anywhere(headmask):
    for arguments in (["--debug", "report", "none"], ["report", "none", "--debug"]):
        code, _, err = headmask(*arguments)
        assert code == 2
        assert err.startswith("Traceback")


@pytest.mark.parametrize(
    "command", [["--help"], ["schema"], pytest.param(["models", "--json"], marks=pytest.mark.slow)]
)
def test_a_reader_that_goes_away_is_no_error(command):
    """As in `headmask models --json | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *command], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
