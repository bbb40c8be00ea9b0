"""Text that is not ours, as one printable line."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from headmask.border.shown import counted, shown, shown_lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a plain name.png", "a plain name.png"),
        ("c\\d", "c\\d"),
        ("[bold]x[/]", "[bold]x[/]"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\tc", r"a\nb\tc"),
        ("a\u202eb", r"a\u202eb"),
        ("a\udcffb", r"a\udcffb"),
        ("a\u2028b\x85c\x9bd", r"a\u2028b\x85c\x9bd"),
        ("städte 中文 हिन्दी עברית", "städte 中文 हिन्दी עברית"),
        ("👩\u200d👩\u200d👧", "👩\u200d👩\u200d👧"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped_and_letters_stay(text, expected):
    assert shown(text) == expected


def test_lines_stay_lines():
    assert shown_lines("a\x1b\nb\r\n") == "a\\x1b\nb\\r\n"


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_printed_and_encoded(text):
    sink = io.StringIO()
    Console(file=sink, width=10_000, soft_wrap=True).print(shown(text), markup=False, highlight=False, emoji=False)
    assert sink.getvalue().rstrip("\n").rstrip() == shown(text).rstrip()
    shown(text).encode()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((1, "head"), "1 head"), ((0, "head"), "0 heads"), ((12_000, "query", "queries"), "12,000 queries")],
)
def test_numbers_have_the_right_form_of_what_they_count(arguments, expected):
    assert counted(*arguments) == expected
