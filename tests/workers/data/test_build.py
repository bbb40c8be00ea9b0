"""Building a data set from a folder of photos and a file of captions."""

import json

import numpy as np
import pytest
from PIL import Image

from headmask.errors import DataError, OutputError
from workers.data.build import build as build_dataset
from workers.data.dataset import Dataset
from workers.data.sources import FolderSource
from workers.data.sources.tables import folder


@pytest.fixture
def photos(tmp_path, png):
    """A folder with a JPEG, a PNG with alpha, a WebP in a subfolder, a truncated PNG, and one without caption."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(256, size=(40, 50, 3), dtype=np.uint8)
    (folder / "a.jpg").write_bytes(png(pixels, "JPEG"))
    (folder / "b.png").write_bytes(png(Image.fromarray(pixels).convert("RGBA")))
    (folder / "sub" / "c.webp").write_bytes(png(pixels, "WEBP"))
    (folder / "broken.png").write_bytes(png(pixels)[:500])
    (folder / "unnamed.jpg").write_bytes(png(pixels, "JPEG"))
    return folder


GOOD = (
    "image,caption,split\na.jpg,a dog,search\nb.png,a cat,confirm\nsub/c.webp,a bird,test\na.jpg,a brown dog,search\n"
)


def build(photos, text, name="captions.csv", **options):
    captions = photos.parent / name
    captions.write_text(text, encoding="utf-8")
    return build_dataset(folder(photos, captions), photos.parent / "out.parquet", **options)


def test_several_captions_per_image_are_gathered_in_order_of_first_appearance(photos):
    report = build(photos, GOOD)
    assert (report.num_images, report.num_captions, report.num_unnamed) == (3, 4, 2)
    dataset = Dataset(report.path)
    assert dataset.captions() == [("a dog", "a brown dog"), ("a cat",), ("a bird",)]
    assert dataset.splits() == ["search", "confirm", "test"]
    assert next(iter(dataset.images())) == (photos / "a.jpg").read_bytes()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", json.dumps({"a.jpg": ["a dog", "a brown dog"], "b.png": "a cat"})),
        (
            "c.json",
            json.dumps(
                [{"image": "a.jpg", "captions": ["a dog", "a brown dog"]}, {"file": "b.png", "caption": "a cat"}]
            ),
        ),
        (
            "c.jsonl",
            '{"image": "a.jpg", "caption": ["a dog", "a brown dog"]}\n\n{"filename": "b.png", "text": "a cat"}\n',
        ),
        ("c.csv", "\ufeffFile,Caption\na.jpg,a dog\nb.png,a cat\na.jpg,a brown dog\n"),
    ],
)
def test_captions_come_as_csv_json_or_jsonl(photos, name, text):
    report = build(photos, text, name)
    assert Dataset(report.path).captions() == [("a dog", "a brown dog"), ("a cat",)]


BAD = GOOD + "broken.png,half a cat,\n,nothing,\nnone.png,a ghost,\nb.png,,\n../out.csv,a thief,\n"


def test_every_bad_row_is_named_and_nothing_is_written(photos):
    with pytest.raises(DataError) as caught:
        build(photos, BAD)
    message = str(caught.value)
    for part in (
        "has 5 bad rows; mend them, or pass --on-bad-row skip:",
        "line 6 (broken.png): cannot be read as an image",
        "line 7: no image is named",
        "line 8 (none.png): there is no image 'none.png'",
        "line 9 (b.png): the caption is missing or empty",
        "line 10 (../out.csv): path '../out.csv' leads out of",
    ):
        assert part in message
    assert not (photos.parent / "out.parquet").exists()
    assert not list(photos.parent.glob(".*"))


def test_bad_rows_can_be_left_out_and_are_reported(photos):
    report = build(photos, BAD, on_bad_row="skip")
    assert report.num_images == 3
    assert [row.where for row in report.bad_rows] == [
        "line 7",
        "line 9 (b.png)",
        "line 6 (broken.png)",
        "line 8 (none.png)",
        "line 10 (../out.csv)",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "name,words\na,b\n", "needs an image column"),
        ("c.json", "{", "is not JSON"),
        ("c.json", "3", "must hold a list of objects"),
        ("c.json", "[3]", "entry 1 must be an object with image and caption; got 3"),
        ("c.txt", "a", r"must be .csv, .tsv, .json, .jsonl; got c.txt"),
        ("c.csv", "image,caption\n", "the source has no usable image"),
    ],
)
def test_caption_files_that_do_not_fit_are_refused(photos, name, text, message):
    with pytest.raises(DataError, match=message):
        build(photos, text, name)


def test_an_existing_file_is_kept_unless_told_otherwise(photos):
    build(photos, GOOD)
    with pytest.raises(OutputError, match="exists; choose another name or pass --overwrite"):
        build(photos, GOOD)
    assert build(photos, GOOD, overwrite=True).num_images == 3


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no folder of images"):
        FolderSource(tmp_path / "none", [], [])
