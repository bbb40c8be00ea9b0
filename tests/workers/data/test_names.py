"""Names of files stay as they are given, and are resolved only to be read; what is left aside is counted."""

import csv
import json
import os
import tarfile
import unicodedata
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from headmask.errors import DataError
from tests.workers.data.test_sources import built, image_cells, picture, write_pictures, write_shard
from workers.data.build import build
from workers.data.dataset import Dataset
from workers.data.sources.captions import coco, flickr30k, flickr30k_cna
from workers.data.sources.files import split_of
from workers.data.sources.imagefolder import imagefolder
from workers.data.sources.parquet import ParquetSource
from workers.data.sources.shards import ShardSource
from workers.data.sources.tables import folder


def test_a_hub_cache_keeps_its_splits(tmp_path):
    """snapshots/REVISION/data/train-0.parquet is a link to blobs/DIGEST, which says nothing."""
    cache = tmp_path / "datasets--org--name"
    data = cache / "snapshots/abc/data"
    data.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, split in enumerate(("train", "validation", "test")):
        blob = cache / "blobs" / f"{number:064x}"
        pq.write_table(pa.table({"image": image_cells(number), "caption": [split]}), blob)
        (data / f"{split}-00000-of-00001.parquet").symlink_to(os.path.relpath(blob, data))
    for pattern in (data, data / "*.parquet", cache / "snapshots/**/*.parquet", f"file://{data}"):
        dataset = built(ParquetSource([str(pattern)]), tmp_path, overwrite=True)
        found = zip(dataset.captions(), dataset.splits(), strict=True)
        assert sorted(found) == [(("test",), "test"), (("train",), "search"), (("validation",), "confirm")]


def test_links_to_folders_and_images_are_followed_and_circles_counted(tmp_path):
    write_pictures(tmp_path / "elsewhere", "dogs/b.jpg", "c.jpg")
    root = write_pictures(tmp_path / "root", "cat/a.jpg")
    (root / "dog").symlink_to(tmp_path / "elsewhere/dogs")
    (root / "cat/more").mkdir()
    (root / "cat/more/c.jpg").symlink_to(tmp_path / "elsewhere/c.jpg")
    (root / "cat/up").symlink_to(root)
    (root / "again").symlink_to(root)
    report = build(imagefolder(root), tmp_path / "out.parquet")
    dataset = Dataset(report.path)
    assert dataset.labels() == ([0, 0, 1], ("cat", "dog"))
    assert report.skipped == {"circular link": 2}
    names = [cell["path"] for cell in dataset.rows("image", [0, 1, 2]).values()]
    assert names == ["cat/a.jpg", "cat/more/c.jpg", "dog/b.jpg"]


def test_a_folder_that_holds_itself_is_read_once(tmp_path):
    pq.write_table(pa.table({"image": image_cells(0), "caption": ["a"]}), tmp_path / "d.parquet")
    (tmp_path / "loop").symlink_to(tmp_path)
    for pattern in (tmp_path, tmp_path / "**/*.parquet"):
        assert ParquetSource([str(pattern)]).total == 1


def test_linked_images_of_a_table_are_read(tmp_path):
    write_pictures(tmp_path / "elsewhere", "a.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").symlink_to(tmp_path / "elsewhere/a.jpg")
    (tmp_path / "images/sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "c.csv").write_text("image,caption\na.jpg,one\nsub/a.jpg,two\n")
    report = build(folder(tmp_path / "images", tmp_path / "c.csv"), tmp_path / "out.parquet")
    assert (report.num_images, report.num_unnamed) == (2, 0)


MODERN = ".avif" if ".avif" in Image.registered_extensions() else ".webp"
"""Pillow has AVIF since 11.3."""

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café/Ärger.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("on_disk", "in_table"),
    [
        (DECOMPOSED, COMPOSED),
        (COMPOSED, DECOMPOSED),
        ("sub/deep/a.jpg", "sub\\deep\\a.jpg"),
        (os.fsdecode("café/Ärger.jpg".encode("latin-1")), COMPOSED),
        ("a.jpg", "./sub/../a.jpg"),
        ("a\\b.jpg", "a\\b.jpg"),
    ],
)
def test_a_name_is_found_however_it_is_spelled(tmp_path, on_disk, in_table):
    images = write_pictures(tmp_path / "images", on_disk)
    (tmp_path / "c.csv").write_text(f"image,caption\n{in_table},a word\n{in_table},another\n")
    report = build(folder(images, tmp_path / "c.csv"), tmp_path / "out.parquet")
    assert (report.num_images, report.num_captions, report.num_unnamed) == (1, 2, 0)
    assert list(Dataset(report.path).images()) == [picture(0)]


def test_two_spellings_of_one_name_are_one_image(tmp_path):
    images = write_pictures(tmp_path / "images", COMPOSED)
    (tmp_path / "c.csv").write_text(f"image,caption\n{COMPOSED},one\n{DECOMPOSED},two\n./{COMPOSED},three\n")
    assert built(folder(images, tmp_path / "c.csv"), tmp_path).captions() == [("one", "two", "three")]


def test_names_in_latin_1_are_read_in_folders_and_archives(tmp_path):
    name = os.fsdecode("café".encode("latin-1"))
    dataset = built(imagefolder(write_pictures(tmp_path / "root", f"{name}/ä.jpg", "b/b.jpg")), tmp_path)
    assert dataset.labels()[1] == ("b", "café")
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for ending, content in ((".jpg", picture(0)), (".txt", b"a cup")):
            info = tarfile.TarInfo(f"café{ending}")
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    dataset = built(ShardSource([str(tmp_path / "0.tar")]), tmp_path, overwrite=True)
    assert dataset.rows("image", [0])[0]["path"] == "café.jpg"


def test_all_that_pillow_reads_is_an_image_and_the_rest_is_counted(tmp_path):
    kinds = {".jfif": "JPEG", ".ppm": "PPM", MODERN: MODERN[1:], ".jp2": "JPEG2000", ".TGA": "TGA", ".jpe": "JPEG"}
    for number, (ending, kind) in enumerate(kinds.items()):
        path = tmp_path / "root" / "ab"[number % 2] / f"{number}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (9 * number, 0, 0)).save(path, kind)
    for name in ("a/notes.txt", "a/film.mp4", "b/more.TXT", "b/README", "list.csv", "a/._1.ppm", "b/.DS_Store"):
        (tmp_path / "root" / name).write_text("x")
    report = build(imagefolder(tmp_path / "root"), tmp_path / "out.parquet")
    assert report.num_images == 6
    assert report.ignored == {".txt": 2, ".mp4": 1, ".csv": 1, "without ending": 1}
    assert report.skipped == {"hidden file": 2}
    assert Dataset(report.path).own.ignored == report.ignored


def test_archives_with_dots_in_names_and_files_of_macos(tmp_path):
    members = []
    for name in ("./s.0001", "./s.0002"):
        members += [
            (f"{name}{MODERN}", modern(len(members))),
            (f"{name}.seg.png", b"x"),
            (f"{name}.txt", name.encode()),
        ]
        members += [(f"./._{name[2:]}.txt", b"\xff"), ("__MACOSX/x.png", b"x")]
    write_shard(tmp_path / "0.tar", members)
    report = build(ShardSource([str(tmp_path / "0.tar")]), tmp_path / "out.parquet")
    assert Dataset(report.path).captions() == [("./s.0001",), ("./s.0002",)]
    assert report.ignored == {".seg.png": 2}
    assert report.skipped == {"hidden file": 4}


def modern(seed):
    buffer = BytesIO()
    Image.new("RGB", (20, 20), (20 * seed, 90, 0)).save(buffer, MODERN[1:])
    return buffer.getvalue()


def test_a_sample_inside_a_sample_is_not_swallowed(tmp_path):
    names = ("v1.jpg", "v1.txt", "v1.2.jpg", "v1.2.txt")
    write_shard(tmp_path / "0.tar", [(name, picture(0) if name.endswith("jpg") else b"x") for name in names])
    with pytest.raises(DataError, match=r"sample v1: \.2 would be a sample of its own; rename it without a dot"):
        build(ShardSource([str(tmp_path / "0.tar")]), tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00005.parquet", "train"),
        ("wds/test/0.tar", "test"),
        ("x/coco_val2014.parquet", "val"),
        ("x/part-train.parquet", "train"),
        ("x/constrain.parquet", None),
        ("x/train_test.parquet", None),
    ],
)
def test_splits_that_names_tell(path, split):
    assert split_of(path) == split


@pytest.mark.parametrize("layout", ["{}/p0/0.parquet", "split={}/0.parquet", "{}ing.parquet", "{}.PARQUET"])
def test_splits_that_folders_tell_are_not_mixed(tmp_path, layout):
    root = tmp_path / "test"
    for number, split in enumerate(("Train", "Test")):
        path = root / layout.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": image_cells(number), "caption": [split]}), path)
    for pattern in (root, root / "*") if "/" not in layout else (root, root / "*" / "**" / "*.parquet"):
        dataset = built(ParquetSource([str(pattern)]), tmp_path, overwrite=True)
        found = zip(dataset.captions(), dataset.splits(), strict=True)
        assert sorted(found) == [(("Test",), "test"), (("Train",), "search")]


def test_a_folder_above_what_was_asked_for_tells_no_split(tmp_path):
    for number, name in enumerate(("test/a/0.parquet", "test/b/0.parquet")):
        (tmp_path / name).parent.mkdir(parents=True)
        pq.write_table(pa.table({"image": image_cells(number), "caption": ["a"]}), tmp_path / name)
    assert ParquetSource([str(tmp_path / "test")]).split_names == frozenset()


@pytest.mark.parametrize("names", [("Train", "TEST"), ("training", "testing")])
def test_folders_of_splits_are_none_of_classes_however_they_are_written(tmp_path, names):
    root = write_pictures(tmp_path / "root", *(f"{name}/{each}/{name}.jpg" for name in names for each in "ab"))
    dataset = built(imagefolder(root), tmp_path)
    found = sorted(zip(dataset.splits(), *dataset.labels()[:1], strict=True))
    assert found == [("search", 0), ("search", 1), ("test", 0), ("test", 1)]


def test_an_image_is_one_under_all_spellings_in_every_caption_file(tmp_path):
    images = write_pictures(tmp_path / "images", "caf\xe9.jpg")
    (tmp_path / "c.token").write_text("caf\xe9.jpg#0\tone\n./cafe\u0301.jpg#1\ttwo\n")
    listed = [{"id": 1, "file_name": "caf\xe9.jpg"}, {"id": 2, "file_name": "cafe\u0301.jpg"}]
    said = [{"image_id": number, "caption": text} for number, text in ((1, "one"), (2, "two"))]
    (tmp_path / "c.json").write_text(json.dumps({"images": listed, "annotations": said}))
    for source in (flickr30k(images, [tmp_path / "c.token"]), coco(images, [tmp_path / "c.json"])):
        assert built(source, tmp_path, overwrite=True).captions() == [("one", "two")]


# Rows and lines

NASTY = "one\u2028line\x85of\x0btext\x1c, with a comma"


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_are_found_and_captions_kept_whole(tmp_path, separator, quoting):
    images = write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    with open(tmp_path / "c.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator, quoting=quoting)
        writer.writerows([["image", "caption"], ["a.jpg", NASTY], ["b.jpg", "a; b\tc, d"]])
    assert built(folder(images, tmp_path / "c.csv"), tmp_path).captions() == [(NASTY,), ("a; b\tc, d",)]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lines_end_where_files_end_them_and_nowhere_else(tmp_path, ending):
    images = write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    text = NASTY.replace("\t", " ")
    lines = [f'{{"image": "a.jpg", "caption": "{text.encode("unicode_escape").decode()}"}}', "", "{"]
    raw = '{"image": "b.jpg", "caption": "a\u2028b\x85c"}'
    lines[0] = lines[0].replace("\\x", "\\u00")
    (tmp_path / "c.jsonl").write_bytes(ending.join([*lines, raw, ""]).encode())
    report = build(folder(images, tmp_path / "c.jsonl"), tmp_path / "out.parquet", on_bad_row="skip")
    assert Dataset(report.path).captions() == [(text,), ("a\u2028b\x85c",)]
    assert [row.where for row in report.bad_rows] == ["line 3"]
    (tmp_path / "c.token").write_bytes(ending.join(["a.jpg#0\tone\u2028line", "", "b.jpg#0\ttwo", "x"]).encode())
    report = build(flickr30k(images, [tmp_path / "c.token"]), tmp_path / "o.parquet", on_bad_row="skip")
    assert Dataset(report.path).captions() == [("one\u2028line",), ("two",)]
    assert [row.where for row in report.bad_rows] == ["c.token line 4"]
    (tmp_path / "cna.txt").write_bytes(ending.join(["a#0\tone\x85line", "", "b two words", "x"]).encode())
    report = build(flickr30k_cna(images, [tmp_path / "cna.txt"]), tmp_path / "p.parquet", on_bad_row="skip")
    assert Dataset(report.path).captions() == [("one\x85line",), ("two words",)]
    assert [row.where for row in report.bad_rows] == ["cna.txt line 4"]


def test_captions_in_archives_are_lines_of_the_file(tmp_path):
    write_shard(tmp_path / "0.tar", [("a.jpg", picture(0)), ("a.txt", "one\u2028line\r\ntwo\n".encode())])
    assert built(ShardSource([str(tmp_path / "0.tar")]), tmp_path).captions() == [("one\u2028line", "two")]


def test_an_empty_caption_is_not_taken_from_another_column(tmp_path):
    images = write_pictures(tmp_path / "images", "a.jpg")
    (tmp_path / "c.csv").write_text("image,caption,comment\na.jpg,,blurred\n")
    with pytest.raises(DataError, match=r"line 2 \(a.jpg\): the caption is missing or empty"):
        built(folder(images, tmp_path / "c.csv"), tmp_path)


def test_quotation_marks_and_blanks_as_spreadsheets_write_them(tmp_path):
    images = write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    (tmp_path / "c.csv").write_text('image, caption\na.jpg, "a drawing, in ""two"" parts"\nb.jpg,the 3" disk\n')
    captions = [('a drawing, in "two" parts',), ('the 3" disk',)]
    assert built(folder(images, tmp_path / "c.csv"), tmp_path).captions() == captions
