"""The only way to write files and folders: existing ones are replaced only if headmask made them, and only as a whole.

    with written(path, PAGE, inputs=[data]) as scratch:
        scratch.write_text(html)

An output is new, empty, or of the same kind and made by headmask, which its content says and never its name. It is
never an input of the same command, not even through a link. It is written under another name beside its place and
renamed at the end; a failure leaves nothing behind, not even new parent folders. Links are followed: their target is
replaced.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from headmask.border.kinds import FolderKind, Kind
from headmask.border.shown import shown
from headmask.errors import OutputError

_SCRATCH = ".headmask-"
_REASONS = {
    errno.ENOSPC: "the disk is full: free space there, or choose another place",
    errno.EDQUOT: "the disk quota is used up: free space there, or choose another place",
    errno.EROFS: "the disk is read-only: choose another place",
    errno.EACCES: "you may not write there: choose another place, or change the permissions",
    errno.EPERM: "you may not write there: choose another place, or change the permissions",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ELOOP: "its links lead in a circle: choose another name, or fix the links",
    errno.ENOTDIR: "a part of it is a file, where a folder is needed: choose another name",
}

Paths = Iterable[str | os.PathLike[str] | None]


def check_output(
    path: str | os.PathLike[str],
    kind: Kind | FolderKind,
    *,
    inputs: Paths = (),
    overwrite: bool = True,
) -> None:
    """Check that something may be written at a path, and can be, without leaving anything there.

    Args:
        path: path of the file or folder.
        kind: the kind to be written.
        inputs: files and folders that the same command reads; None and names of what is no file are skipped.
        overwrite: whether what headmask made there before may be replaced.

    Raises:
        OutputError: it may not or cannot be written; the message says why, and what to do.
    """
    given = Path(path)
    with _one_message(given):
        target = _followed(given)
        if isinstance(kind, FolderKind):
            _check_folder(given, target, kind, overwrite=overwrite)
        else:
            _check_file(given, target, kind, overwrite=overwrite)
        _check_no_input(given, target, inputs)
        _check_parent(target)


def check_outputs(outputs: Mapping[Path, Kind | FolderKind], *, inputs: Paths = ()) -> None:
    """Check, before the work begins, that everything that a command is going to write may be written.

    Raises:
        OutputError: some may not; the message lists them all.
    """
    inputs, reasons = list(inputs), list[str]()
    for path, kind in outputs.items():
        try:
            check_output(path, kind, inputs=inputs)
        except OutputError as error:
            if (text := str(error)) not in reasons:
                reasons.append(text)
    if reasons:
        raise OutputError("\n".join(reasons))


@contextmanager
def written(path: str | os.PathLike[str], kind: Kind, *, inputs: Paths = (), overwrite: bool = True) -> Iterator[Path]:
    """Yield a scratch file for writing, which becomes the file at `path` when the block ends without an exception.

    Arguments and errors are those of `check_output`; an OSError of the block that is about the scratch file becomes
    an OutputError, too.
    """
    check_output(path, kind, inputs=inputs, overwrite=overwrite)
    given = Path(path)
    with _one_message(given), _scratch(_followed(given), is_folder=False) as (target, scratch):
        yield scratch
        _settle(scratch, target)
        scratch.replace(target)


@contextmanager
def written_folder(
    path: str | os.PathLike[str], kind: FolderKind, *, inputs: Paths = (), overwrite: bool = True
) -> Iterator[Path]:
    """Yield an empty scratch folder, which becomes the folder at `path` when the block ends without an exception.

    Arguments and errors are those of `check_output`; an OSError of the block that is about the scratch folder becomes
    an OutputError, too.
    """
    check_output(path, kind, inputs=inputs, overwrite=overwrite)
    given = Path(path)
    with _one_message(given), _scratch(_followed(given), is_folder=True) as (target, scratch):
        yield scratch
        if os.path.lexists(target):
            # What came into the folder since it was checked stays, too.
            _check_folder(given, target, kind, overwrite=overwrite)
            with _scratch(target, is_folder=True) as (_, old):
                old.rmdir()
                target.rename(old)
                try:
                    scratch.rename(target)
                except BaseException:
                    old.rename(target)
                    raise
        else:
            scratch.rename(target)


@contextmanager
def scratch_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder beside a path, on its disk, which is gone at the end.

    Raises:
        OutputError: it cannot be made there.
    """
    given = Path(path)
    with _one_message(given), _scratch(_followed(given), is_folder=True) as (_, scratch):
        yield scratch


def write_text(
    path: str | os.PathLike[str], text: str, kind: Kind, *, inputs: Paths = (), overwrite: bool = True
) -> None:
    """Write a text in UTF-8, as `written` does."""
    with written(path, kind, inputs=inputs, overwrite=overwrite) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def made_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder and its parents; new folders are removed again if the block fails and leaves them empty.

    Raises:
        OutputError: it cannot be made.
    """
    folder = Path(path)
    with _one_message(folder):
        made = _make_folders(_followed(folder))
    try:
        yield folder
    except BaseException:
        _remove_empty(made)
        raise


def check_run_folder(path: str | os.PathLike[str], is_run: Callable[[Path], bool]) -> None:
    """Check that a folder can take the results of a run, beside files of others.

    Args:
        path: path of the folder.
        is_run: returns whether a folder holds a run already.

    Raises:
        OutputError: it is the root, or the working folder or one above it with other files in it; or it cannot be
            made or written.
    """
    folder = Path(path)
    with _one_message(folder):
        target = _followed(folder)
        here = Path.cwd()
        is_above = target == here or target in here.parents
        if target == target.parent or (is_above and any(target.iterdir()) and not is_run(target)):
            raise OutputError(f"results need a folder of their own; got '{shown(folder)}', which holds other files")
        if target.exists() and not target.is_dir():
            raise OutputError(f"{shown(folder)} is {_what(target)}, where a folder is needed; choose another name")
        _check_parent(target / "any")


def reason_of(error: OSError, path: str | os.PathLike[str]) -> str:
    """Return why a path cannot be written, from an error of the file system, with the way out."""
    number = error.errno
    if number is None and "No space left on device" in str(error):
        number = errno.ENOSPC
    reason = _REASONS.get(number or 0) or error.strerror or str(error)
    return f"cannot write {shown(os.fspath(path))}: {reason}"


@contextmanager
def _one_message(path: Path) -> Iterator[None]:
    """Turn an error of the operating system about a written path into one message."""
    try:
        yield
    except OSError as error:
        if not _is_about(error, path):
            raise  # That another file cannot be read is no matter of the output.
        raise OutputError(reason_of(error, path)) from None


def _is_about(error: OSError, path: Path) -> bool:
    """Return whether an error is about a path, a folder above it or a scratch file, or names no path."""
    about = error.filename
    if not isinstance(about, str | bytes):
        return True
    about = os.fsdecode(about)
    is_above = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(about))
    return _SCRATCH in about or about == str(path) or is_above


def _followed(path: Path) -> Path:
    """Return the target of a path, links followed; it need not exist.

    Raises:
        OSError: links lead in a circle, or a name is too long.
        OutputError: the name is not valid.
    """
    if "\0" in str(path):
        raise OutputError(f"cannot write {str(path)!r}: a name cannot hold a NUL character")
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except UnicodeEncodeError:
        raise OutputError(f"cannot write {shown(path)}: a name cannot hold half of a surrogate pair") from None
    target = Path(os.path.realpath(path))
    longest = os.pathconf(target.anchor, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > longest for part in target.parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
    return target


def _check_file(given: Path, target: Path, kind: Kind, *, overwrite: bool) -> None:
    if not target.exists():
        if not target.name:
            raise OutputError(f"cannot write {shown(given)}: it names no file")
        return
    if not target.is_file():
        raise OutputError(f"{shown(given)} is {_what(target)}, where {kind.name} would be written; choose another name")
    if not target.stat().st_size:
        return
    if not kind.made(target):
        raise OutputError(
            f"{shown(given)} exists and is not {kind.name} that headmask wrote, so it is not replaced; "
            "choose another name"
        )
    if not overwrite:
        raise OutputError(f"{shown(given)} exists; choose another name or pass --overwrite")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(given))


def _check_folder(given: Path, target: Path, kind: FolderKind, *, overwrite: bool) -> None:
    here = Path.cwd()
    if target == target.parent or target == here or target in here.parents:
        raise OutputError(
            f"{kind.name} replaces its whole folder; got '{shown(given)}', which is the working folder or above it; "
            "choose another name"
        )
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputError(f"{shown(given)} is {_what(target)}, where {kind.name} would be written; choose another name")
    if not any(target.iterdir()):
        return
    if foreign := kind.others(target):
        listed = ", ".join(map(shown, foreign[:5])) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise OutputError(
            f"{shown(given)} holds what is not of {kind.name} that headmask wrote, so it is not replaced: {listed}; "
            "choose another name"
        )
    if not overwrite:
        raise OutputError(f"{shown(given)} exists; choose another name or pass --overwrite")


def _check_no_input(given: Path, target: Path, inputs: Paths) -> None:
    """Refuse an output that is an input, or that is a folder containing an input."""
    if not target.exists():
        return
    for each in inputs:
        if each is not None and _is_read(target, each):
            raise OutputError(
                f"{shown(given)} is read by the same command ({shown(os.fspath(each))}); choose another name"
            )


def _is_read(target: Path, source: str | os.PathLike[str]) -> bool:
    try:
        place = Path(os.path.realpath(source))
        return place.exists() and (place.samefile(target) or (target.is_dir() and target in place.parents))
    # A name of something that is no file, such as an address.
    except (OSError, ValueError):
        return False


def _check_parent(target: Path) -> None:
    """Check that files can be made beside a target, in the nearest existing folder."""
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    probe = folder / f"{_SCRATCH}{secrets.token_hex(4)}"
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    probe.unlink()


@contextmanager
def _scratch(target: Path, *, is_folder: bool) -> Iterator[tuple[Path, Path]]:
    """Yield a target, with an empty scratch file or folder beside it that is removed at the end.

    Leftovers of a killed process are removed: their free lock shows that no one is writing them.
    """
    made = _make_folders(target.parent)
    scratch = target.parent / f"{_stem(target)}{secrets.token_hex(4)}"
    held: int | None = None
    try:
        _remove_left(target)
        held = _make_held(scratch, is_folder=is_folder)
        yield target, scratch
    except BaseException:
        _remove(scratch)
        _remove_empty(made)
        raise
    finally:
        if held is not None:
            os.close(held)
        _remove(scratch)


def _make_held(scratch: Path, *, is_folder: bool) -> int:
    """Return the descriptor of a new, empty scratch file or folder, locked if the file system has locks."""
    while True:
        if is_folder:
            scratch.mkdir()
        held = os.open(scratch, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        # Another process may have taken it for what a killed one left, before it was locked.
        if scratch.exists():
            return held
        os.close(held)


def hidden_beside(path: Path, ending: str) -> Path:
    """Return a hidden path beside a path; a long name is shortened."""
    name = os.fsencode(path.name)
    short = os.fsdecode(name) if len(name) < 200 else f"{zlib.crc32(name):08x}"
    return path.with_name(f".{short}{ending}")


def _stem(target: Path) -> str:
    """Return the common beginning of the names of a target's scratch files."""
    return hidden_beside(target, _SCRATCH).name


def _remove_left(target: Path) -> None:
    stem = _stem(target)
    for name in os.listdir(target.parent):
        if not name.startswith(stem):
            continue
        left = target.parent / name
        with suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(left)
            finally:
                os.close(descriptor)


def _settle(scratch: Path, target: Path) -> None:
    """Force a file to disk, which detects a full disk now, with the permissions of the file that it replaces."""
    descriptor = os.open(scratch, os.O_RDONLY)
    try:
        if target.exists():
            os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folders(folder: Path) -> list[Path]:
    """Return the folders that were made to have a folder with its parents, the innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    made: list[Path] = []
    try:
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            made.insert(0, each)
    except BaseException:
        _remove_empty(made)
        raise
    return made


def _remove_empty(made: Iterable[Path]) -> None:
    for folder in made:
        with suppress(OSError):
            folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _what(path: Path) -> str:
    mode = path.stat().st_mode
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFREG: "a file",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")
