"""Building a data set from a source: streamed, decoded in parallel, resumable, and written as a whole or not at all.

Rows are written in parts, each as a whole, into a folder beside the data set. A build that was killed continues after
its last part; when all parts are there, they are joined into one file, which takes its name last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from headmask.border.kinds import DATA_SET
from headmask.border.shown import counted, shown
from headmask.border.writing import check_output, hidden_beside, made_folder, reason_of, written
from headmask.errors import DataError, HeadmaskError, OutputError
from headmask.pixels.images import STOCK, PixelRule, check_image, quiet_pillow
from workers.data.ahead import ahead
from workers.data.dataset import Row, groups_of, table_of
from workers.data.duplicates import Duplicates, Placed, Settled, settle
from workers.data.preprocess import digest_of
from workers.data.sources.base import BadRow, Item, Source
from workers.data.splits import SplitMap

PART_ROWS = 1000
PART_BYTES = 1 << 28
_MAX_LISTED = 20


@dataclass(frozen=True)
class BuildReport:
    """The result of a build."""

    path: Path
    task: str
    num_images: int
    num_captions: int
    splits: dict[str, int]
    """Number of images in every split; empty if the splits will be drawn."""
    bad_rows: tuple[BadRow, ...]
    """Bad rows that were left out, with `on_bad_row="skip"`."""
    num_unnamed: int
    """Number of image files that no annotation names."""
    ignored: dict[str, int]
    """Number of the source's files that are not images, by ending."""
    skipped: dict[str, int]
    """Number of other things that were skipped: hidden files, links that form a circle."""
    duplicates: tuple[str, ...]
    """What was done about images in several splits, with the names of their files."""
    empty_classes: tuple[str, ...]
    """Classes without images."""
    num_resumed: int
    """Number of images that an earlier, interrupted build had done."""


@dataclass(frozen=True)
class _Part:
    """Rows that have been written, with everything else found among the items so far."""

    path: Path
    num_items: int
    """Number of items taken from the source, from the first one of this part."""
    bad_rows: tuple[BadRow, ...]
    digests: tuple[str, ...]
    """Digest of every row's pixels; empty if they are not needed."""

    @classmethod
    def read(cls, path: Path) -> _Part:
        content = json.loads(pq.read_schema(path).metadata[b"part"])
        bad_rows = tuple(BadRow(*row) for row in content["bad_rows"])
        return cls(path, content["num_items"], bad_rows, tuple(content["digests"]))


def build(
    source: Source,
    out: Path,
    *,
    splits: SplitMap | None = None,
    on_bad_row: Literal["fail", "skip"] = "fail",
    duplicates: Duplicates = "fail",
    pixels: PixelRule = STOCK,
    overwrite: bool = False,
    inputs: Iterable[str | Path | None] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BuildReport:
    """Write a source's images as a Parquet data set, and return what went into it.

    Args:
        source: where the images come from. They are stored as they are, in the source's order.
        out: the Parquet file to write.
        splits: which of the source's splits become search, confirm and test; by their usual names when None.
        on_bad_row: whether an unreadable image or a row without image or caption stops the build, or is left out.
        duplicates: what to do about images whose pixels occur in several splits; see `settle`.
        pixels: the rule by which pixels are compared, as the data will be scored.
        overwrite: replace `out` if it is a data set that was built.
        inputs: other files that are read besides the source's, which must not be `out`.
        on_progress: called with images done, and in all where that is known, else 0.

    Raises:
        DataError: bad input; with `on_bad_row="fail"` every bad row is named. Nothing is written then.
        OutputError: something at `out` may not be replaced, or nothing can be written there.
    """
    check_output(out, DATA_SET, inputs=[*inputs, *source.files], overwrite=overwrite)
    chosen = (splits or SplitMap()).fitted(source.split_names)
    with _work_folder(out, is_remote=source.is_remote) as work, quiet_pillow():
        compared = None if chosen.is_open or duplicates == "keep" else pixels
        parts = _resumed(work, _identity(source, chosen, compared))
        num_resumed = sum(part.num_items for part in parts)
        for part in _parts(source, chosen, work, parts, on_progress, compared):
            parts.append(part)
        report = _join(source, parts, out, on_bad_row, duplicates, num_resumed)
        shutil.rmtree(work)
    return report


@contextmanager
def _work_folder(out: Path, *, is_remote: bool) -> Iterator[Path]:
    """Hold the folder of parts, and keep it if the build was stopped or may succeed later.

    Bad input removes it, unless the input is remote and may become available again.
    """
    work = hidden_beside(Path(os.path.realpath(out)), ".build")
    if work.exists() and not (work / "identity").is_file() and any(each.name != "lock" for each in work.iterdir()):
        raise OutputError(f"{shown(work)} is where a build keeps what it has done, and holds other files; move them")
    with made_folder(work):
        try:
            with FileLock(work / "lock", timeout=0):
                yield from _kept(work, out, is_remote=is_remote)
        except Timeout:
            raise DataError(f"another build is writing {shown(out)}") from None


def _kept(work: Path, out: Path, *, is_remote: bool) -> Iterator[Path]:
    """Yield the folder of parts, and remove it if no later build can continue it."""
    try:
        yield work
    except OSError as error:
        done = _clear(work)
        raise OutputError(
            reason_of(error, out) + (f". What is done is kept in {shown(work)}" if done else "")
        ) from None
    except OutputError:
        _clear(work)
        raise
    except HeadmaskError:
        _clear(work) if is_remote else shutil.rmtree(work, ignore_errors=True)
        raise
    except BaseException:
        _clear(work)
        raise


def _clear(work: Path) -> bool:
    """Return whether the folder of parts contains any; remove it if not."""
    if any(work.glob("*.parquet")):
        return True
    shutil.rmtree(work, ignore_errors=True)
    return False


def _identity(source: Source, splits: SplitMap, compared: PixelRule | None) -> str:
    content = [source.identity(), str(splits), str(source.kind.schema()), str(source.kind), PART_ROWS, compared]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def _resumed(work: Path, identity: str) -> list[_Part]:
    """Return the parts that an earlier build of the same data left, removing those of other builds."""
    stamp = work / "identity"
    if not stamp.is_file() or stamp.read_text() != identity:
        for left in work.glob("*.*"):
            left.unlink()
        stamp.write_text(identity)
    parts = []
    for number in range(len(list(work.iterdir()))):
        path = work / f"{number:06d}.parquet"
        try:
            parts.append(_Part.read(path))
        except (OSError, pa.ArrowException, KeyError, ValueError):
            break
    return parts


def _parts(
    source: Source,
    splits: SplitMap,
    work: Path,
    before: list[_Part],
    on_progress: Callable[[int, int], None],
    compared: PixelRule | None,
) -> Iterator[_Part]:
    """Yield the parts after the existing ones, each once it is written."""
    done = sum(part.num_items for part in before)
    items = source.items()
    for _ in range(done):
        next(items, None)
    schema, number = source.kind.schema(), len(before)
    rows, digests, bad_rows, size, taken = [], [], [], 0, 0
    for result in ahead(lambda item: _row(item, splits, compared), items):
        taken += 1
        if isinstance(result, BadRow):
            bad_rows.append(result)
        elif result is not None:
            row, digest = result
            rows.append(row)
            digests += [digest] if digest else []
            size += len(row.image)
        on_progress(done + taken, source.total or 0)
        if taken >= PART_ROWS or size >= PART_BYTES:
            yield _write(work / f"{number:06d}.parquet", rows, digests, schema, taken, bad_rows)
            number, done = number + 1, done + taken
            rows, digests, bad_rows, size, taken = [], [], [], 0, 0
    if taken:
        yield _write(work / f"{number:06d}.parquet", rows, digests, schema, taken, bad_rows)


def _row(item: Item | BadRow, splits: SplitMap, compared: PixelRule | None) -> tuple[Row, str] | BadRow | None:
    """Return a decoded item as a row, with its digest; None if its split is left out.

    The digest is under a pixel rule, and empty without one.
    """
    if isinstance(item, BadRow):
        return item
    try:
        if splits.leaves_out(item.split):
            return None
        content = item.read()
        digest = ""
        check_image(content, item.where)
        if compared is not None:
            digest = digest_of(content, item.where, compared)
        key = digest.encode() or content
        split = splits.target(item.split, key if item.pair is None else str(item.pair).encode())
    except DataError as error:
        return BadRow(item.where, str(error).removeprefix(f"{item.where}: "))
    return Row(item.path, content, item.captions, split, item.label, item.group, item.pair), digest


def _write(
    path: Path, rows: list[Row], digests: list[str], schema: pa.Schema, num_items: int, bad_rows: list[BadRow]
) -> _Part:
    content = {
        "num_items": num_items,
        "bad_rows": [[row.where, row.reason] for row in bad_rows],
        "digests": digests,
    }
    own = schema.with_metadata({**(schema.metadata or {}), b"part": json.dumps(content).encode()})
    temporary = path.with_suffix(".tmp")
    with pq.ParquetWriter(temporary, own, compression="none") as writer:
        for group in groups_of(rows):
            writer.write_table(table_of(group, own))
    temporary.replace(path)
    return _Part(path, num_items, tuple(bad_rows), tuple(digests))


def _join(
    source: Source,
    parts: list[_Part],
    out: Path,
    on_bad_row: Literal["fail", "skip"],
    duplicates: Duplicates,
    num_resumed: int,
) -> BuildReport:
    """Join parts into the data set, or raise with every bad row."""
    bad_rows = [row for part in parts for row in part.bad_rows]
    schema, whole = source.kind.schema(source.aside.ignored), None
    if "pair" in schema.names:
        whole, odd = _whole_pairs(parts)
        bad_rows += odd
    if bad_rows and on_bad_row == "fail":
        for part in parts:
            part.path.unlink()
        raise DataError(_listing(bad_rows))
    settled = settle(_placed(parts), duplicates)
    num_images, num_captions, splits, classes = 0, 0, dict[str, int](), set[int]()
    unnamed = source.num_unnamed
    with written(out, DATA_SET) as scratch:
        with pq.ParquetWriter(scratch, schema, compression="none") as writer:
            for table in _tables(parts, settled):
                table = table.replace_schema_metadata(schema.metadata)
                if whole is not None:
                    table = table.filter(pc.is_in(table["pair"], whole))
                writer.write_table(table)
                num_images += len(table)
                if "caption" in table.column_names:
                    num_captions += sum(map(len, table.column("caption").to_pylist()))
                else:
                    classes |= set(table.column("label").to_pylist())
                for split in table.column("split").to_pylist():
                    splits[split] = splits.get(split, 0) + 1
        if not num_images:
            for part in parts:
                part.path.unlink()
            raise DataError("the source has no usable image" + "".join(f"\n  {row}" for row in bad_rows[:_MAX_LISTED]))
    splits.pop(None, None)  # type: ignore[call-overload]
    return BuildReport(
        out,
        source.kind.task,
        num_images,
        num_captions,
        splits,
        tuple(bad_rows),
        unnamed,
        dict(source.aside.ignored),
        dict(source.aside.skipped),
        settled.notes,
        tuple(name for number, name in enumerate(source.kind.class_names) if number not in classes),
        num_resumed,
    )


def _placed(parts: list[_Part]) -> list[Placed]:
    """Return every image with its digest and split; empty if digests are not needed."""
    found: list[Placed] = []
    for part in parts:
        if not part.digests:
            continue
        others = ["split", *(["pair"] if "pair" in pq.read_schema(part.path).names else [])]
        table = pq.ParquetFile(part.path).read(columns=["image.path", *others])
        names = pc.struct_field(table["image"], "path").to_pylist()
        pairs = table["pair"].to_pylist() if "pair" in table.column_names else [None] * len(names)
        found += map(Placed, names, part.digests, table["split"].to_pylist(), pairs)
    return found


def _tables(parts: list[_Part], settled: Settled) -> Iterator[pa.Table]:
    """Yield the rows of all parts, with duplicates dropped or moved, one row group in memory at a time."""
    start, moved = 0, dict(settled.moved)
    for part in parts:
        with pq.ParquetFile(part.path) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number)
                rows = range(start, start + len(table))
                start = rows.stop
                if not moved.keys().isdisjoint(rows):
                    splits = table["split"].to_pylist()
                    column = pa.array([moved.get(row, splits[row - rows.start]) for row in rows], pa.string())
                    table = table.set_column(table.column_names.index("split"), "split", column)
                if not settled.dropped.isdisjoint(rows):
                    table = table.filter(pa.array([row not in settled.dropped for row in rows]))
                yield table


def _whole_pairs(parts: list[_Part]) -> tuple[pa.Array, list[BadRow]]:
    """Return the pairs of two images that follow each other in one split, and the images of all others."""
    rows_of: dict[int, list[tuple[int, str, str | None]]] = defaultdict(list)
    count = 0
    for part in parts:
        table = pq.ParquetFile(part.path).read(columns=["pair", "image.path", "split"])
        names = pc.struct_field(table["image"], "path").to_pylist()
        for pair, name, split in zip(table["pair"].to_pylist(), names, table["split"].to_pylist(), strict=True):
            rows_of[pair].append((count, name, split))
            count += 1
    whole, odd = [], []
    for pair, rows in rows_of.items():
        if len(rows) != 2:
            reason = f"its pair {pair} has {counted(len(rows), 'image')} that can be used; a pair has two"
        elif rows[1][0] != rows[0][0] + 1:
            reason = f"the two images of its pair {pair} must follow each other"
        elif rows[0][2] != rows[1][2]:
            reason = f"its pair {pair} is in two splits, {rows[0][2]} and {rows[1][2]}"
        else:
            whole.append(pair)
            continue
        odd += [BadRow(shown(name), reason) for _, name, _ in rows]
    return pa.array(whole, pa.int64()), odd


def _listing(bad_rows: list[BadRow]) -> str:
    lines = [f"the source has {counted(len(bad_rows), 'bad row')}; mend them, or pass --on-bad-row skip:"]
    lines += [f"  {row}" for row in bad_rows[:_MAX_LISTED]]
    if len(bad_rows) > _MAX_LISTED:
        lines.append(f"  and {len(bad_rows) - _MAX_LISTED} more")
    return "\n".join(lines)
