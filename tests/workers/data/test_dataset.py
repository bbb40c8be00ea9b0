"""The Parquet layout: written whole or not at all, read with clear messages."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headmask.errors import DataError
from workers.data.columns import Columns
from workers.data.dataset import Dataset, Row, write_dataset

LETTERS = st.characters(codec="utf-8", exclude_characters="\0")
captions = st.lists(
    st.text(LETTERS, min_size=1).filter(lambda text: text.strip()),
    min_size=1,
    max_size=4,
)


@given(st.lists(st.tuples(st.binary(max_size=50), captions), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_captions_and_images_survive_a_round_trip(tmp_path, rows):
    path = tmp_path / "data.parquet"
    write_dataset(path, [Row(f"{i}.png", image, tuple(texts), "test") for i, (image, texts) in enumerate(rows)])
    dataset = Dataset(path)
    assert list(dataset.images()) == [image for image, _ in rows]
    assert dataset.captions() == [tuple(texts) for _, texts in rows]
    assert dataset.splits() == ["test"] * len(rows)


def test_rows_are_written_in_small_groups(tmp_path):
    write_dataset(tmp_path / "d.parquet", (Row(f"{i}", b"x", ("c",)) for i in range(250)))
    assert pq.ParquetFile(tmp_path / "d.parquet").metadata.num_row_groups == 3


def test_cells_are_read_by_row_from_their_row_groups_alone(tmp_path):
    path = tmp_path / "d.parquet"
    write_dataset(path, (Row(f"{i}", b"%d" % i, (f"c{i}",)) for i in range(250)))
    dataset, read = Dataset(path), []
    column = dataset._column
    dataset._column = lambda group, *rest: read.append(group) or column(group, *rest)
    assert dataset.rows("caption", [249, 3, 99, 250]) == {249: ["c249"], 3: ["c3"], 99: ["c99"]}
    assert read == [0, 2]
    assert dataset.rows("image", [120])[120]["bytes"] == b"120"
    assert dataset.rows("label", [0]) == {}


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    def rows():
        yield Row("a", b"x", ("c",))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "d.parquet", rows())
    assert list(tmp_path.iterdir()) == []


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


IMAGES = pa.array([{"bytes": b"one", "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def test_plain_binary_images_and_string_captions_are_read_too(tmp_path):
    dataset = Dataset(write(tmp_path / "d.parquet", image=[b"one"], text=["a cat"]))
    assert list(dataset.images()) == [b"one"]
    assert dataset.captions() == [("a cat",)]
    assert dataset.splits() is None


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path / "d.parquet", photo=IMAGES, alt=["a cat"], fold=["test"])
    dataset = Dataset(path, Columns(image="photo", caption="alt", split="fold"))
    assert dataset.captions() == [("a cat",)]
    assert dataset.splits() == ["test"]


def test_images_may_be_files_beside_the_data(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"pixels")
    images = pa.array([{"bytes": None, "path": "pictures/a.png"}], IMAGES.type)
    assert list(Dataset(write(tmp_path / "d.parquet", image=images, caption=["c"])).images()) == [b"pixels"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"caption": ["c"]}, "has no image column image or img or .*; it has caption. Name one with --image-column"),
        ({"image": IMAGES}, "has no caption column caption or captions"),
        ({"image": IMAGES, "caption": [3]}, "caption column caption must be string or list<string>; got int64"),
        (
            {"image": ["path"], "caption": ["c"]},
            "must be struct<bytes, path> of an .* got string",
        ),
        ({"image": IMAGES[:0], "caption": pa.array([], pa.string())}, "has no rows"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        Dataset(write(tmp_path / "d.parquet", **columns))


@pytest.mark.parametrize("caption", [[None], [[]], [["a", None]], [["  "]]])
def test_images_without_captions_are_refused(tmp_path, caption):
    kind = pa.list_(pa.string()) if isinstance(caption[0], list) else pa.string()
    path = write(tmp_path / "d.parquet", image=IMAGES, caption=pa.array(caption, kind))
    with pytest.raises(DataError, match="row 0: every image needs captions, none of them empty"):
        Dataset(path).captions()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"bytes": None, "path": None}, "row 0: the image has neither bytes nor a path"),
        ({"bytes": None, "path": "../secret"}, "row 0: path '../secret' leads out of"),
        ({"bytes": None, "path": "none.png"}, "row 0: there is no image 'none.png' in "),
        ({"bytes": None, "path": "a\0b"}, r"row 0: there is no image 'a\\x00b' in "),
    ],
)
def test_images_that_cannot_be_found_are_refused(tmp_path, image, message):
    path = write(tmp_path / "d.parquet", image=pa.array([image], IMAGES.type), caption=["c"])
    with pytest.raises(DataError, match=message):
        list(Dataset(path).images())


def test_files_that_are_no_whole_parquet_are_refused(tmp_path):
    path = write(tmp_path / "d.parquet", image=IMAGES, caption=["c"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        Dataset(path)
    with pytest.raises(DataError, match=r"there is no data file at .*; make one with `headmask data build`"):
        Dataset(tmp_path / "none.parquet")
