"""One reader of files: every fault is one message that names the file, the rule and the way out."""

import os

import pytest
from pydantic import BaseModel

from headmask.border.reading import (
    check_text,
    decoded,
    lines_of,
    parse_json,
    parse_model,
    read_bytes,
    read_json,
    read_model,
    read_text,
)
from headmask.errors import DataError, HeadmaskError, MaskFileError


class Size(BaseModel):
    width: int
    height: int


def test_text_comes_without_a_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\ntwo\n")
    assert read_text(tmp_path / "a.txt", "notes") == "one\ntwo\n"


def test_the_error_is_of_the_kind_that_was_asked_for(tmp_path):
    with pytest.raises(MaskFileError, match=r"^there is no mask file at .*none\.json$"):
        read_text(tmp_path / "none.json", "mask file", MaskFileError)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").symlink_to("a.txt")
    assert read_text(tmp_path / "b.txt", "notes") == "one"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "notes .*x is a folder; name a file"),
        (os.mkfifo, "notes .*x is a named pipe; name a file"),
        (lambda path: path.symlink_to("x"), "cannot read notes .*x: Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "notes .*x is a device; name a file"),
        (lambda path: None, "there is no notes at .*x"),
    ],
)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(HeadmaskError, match=message):
        read_bytes(tmp_path / "x", "notes")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "the name of the notes is empty"),
        ("a\0b", r"cannot read notes a\\x00b: .*null (byte|character)"),
        ("x" * 300, "cannot read notes x+: File name too long"),
    ],
)
def test_a_name_that_no_file_can_have_is_refused(path, message):
    with pytest.raises(HeadmaskError, match=message):
        read_text(path, "notes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntw\xe9\n", "x is not UTF-8 text: byte 0xe9 in line 2. Save it as UTF-8"),
        ("one".encode("utf-16"), "byte 0xff in line 1; it looks like UTF-16. Save it as UTF-8"),
        (b"one\nt\0wo", "x is not text: there is a null byte in line 2"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(content, message):
    with pytest.raises(DataError, match=message):
        decoded(content, "x", DataError)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\r\nb\rc\n\nd", ["a", "b", "c", "", "d"]),
        ("a\u2028b\u0085c\x0bd\x0ce\n", ["a\u2028b\u0085c\x0bd\x0ce"]),
    ],
)
def test_lines_end_at_newlines_only(text, lines):
    assert lines_of(text) == lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "x is not JSON: .*line 1 column 2"),
        ("[" * 100_000, "x is nested too deep"),
        ('{"a":' * 100_000, "x is nested too deep"),
        ('{"a": NaN}', "x is malformed: NaN is not a number in JSON"),
        ("[-Infinity]", "x is malformed: -Infinity is not a number in JSON"),
        ("1" * 5000, "x is malformed: a number has 5,000 digits"),
        ("1e999", "x is malformed: 1e999 is too large"),
        (r'["\ud800"]', r"x has a text that cannot be used, \\ud800: it has half of a surrogate pair, U\+D800"),
        (r'{"a": [{"b\u0000": 1}]}', r"x has a text that cannot be used, b\\x00: there is a null byte in it"),
    ],
)
def test_json_that_cannot_be_used_is_refused(text, message):
    with pytest.raises(DataError, match=message):
        parse_json(text, "x", DataError)


def test_a_key_that_repeats_is_refused_and_not_overwritten():
    with pytest.raises(DataError, match="x is malformed: the key 'a' occurs twice in one object"):
        parse_json('[{"b": {"a": 1, "c": 2, "a": 1}}]', "x", DataError)
    assert parse_json('[{"a": 1}, {"a": 2}]', "x") == [{"a": 1}, {"a": 2}]


def test_whole_surrogate_pairs_are_ordinary_text():
    assert parse_json(r'["\ud83d\ude00"]', "x") == ["😀"]
    assert check_text("😀") is None


def test_a_json_file_is_named_in_its_error(tmp_path):
    (tmp_path / "a.json").write_text("nothing")
    with pytest.raises(DataError, match=r"class names .*a\.json is not JSON: Expecting value"):
        read_json(tmp_path / "a.json", "class names", DataError)


def test_every_mistake_of_a_model_is_listed(tmp_path):
    (tmp_path / "a.json").write_text('{"width": "wide"}')
    with pytest.raises(DataError) as caught:
        read_model(tmp_path / "a.json", Size, "size", DataError)
    assert str(caught.value).splitlines()[1:] == [
        "  width: must be a valid integer, unable to parse string as an integer, got 'wide'",
        "  height: is missing",
    ]


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(DataError, match="x is malformed:\n  content: must be an object, got"):
        parse_model([1], Size, "x", DataError)
