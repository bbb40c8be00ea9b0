"""What headmask writes: new, or its own, or refused; whole, or nothing left."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from headmask.border.kinds import CHECKPOINT, MASK_FILE, PAGE, PICTURE, FolderKind
from headmask.border.writing import (
    check_output,
    check_outputs,
    check_run_folder,
    made_folder,
    write_text,
    written,
    written_folder,
)
from headmask.errors import OutputError

OWN_PAGE = '<!doctype html>\n<html><head><meta name="generator" content="headmask 1.0"></head><body></body></html>'
FOLDER = FolderKind("a model folder", lambda folder: [each.name for each in folder.iterdir() if each.name != "ours"])


def everything(folder: Path) -> dict[str, bytes | None]:
    found = sorted(folder.rglob("*"))
    return {str(each.relative_to(folder)): each.read_bytes() if each.is_file() else None for each in found}


def png(software: str) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", len(content), name) + content + struct.pack(">I", zlib.crc32(name + content))

    text = b"Software\0" + software.encode()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"tEXt", text) + chunk(b"IEND", b"")


def checkpoint(metadata: dict[str, str]) -> bytes:
    header = json.dumps({"__metadata__": metadata}).encode()
    return struct.pack("<Q", len(header)) + header


OURS = {
    "page": (PAGE, OWN_PAGE.encode()),
    "picture": (PICTURE, png("headmask")),
    "mask file": (MASK_FILE, b'{"format": "headmask/1"}'),
    "checkpoint": (CHECKPOINT, checkpoint({"format": "pt", "headmask": "folded"})),
}
FOREIGN = {
    "notes": b"my thesis",
    "page": b"<!doctype html><html><head><title>headmask</title></head><body>"
    b'<meta name="generator" content="headmask 1.0"></body>',
    "picture": png("Matplotlib, used by headmask"),
    "mask": b'{"format": "headmask-result/1"}',
    "deep": b"[" * 100_000,
    "JSON list": b"[1, 2]",
    "checkpoint": checkpoint({"format": "pt"}),
    "short": b"PAR1",
}


@pytest.mark.parametrize("name", OURS)
def test_what_headmask_wrote_is_replaced(name: str, tmp_path: Path) -> None:
    kind, content = OURS[name]
    out = tmp_path / "any name"
    out.write_bytes(content)
    write_text(out, "new", kind)
    assert everything(tmp_path) == {"any name": b"new"}


@pytest.mark.parametrize("kind", [kind for kind, _ in OURS.values()], ids=list(OURS))
@pytest.mark.parametrize("name", FOREIGN)
def test_what_others_wrote_stays(kind: object, name: str, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_bytes(FOREIGN[name])
    with pytest.raises(
        OutputError, match=r"report.html exists and is not a .* that headmask wrote.*choose another name"
    ):
        write_text(out, "new", kind)  # type: ignore[arg-type]
    assert everything(tmp_path) == {"report.html": FOREIGN[name]}


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_output_is_never_an_input_by_whatever_link(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    source, out = tmp_path / "mask.json", tmp_path / "other.json"
    source.write_bytes(OURS["mask file"][1])
    link(source, out)
    with pytest.raises(OutputError, match=r"other.json is read by the same command \(.*mask.json\); choose another"):
        write_text(out, "new", MASK_FILE, inputs=[None, "ViT-B-32", source])
    with pytest.raises(OutputError, match="is read by the same command"):
        write_text(source, "new", MASK_FILE, inputs=[out])
    assert source.read_bytes() == OURS["mask file"][1]


def test_folder_with_an_input_in_it_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "folded"
    out.mkdir()
    (out / "ours").touch()
    with (
        pytest.raises(OutputError, match="is read by the same command"),
        written_folder(out, FOLDER, inputs=[out / "ours"]),
    ):
        pass
    assert everything(out) == {"ours": b""}


def test_folder_is_replaced_only_if_all_of_it_is_ours(tmp_path: Path) -> None:
    out = tmp_path / "folded"
    out.mkdir()
    (out / "ours").touch()
    (out / "thesis.tex").write_text("years")
    with pytest.raises(OutputError, match=r"holds what is not of a model folder.*: thesis.tex; choose another name"):
        check_output(out, FOLDER)
    (out / "thesis.tex").unlink()
    with pytest.raises(OutputError, match="folded exists; choose another name or pass --overwrite"):
        check_output(out, FOLDER, overwrite=False)
    with written_folder(out, FOLDER) as scratch:
        (scratch / "new").touch()
    assert everything(tmp_path) == {"folded": None, "folded/new": b""}


def test_file_that_comes_into_a_folder_meanwhile_stays(tmp_path: Path) -> None:
    out = tmp_path / "folded"
    out.mkdir()
    with pytest.raises(OutputError, match=r"thesis.tex"), written_folder(out, FOLDER):
        (out / "thesis.tex").write_text("years")
    assert everything(tmp_path) == {"folded": None, "folded/thesis.tex": b"years"}


def test_links_are_followed_and_kept(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "report.html").symlink_to("disk/page.html")
    write_text(tmp_path / "report.html", "new", PAGE)
    assert (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "disk" / "page.html").read_text() == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(errno.ENOSPC, "No space left")])
def test_nothing_is_left_after_a_failure(error: BaseException, tmp_path: Path) -> None:
    def fail(scratch: Path) -> None:
        scratch.write_bytes(b"part")
        raise error

    match = "cannot write .*out.html: the disk is full: free space" if isinstance(error, OSError) else None
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match=match), written(tmp_path / "a" / "b" / "out.html", PAGE) as scratch:
        fail(scratch)
    assert everything(tmp_path) == {}


def test_error_of_another_file_stays_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written(tmp_path / "out.html", PAGE):
        (tmp_path / "source").read_bytes()
    assert everything(tmp_path) == {}


def prepare_paths(folder: Path) -> None:
    (folder / "folder").mkdir()
    (folder / "file").write_text("a file")
    (folder / "loop").symlink_to("loop")
    (folder / "around").symlink_to("round")
    (folder / "round").symlink_to("around")
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("folder", "is a folder, where a page would be written"),
        (".", "is a folder"),
        ("..", "is a folder"),
        ("/", "is a folder"),
        ("file/page.html", "a part of it is a file"),
        ("loop", "links lead in a circle"),
        ("around/page.html", "links lead in a circle"),
        ("pipe", "is a named pipe"),
        ("/dev/null", "is a device"),
        ("a" * 256, "the name is too long"),
        ("new/" + "a" * 256 + "/page.html", "the name is too long"),
        ("a/" * 3000 + "page.html", "the name is too long"),
        ("a\0b", "cannot hold a NUL"),
        ("/proc/page.html", "cannot write"),
    ],
)
@pytest.mark.parametrize("is_folder", [False, True])
def test_path_that_cannot_be_written_is_one_message(
    path: str, reason: str, is_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_paths(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    kind = FOLDER if is_folder else PAGE
    if is_folder:
        if path == "folder":
            return
        reason = reason.replace("is a folder", "is the working folder or above it").split(",")[0]
    with pytest.raises(OutputError, match=reason) as caught:
        check_output(Path(path), kind)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("length", [200, 255])
def test_longest_name_is_written(length: int, tmp_path: Path) -> None:
    write_text(tmp_path / ("a" * length), "new", PAGE)
    assert everything(tmp_path) == {"a" * length: b"new"}


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    (tmp_path / ".out.html.headmask-0badcafe").write_text("left")
    (tmp_path / ".out.html.headmask-0badbeef").mkdir()
    with written(out, PAGE) as first, written(out, PAGE) as second:
        first.write_text("1")
        second.write_text("2")
    assert everything(tmp_path) == {"out.html": b"1"}


def test_permissions_are_those_of_the_file_before(tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    write_text(out, OWN_PAGE, PAGE)
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~_umask()
    out.chmod(0o600)
    write_text(out, OWN_PAGE, PAGE)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def _umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


def test_all_outputs_are_refused_together(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    (tmp_path / "heatmap.png").write_text("mine")
    with pytest.raises(OutputError, match=r"report.html.*\n.*heatmap.png"):
        check_outputs({tmp_path / "report.html": PAGE, tmp_path / "heatmap.png": PICTURE, tmp_path / "new": PAGE})


@pytest.mark.parametrize("path", [".", "..", "/", "folder/.."])
def test_run_folder_is_not_the_working_folder_among_other_files(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").touch()
    monkeypatch.chdir(tmp_path / "folder" if path == ".." else tmp_path)
    with pytest.raises(OutputError, match="results need a folder of their own; got '"):
        check_run_folder(Path(path), lambda folder: False)
    if path == "..":
        check_run_folder(Path(path), lambda folder: (folder / "folder").is_dir())
        check_run_folder(Path("../new"), lambda folder: False)


def test_made_folders_go_again_where_nothing_came_into_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), made_folder(tmp_path / "a" / "b"):
        raise ValueError("refused")
    assert everything(tmp_path) == {}
    with made_folder(tmp_path / "a" / "b") as folder:
        assert folder.is_dir()
    assert (tmp_path / "a" / "b").is_dir()


def test_half_a_surrogate_pair_names_nothing(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write \\udc00: a name cannot hold half of a surrogate pair"):
        check_output("\udc00", PAGE)
