"""What is printed is what there is: no text is markup, emoji code or escape sequence."""

import os

import pytest
from rich.table import Table

from orchestrator.screen.terminal import Terminal, patient

NAMES = ["x[/]y", "z[red]y", "[bold]", "a:smile:b", "\\[x]", "[link=http://x]y[/link]"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are_in_lines_and_tables(name, capsys):
    terminal = Terminal(width=80)
    terminal.say(f"runs/{name}")
    table = Table(name, title=f"title {name}")
    table.add_row(name)
    terminal.print(table)
    out = capsys.readouterr().out
    assert out.count(name) == 4, out


def test_escape_sequences_do_not_reach_the_terminal(capsys):
    terminal = Terminal(width=80)
    terminal.say("a\x1b]0;title\x07b")
    table = Table("column")
    table.add_row("a\x1b[2Jb\u202ec\udcff")
    terminal.print(table)
    out = capsys.readouterr().out
    assert "a\\x1b]0;title\\x07b" in out
    assert "a\\x1b[2Jb\\u202ec\\udcff" in out
    assert "\x1b" not in out


def test_lines_are_not_broken(capsys):
    Terminal(width=20).say("one two three four five six seven eight")
    assert capsys.readouterr().out == "one two three four five six seven eight\n"


def test_a_reader_that_has_gone_ends_nothing():
    reading, writing = os.pipe()
    with open(writing, "w") as stream:
        stdout = patient(stream)
        os.close(reading)
        for _ in range(3):
            print("one" * 10_000, file=stdout, flush=True)


def test_letters_that_an_encoding_lacks_are_escaped(tmp_path):
    with open(tmp_path / "out", "w", encoding="ascii") as stream:
        print("städte \udcff", file=patient(stream), flush=True)
    assert (tmp_path / "out").read_bytes() == b"st\\xe4dte \\udcff\n"
