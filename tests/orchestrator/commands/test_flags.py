"""Flags made of settings, on a small command."""

from collections.abc import Mapping
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from headmask.errors import HeadmaskError
from orchestrator.cli import app as headmask
from orchestrator.commands.flags import takes
from orchestrator.settings.options import SEARCH

NAMES = ("max_loss", "layers", "protect", "image_chunk", "fold", "precheck", "masks", "surrogate_gib", "out", "data")


@pytest.fixture
def given():
    """Return what a command is given for a command line."""
    app, got = typer.Typer(), {}

    @app.command()
    @takes({name: SEARCH[name] for name in NAMES}, defaults=True)
    def command(
        settings: Mapping[str, Any], as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
    ) -> None:
        """Do nothing."""
        got.clear()
        got.update({"settings": settings, "as_json": as_json})

    def run(*args):
        done = CliRunner().invoke(app, list(args), catch_exceptions=False, env={"COLUMNS": "200"})
        return got["settings"] if done.exit_code == 0 and "--help" not in args else done.output

    return run


def test_what_is_not_given_is_left_out(given):
    assert given() == {}
    assert given("--json") == {}


def test_values_are_of_the_types_of_settings(given):
    assert given("--layers", "1,2", "--protect", "L1H0, L2H3") == {"layers": [1, 2], "protect": ["L1H0", "L2H3"]}
    assert given("--masks", "9", "--surrogate-gib", "0.5") == {"masks": 9, "surrogate_gib": 0.5}
    assert given("--fold", "--no-precheck") == {"fold": True, "precheck": False}
    assert given("--data", "a", "--data", "b", "--image-chunk", "measure") == {
        "data": ["a", "b"],
        "image_chunk": "measure",
    }
    assert given("--max-loss", "coco=0.5", "--max-loss", "a=b=1") == {"max_loss": {"coco": 0.5, "a=b": 1.0}}


def test_lists_that_cannot_be_read_are_refused(given):
    for args, message in (
        (["--layers", "1,x"], "--layers must be numbers separated by commas; got '1,x'"),
        (["--protect", " "], "--protect must be heads separated by commas, such as L11H3,L0H1; got ' '"),
        (["--max-loss", "coco"], "--max-loss must be NAME=POINTS, such as coco=0.5; got 'coco'"),
    ):
        with pytest.raises(HeadmaskError, match=message):
            given(*args)


def test_a_former_flag_works_and_is_hidden(given):
    assert given("--no-gate") == {"precheck": False}
    assert given("--no-gate", "--precheck") == {"precheck": True}
    assert "--no-gate" not in given("--help")


def test_help_says_what_settings_say(given):
    text = given("--help")
    for words in ("--max-loss", "NAME=POINTS", "N|measure", "--no-precheck", "PATH"):
        assert words in text
    assert "Number of distinct masks to score on the search split. Default: 1000." in " ".join(
        text.replace("│", " ").split()
    )


def test_a_search_has_a_flag_for_every_setting():
    command = typer.main.get_command(headmask).commands["search"]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {option.flag for option in SEARCH.values()} <= flags
