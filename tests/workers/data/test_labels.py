"""Labels mean the same in every source: numbers in order of numbers, classes that are present and no others."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headmask.errors import DataError
from tests.workers.data.test_sources import IMAGE, built, image_cells, picture, write_pictures, write_shard
from workers.data.columns import Columns
from workers.data.dataset import Dataset
from workers.data.labels import Classes, label_text
from workers.data.sources.imagefolder import imagefolder
from workers.data.sources.parquet import ParquetSource
from workers.data.sources.shards import ShardSource
from workers.data.sources.tables import folder

TWELVE = tuple(f"class {number}" for number in range(12))
SPARSE = [203093, 88, 150027]


def source_of(kind, tmp_path, labels, names=None):
    """Return a source of one image per label, in the order given."""
    images = tmp_path / "images"
    if kind == "imagefolder":
        write_pictures(images, *(f"{label}/a.jpg" for label in labels))
        return imagefolder(images, names)
    write_pictures(images, *(f"{number}.jpg" for number in range(len(labels))))
    rows = [(f"{number}.jpg", label) for number, label in enumerate(labels)]
    if kind == "csv":
        text = "image,label\n" + "".join(f"{image},{label}\n" for image, label in rows)
        (tmp_path / "t.csv").write_text(text)
        return folder(images, tmp_path / "t.csv", class_names=names)
    if kind == "json":
        (tmp_path / "t.json").write_text(json.dumps([{"image": image, "label": label} for image, label in rows]))
        return folder(images, tmp_path / "t.json", class_names=names)
    values = list(map(str, labels)) if kind == "parquet of strings" else labels
    pq.write_table(pa.table({"image": image_cells(*range(len(labels))), "label": values}), tmp_path / "t.parquet")
    return ParquetSource([str(tmp_path / "t.parquet")], Columns(), names)


KINDS = ["imagefolder", "csv", "json", "parquet", "parquet of strings"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_names_fits_labels_in_order_of_their_numbers(tmp_path, kind):
    (tmp_path / "names.txt").write_text("\n".join(TWELVE))
    dataset = built(source_of(kind, tmp_path, range(12), tmp_path / "names.txt"), tmp_path)
    labels, names = dataset.labels()
    assert names == TWELVE
    # Folders are read in order of their names.
    assert labels == (sorted(range(12), key=str) if kind == "imagefolder" else list(range(12)))
    assert dataset.classes()[1].labels == tuple(map(str, range(12)))


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_labels_are_classes_of_their_own_and_no_more(tmp_path, kind):
    labels, names = built(source_of(kind, tmp_path, SPARSE), tmp_path).labels()
    assert names == ("88", "150027", "203093")
    assert sorted(labels) == [0, 1, 2]
    if kind != "imagefolder":
        assert labels == [2, 0, 1]


@pytest.mark.parametrize("values", [SPARSE, list(map(str, SPARSE)), [10**11 + label for label in SPARSE]])
def test_sparse_labels_of_a_file_that_is_searched_are_classes_of_their_own(tmp_path, values):
    pq.write_table(pa.table({"image": image_cells(0, 1, 2), "label": values}), tmp_path / "d.parquet")
    labels, names = Dataset(tmp_path / "d.parquet").labels()
    assert labels == [2, 0, 1]
    assert names == tuple(map(str, sorted(map(int, values))))


def test_labels_of_any_size_are_ordered():
    huge = "9" * 5000
    assert Classes.of([huge, "10", "9"], "data").labels == ("9", "10", huge)
    assert Classes.of(["10.5", "9", "10"], "data").labels == ("9", "10", "10.5")
    assert Classes.of(["10", "9", "x"], "data").labels == ("10", "9", "x")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, "3"),
        (3.0, "3"),
        ("3.0", "3"),
        (" cat ", "cat"),
        ("cafe\u0301", "caf\xe9"),
        ("007", "007"),
        (10**30, "1" + "0" * 30),
    ],
)
def test_labels_as_text(value, expected):
    assert label_text(value) == expected


@pytest.mark.parametrize("value", [None, "", " ", True, 1.5, [1], {}, -1, "-1", "-1.0", "a\0b", "a\ud800b"])
def test_labels_that_cannot_be_used(value):
    with pytest.raises(ValueError, match="label"):
        label_text(value)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (("0", "2"), "abc", (("0", "1", "2"), ("a", "b", "c"))),
        (("0", "2"), "ab", (("0", "2"), ("a", "b"))),
        (("00", "02"), "abc", (("00", "1", "02"), ("a", "b", "c"))),
        (("1", "2", "3"), "abc", (("1", "2", "3"), ("a", "b", "c"))),
        (("1", "2"), "abc", "has 3 class names, the data has 2 classes, numbered 1 to 2"),
        (("0", "3"), "abc", "has 3 class names, the data has 2 classes, numbered 0 to 3"),
        (("cat", "dog"), "abc", "has 3 class names, the data has 2 classes$"),
    ],
)
def test_a_list_of_names_is_taken_by_place_where_there_is_one_reading(tmp_path, labels, names, expected):
    (tmp_path / "n.txt").write_text("\n".join(names))
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            Classes(labels, labels).named(tmp_path / "n.txt")
    else:
        found = Classes(labels, labels).named(tmp_path / "n.txt")
        assert (found.labels, found.names) == expected


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "parquet"])
def test_numbers_in_labels_make_a_list_of_names_ambiguous_unless_it_repeats_them(tmp_path, kind):
    labels = [f"c{number}" for number in range(12)]
    (tmp_path / "n.txt").write_text("\n".join(TWELVE))
    with pytest.raises(DataError, match=r"ordered in two ways: as text, with 'c10' at place 3"):
        source_of(kind, tmp_path, labels, tmp_path / "n.txt")
    (tmp_path / "n.json").write_text(json.dumps({label: f"class {label[1:]}" for label in labels}))
    found = source_of(kind, tmp_path, labels, tmp_path / "n.json").kind
    assert found.class_names == tuple(f"class {label[1:]}" for label in found.labels)
    (tmp_path / "n.txt").write_text("\n".join(label.upper() for label in sorted(labels)))
    assert source_of(kind, tmp_path, labels, tmp_path / "n.txt").kind.class_names[2] == "C10"


def test_a_list_that_names_a_class_at_anothers_place_is_refused_later_too(tmp_path):
    (tmp_path / "n.txt").write_text("fire truck\ncat")
    dataset = built(source_of("csv", tmp_path, ["cat", "fire_truck"]), tmp_path)
    with pytest.raises(DataError, match=r"'fire truck' in the place of class 'cat', though there is a class 'fire_tr"):
        dataset.labels(tmp_path / "n.txt")
    (tmp_path / "n.txt").write_text("a cat\nFire Truck")
    assert dataset.labels(tmp_path / "n.txt") == ([0, 1], ("a cat", "Fire Truck"))


def test_texts_as_labels_rule_over_class_names_of_the_hub(tmp_path):
    feature = {"info": {"features": {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": image_cells(0, 1), "label": ["dog", "cat"]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(feature)}), tmp_path / "t.parquet")
    found = Dataset(tmp_path / "t.parquet").labels()
    assert found == ([1, 0], ("cat", "dog"))
    assert built(ParquetSource([str(tmp_path / "t.parquet")]), tmp_path).labels() == found


def test_labels_of_archives_may_be_sparse_with_names_by_label(tmp_path):
    shard = [(f"{label}.{part}", content) for label in SPARSE for part, content in shard_parts(label)]
    write_shard(tmp_path / "0.tar", shard)
    (tmp_path / "n.json").write_text(json.dumps({label: f"class {label}" for label in SPARSE}))
    dataset = built(ShardSource([str(tmp_path / "0.tar")], tmp_path / "n.json"), tmp_path)
    assert dataset.labels() == ([2, 0, 1], ("class 88", "class 150027", "class 203093"))


def shard_parts(label):
    return [("jpg", picture(label % 100)), ("cls", str(label).encode())]


def test_names_by_label_fit_folders_in_either_unicode_form(tmp_path):
    (tmp_path / "n.json").write_text(json.dumps({"caf\xe9": "coffee", "1": "one"}))
    source = source_of("imagefolder", tmp_path, ["1", "cafe\u0301"], tmp_path / "n.json")
    assert source.kind.class_names == ("one", "coffee")
    assert source.kind.labels == ("1", "caf\xe9")


def test_class_names_of_the_hub_rule_and_may_not_differ_between_files(tmp_path):
    def write(name, names):
        feature = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = pa.table({"image": image_cells(0), "label": [1]})
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(feature)}), tmp_path / name)

    write("train-0.parquet", ["cat", "dog", "cow"])
    assert built(ParquetSource([str(tmp_path)]), tmp_path).labels() == ([1], ("cat", "dog", "cow"))
    (tmp_path / "out.parquet").unlink()
    write("train-1.parquet", ["dog", "cat", "cow"])
    with pytest.raises(
        DataError, match=r"has other classes in column label than .*: labels would mean different things"
    ):
        ParquetSource([str(tmp_path)])


def test_a_built_file_keeps_what_folders_were_called(tmp_path):
    (tmp_path / "n.json").write_text('{"n01": "tench", "n02": "goldfish"}')
    dataset = built(source_of("imagefolder", tmp_path, ["n02", "n01"], tmp_path / "n.json"), tmp_path)
    (tmp_path / "other.json").write_text('{"n01": "fish", "n02": "gold"}')
    assert dataset.labels()[1] == ("tench", "goldfish")
    assert dataset.labels(tmp_path / "other.json")[1] == ("fish", "gold")
    (tmp_path / "again.json").write_text('{"tench": "a", "goldfish": "b"}')
    assert dataset.labels(tmp_path / "again.json")[1] == ("a", "b")
    # And a file that is built of it.
    again = ParquetSource([str(dataset.path)])
    assert (again.kind.class_names, again.kind.labels) == (("tench", "goldfish"), ("n01", "n02"))


def write(columns, path):
    """Write a Parquet file, with types that older versions of Arrow read but do not write."""
    try:
        pq.write_table(pa.table(columns), path)
    except pa.ArrowNotImplementedError as error:
        if int(pa.__version__.split(".")[0]) > 20:
            raise
        pytest.skip(f"pyarrow {pa.__version__}: {error}")


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a cat"], pa.string_view()),
        pa.array(["a cat"], pa.large_string()),
        pa.array(["a cat"]).dictionary_encode(),
        pa.array([["a cat"]], pa.list_(pa.string(), 1)),
        pa.array([["a cat"]], pa.large_list(pa.string_view())),
        pa.array([["a cat"]], pa.list_view(pa.string())),
        pa.array([["a cat"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    ],
    ids=lambda column: str(column.type),
)
def test_captions_of_any_text_type_are_read(tmp_path, column):
    write({"image": image_cells(0), "caption": column}, tmp_path / "d.parquet")
    assert Dataset(tmp_path / "d.parquet").captions() == [("a cat",)]
    assert built(ParquetSource([str(tmp_path / "d.parquet")]), tmp_path).captions() == [("a cat",)]


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary_view(),
        pa.large_binary(),
        pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),
        pa.struct([("bytes", pa.large_binary())]),
        pa.struct([("bytes", pa.binary()), ("path", pa.null())]),
    ],
    ids=str,
)
def test_images_of_any_binary_type_are_read(tmp_path, kind):
    cell = {"bytes": picture(0), "path": None} if pa.types.is_struct(kind) else picture(0)
    write({"image": pa.array([cell], kind), "caption": ["a"]}, tmp_path / "d.parquet")
    assert list(Dataset(tmp_path / "d.parquet").images()) == [picture(0)]
    assert list(built(ParquetSource([str(tmp_path / "d.parquet")]), tmp_path).images()) == [picture(0)]


def test_splits_that_are_numbers_can_be_named(tmp_path):
    from workers.data.splits import SplitMap

    table = pa.table({"image": image_cells(0, 1, 2), "caption": list("abc"), "split": [0, 1, 2]})
    pq.write_table(table, tmp_path / "d.parquet")
    splits = SplitMap.parse("search=0,confirm=1,test=2")
    assert built(ParquetSource([str(tmp_path / "d.parquet")]), tmp_path, splits=splits).splits() == [
        "search",
        "confirm",
        "test",
    ]


def test_broken_text_concerns_its_row_alone(tmp_path):
    values = pa.array([b"a dog", b"\xff", b"a cat"])
    captions = pa.Array.from_buffers(pa.string(), 3, values.buffers())
    pq.write_table(pa.table({"image": image_cells(0, 1, 2), "caption": captions}), tmp_path / "d.parquet")
    dataset = built(ParquetSource([str(tmp_path / "d.parquet")]), tmp_path, on_bad_row="skip")
    assert dataset.captions() == [("a dog",), ("a cat",)]
    paths = pa.Array.from_buffers(pa.string(), 3, values.buffers())
    images = pa.StructArray.from_arrays([pa.array([picture(0)] * 3), paths], fields=list(IMAGE))
    pq.write_table(pa.table({"image": images, "caption": list("abc")}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match="row 1: the image's name: the text is not UTF-8"):
        list(Dataset(tmp_path / "e.parquet").images())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (pa.ArrowNotImplementedError("Nested data conversions not implemented"), "is more than pyarrow .* can read"),
        (pa.ArrowCapacityError("array cannot contain more than 2147483646 bytes"), "is more than pyarrow .* can read"),
        (PermissionError(13, "Permission denied"), "cannot read .*d.parquet: Permission denied"),
        (pa.ArrowInvalid("Unexpected end of stream"), "is damaged: Unexpected end of stream"),
    ],
)
def test_only_what_is_damaged_is_called_so(tmp_path, monkeypatch, error, message):
    pq.write_table(pa.table({"image": image_cells(0), "caption": ["a"]}), tmp_path / "d.parquet")
    dataset = Dataset(tmp_path / "d.parquet")

    class Failing:
        num_row_groups = 1
        metadata = dataset._file.metadata

        def iter_batches(self, *args, **options):
            raise error

    monkeypatch.setattr(dataset, "_file", Failing())
    with pytest.raises(DataError, match=message):
        dataset.captions()
    with pytest.raises(DataError, match=message):
        dataset.rows("image", [0])
