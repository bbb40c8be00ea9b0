"""Images in several splits: found by their pixels when the data is built, and dropped or moved by name."""

import io

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from headmask.errors import DataError
from headmask.pixels.images import by_rule
from tests.workers.data.test_sources import built, picture, write_pictures
from workers.data.build import build
from workers.data.dataset import Dataset, Row, write_dataset
from workers.data.duplicates import Placed, settle
from workers.data.loading import load_data
from workers.data.preprocess import UInt8Preprocess
from workers.data.sources.parquet import ParquetSource
from workers.data.sources.tables import folder

TABLE = "image,caption,split\n" + "".join(
    f"{name}.jpg,picture {name},{split}\n"
    for name, split in zip("abcdefg", ["train", "train", "val", "val", "test", "test", "test"], strict=True)
)


@pytest.fixture
def source(tmp_path):
    """Seven images, of which a is e as another kind of file, and c is g, byte for byte."""
    images = write_pictures(tmp_path / "images", *(f"{name}.jpg" for name in "abcdefg"))
    (images / "g.jpg").write_bytes((images / "c.jpg").read_bytes())
    pixels = io.BytesIO()
    Image.open(images / "a.jpg").save(pixels, "PNG")
    (images / "e.jpg").write_bytes(pixels.getvalue())
    (tmp_path / "c.csv").write_text(TABLE)
    return folder(images, tmp_path / "c.csv")


def test_a_build_refuses_them_all_by_name_and_leaves_nothing(source, tmp_path):
    with pytest.raises(DataError) as caught:
        build(source, tmp_path / "out.parquet")
    assert "2 images are in several splits by their pixels" in str(caught.value)
    assert "--duplicates drop" in str(caught.value)
    assert str(caught.value).splitlines()[1:] == [
        "  a.jpg (search) and e.jpg (test)",
        "  c.jpg (confirm) and g.jpg (test)",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.csv", "images"]


@pytest.mark.parametrize(
    ("choice", "left", "notes"),
    [
        (
            "drop",
            {"b": "search", "d": "confirm", "e": "test", "f": "test", "g": "test"},
            [
                "dropped a.jpg (search): the same picture as e.jpg (test)",
                "dropped c.jpg (confirm): the same picture as g.jpg (test)",
            ],
        ),
        (
            "move",
            {"a": "search", "b": "search", "c": "confirm", "d": "confirm", "e": "search", "f": "test", "g": "confirm"},
            [
                "moved e.jpg (test) to search, where the same picture is",
                "moved g.jpg (test) to confirm, where the same picture is",
            ],
        ),
    ],
)
def test_they_are_dropped_or_moved_by_name_and_a_search_takes_the_rest(
    source, tmp_path, tiny_preprocess, choice, left, notes
):
    report = build(source, tmp_path / "out.parquet", duplicates=choice)
    dataset = Dataset(report.path)
    names = [cell["path"][0] for cell in dataset.rows("image", range(7)).values()]
    assert dict(zip(names, dataset.splits(), strict=True)) == left
    assert list(report.duplicates) == notes
    assert report.num_images == len(left)
    assert sum(report.splits.values()) == len(left)
    assert {len(split.pixels) for split in load_data(report.path, tiny_preprocess).values()} <= {1, 2, 3}


def test_they_can_be_kept_for_drawn_splits(source, tmp_path, tiny_preprocess):
    path = build(source, tmp_path / "out.parquet", duplicates="keep").path
    with pytest.raises(DataError) as caught:
        load_data(path, tiny_preprocess)
    message = str(caught.value)
    assert "row 0 (a.jpg) is in search, row 4 (e.jpg) in test" in message
    assert "--draw-splits" not in message
    with pytest.raises(DataError, match="--duplicates drop`, or draw the splits with --draw-splits"):
        load_data(path, tiny_preprocess, may_draw=True)


def test_a_split_that_becomes_two_keeps_equal_pixels_together(tmp_path, tiny_preprocess):
    from workers.data.splits import SplitMap

    images = tmp_path / "images"
    images.mkdir()
    rows = ["image,caption,split"]
    for number in range(40):
        pixels = np.random.default_rng(number).integers(256, size=(20, 24, 3), dtype=np.uint8)
        for kind in ("png", "bmp"):
            Image.fromarray(pixels).save(images / f"{number}.{kind}")
            rows.append(f"{number}.{kind},picture {number},val")
    (images / "t.jpg").write_bytes(picture(99))
    (tmp_path / "c.csv").write_text("\n".join([*rows, "t.jpg,the last,test"]))
    splits = SplitMap.parse("search=val,confirm=val,test=test")
    dataset = built(folder(images, tmp_path / "c.csv"), tmp_path, splits=splits)
    found = dataset.splits()[:-1]
    assert found[::2] == found[1::2]
    assert {"search", "confirm"} == set(found)


def test_pairs_stay_whole():
    """Pair 1 is in search, pair 2 in test, and they share an image; pair 3 is by itself."""
    images = [
        Placed("a", "1", "search", 1),
        Placed("b", "2", "search", 1),
        Placed("c", "2", "test", 2),
        Placed("d", "3", "test", 2),
        Placed("e", "4", "test", 3),
        Placed("f", "5", "test", 3),
    ]
    dropped = settle(images, "drop")
    assert dropped.dropped == {0, 1}
    assert dropped.notes == (
        "dropped a (search): of one pair with b (search)",
        "dropped b (search): the same picture as c (test)",
    )
    moved = settle(images, "move")
    assert dict(moved.moved) == {2: "search", 3: "search"}
    assert settle(images[:2] + images[4:], "fail").notes == ()


def turned(png):
    """Return a file that shows, upright, what another one shows lying."""
    pixels = np.random.default_rng(7).integers(256, size=(28, 28, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(pixels), png(Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90), exif=exif)


def test_what_a_search_advises_mends_what_is_identical_under_its_pixel_rule_alone(tmp_path, png):
    """Upright they are one picture; as stock open_clip reads them they are two."""

    transform = image_transform_v2(PreprocessCfg(size=28), is_train=False)
    stock, composited = (UInt8Preprocess(by_rule(transform, rule)) for rule in ("stock", "composited"))
    one, other = turned(png)
    rows = [Row("lying.png", one, ("a",), "search"), Row("turned.png", other, ("b",), "test")]
    rest = [("search", 1), ("confirm", 2), ("test", 3)]
    rows += [Row(f"{seed}.png", png(np.full((28, 28, 3), seed)), (f"{seed}",), split) for split, seed in rest]
    write_dataset(tmp_path / "d.parquet", rows)
    assert load_data(tmp_path / "d.parquet", stock).keys() == {"search", "confirm", "test"}
    with pytest.raises(DataError, match=r"--duplicates drop --pixels composited`"):
        load_data(tmp_path / "d.parquet", composited)
    source = ParquetSource([str(tmp_path / "d.parquet")])
    report = build(source, tmp_path / "o.parquet", duplicates="drop", pixels="composited")
    assert report.duplicates == ("dropped lying.png (search): the same picture as turned.png (test)",)
    assert load_data(tmp_path / "o.parquet", composited).keys() == {"search", "confirm", "test"}
    assert build(source, tmp_path / "p.parquet", duplicates="drop").num_images == len(rows)
