"""Splits and clusters: identical pixels never in two splits, and nothing depends on the file's layout."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2

from headmask.errors import DataError
from tests.tiny import tiny_rows, write_tiny_dataset
from workers.data.dataset import Kind, Row, write_dataset
from workers.data.loading import MAX_COPIES, Reading, linked, load_data, take_split
from workers.data.preprocess import UInt8Preprocess
from workers.data.splits import SPLITS, drawn_splits, given_splits

PREPROCESS = UInt8Preprocess(image_transform_v2(PreprocessCfg(size=28), is_train=False))


@given(st.lists(st.integers(0, 40).map(str), min_size=30, max_size=80), st.integers(0, 5))
def test_drawn_splits_cover_all_rows_and_never_part_identical_images(digests, seed):
    distinct = len(set(digests))
    if distinct < 5:
        return
    rows = drawn_splits(digests, seed)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(len(digests)))
    home = {digests[row]: name for name, chosen in rows.items() for row in chosen}
    assert all(home[digests[row]] == name for name, chosen in rows.items() for row in chosen)


def test_an_images_split_does_not_depend_on_the_order_of_rows():
    digests = [f"image {index}" for index in range(50)]
    forward, backward = drawn_splits(digests, 1), drawn_splits(digests[::-1], 1)
    for name in SPLITS:
        assert {digests[row] for row in forward[name]} == {digests[::-1][row] for row in backward[name]}
    assert any((forward[name].tolist() != drawn_splits(digests, 2)[name].tolist()) for name in SPLITS)


@pytest.mark.parametrize(
    ("splits", "digests", "message"),
    [
        (["train", "val", "test"], "abc", "must hold search, confirm, test; it holds train, val"),
        (["search", "confirm", None], "abc", "it holds None"),
        (["search", "confirm", "test"], "aba", "row 0 is in search, row 2 "),
        (["search", "search", "test"], "abc", "split confirm has no images"),
    ],
)
def test_split_columns_that_do_not_fit_are_refused(splits, digests, message):
    with pytest.raises(DataError, match=message):
        given_splits(splits, digests)


def test_a_split_holds_its_images_and_captions_in_order(tmp_path):
    splits = load_data(write_tiny_dataset(tmp_path / "d.parquet"), PREPROCESS)
    confirm = splits["confirm"]
    assert [len(splits[name].pixels) for name in SPLITS] == [24, 20, 30]
    assert confirm.texts[:3] == ("picture 0 of confirm", "number 0 in confirm again", "picture 1 of confirm")
    assert confirm.targets.image_of_caption_Q[:4].tolist() == [0, 0, 1, 1]
    assert confirm.pixels[2:4].shape == (2, 3, 28, 28)
    assert (confirm.pixels.packed().unpack()[:] == confirm.pixels[:]).all()


def test_digests_do_not_depend_on_the_layout_of_the_file(tmp_path):
    path = write_tiny_dataset(tmp_path / "d.parquet")
    before = load_data(path, PREPROCESS)
    pq.write_table(pq.read_table(path), path, row_group_size=7, compression="zstd")
    assert {name: split.digest for name, split in load_data(path, PREPROCESS).items()} == {
        name: split.digest for name, split in before.items()
    }


def test_digests_see_captions_pixels_and_order(tmp_path):
    rows = list(tiny_rows({"search": 4, "confirm": 4, "test": 4}))

    def digest(rows):
        write_dataset(tmp_path / "d.parquet", rows)
        return load_data(tmp_path / "d.parquet", PREPROCESS)["search"].digest

    other_caption = Row(rows[0].path, rows[0].image, ("another",), "search")
    other_pixels = Row(rows[0].path, next(tiny_rows({"search": 1}, seed=9)).image, rows[0].captions, "search")
    variants = [rows, [other_caption, *rows[1:]], [other_pixels, *rows[1:]], [rows[1], rows[0], *rows[2:]]]
    assert len({digest(variant) for variant in variants}) == 4


def clusters_of(path, rows, kind=None):
    write_dataset(path, rows, kind or Kind())
    return load_data(path, PREPROCESS, whole=True)["all"].clusters_N.tolist()


def test_images_that_share_pixels_or_all_their_captions_form_one_cluster(tmp_path):
    rows = list(tiny_rows({"test": 6}))
    rows[2] = Row("same captions", rows[2].image, rows[0].captions[::-1], "test")
    rows[5] = Row("same pixels", rows[2].image, rows[5].captions, "test")
    assert clusters_of(tmp_path / "d.parquet", rows) == [0, 1, 0, 2, 3, 0]


@pytest.mark.parametrize("num_sharing", [2, 5, 30])
def test_a_caption_beside_others_links_no_images(tmp_path, num_sharing):
    rows = list(tiny_rows({"test": 30}))
    shared = [Row(row.path, row.image, (*row.captions, "a drawing"), "test") for row in rows[:num_sharing]]
    assert clusters_of(tmp_path / "d.parquet", [*shared, *rows[num_sharing:]]) == list(range(30))


def test_captions_that_a_large_part_of_the_images_has_link_none_of_them():
    own = [(f"picture {number}",) for number in range(100)]
    copies, label = [("a cat",)] * MAX_COPIES, [("a drawing",)] * (MAX_COPIES + 1)
    sizes = np.bincount(linked([str(n) for n in range(141)], [*copies, *label, *own])).tolist()
    assert sizes == [MAX_COPIES, *[1] * 121]


def test_captions_link_images_where_hardly_anything_else_tells_them_apart():
    captions = [(f"a photo of class {number % 5}",) for number in range(200)]
    assert np.bincount(linked([str(n) for n in range(200)], captions)).tolist() == [40] * 5


def test_pairs_are_linked_by_both_of_their_captions():
    digests, pairs = [str(n) for n in range(8)], [1, 1, 2, 2, 3, 3, 4, 4]
    captions = [("a",), ("b",), ("b",), ("a",), ("a",), ("c",), ("d",), ("a",)]
    assert linked(digests, captions, pairs).tolist() == [0, 0, 0, 0, 1, 1, 2, 2]


def test_images_of_a_class_are_linked_by_their_pixels_alone(tmp_path):
    rows = list(tiny_rows({"test": 6}))
    rows = [Row(row.path, row.image, split="test", label=number % 2) for number, row in enumerate(rows)]
    rows[4] = Row("same pixels", rows[0].image, split="test", label=0)
    assert clusters_of(tmp_path / "d.parquet", rows, Kind("classification", ("a", "b"))) == [0, 1, 2, 3, 0, 4]


def test_a_split_that_is_not_there_is_refused(tmp_path):
    splits = load_data(write_tiny_dataset(tmp_path / "d.parquet"), PREPROCESS)
    with pytest.raises(DataError, match="split must be one of search, confirm, test, all; got 'val'"):
        take_split(splits, "val")


def labelled(tmp_path, name="d", names=("cat", "dog"), templates=(), **changes):
    """Write twelve images with labels and groups; return the digest of the search split."""
    rows = [
        Row(row.path, row.image, split=row.split, label=number % 2, group="ab"[number % 3 == 0])
        for number, row in enumerate(tiny_rows({"search": 4, "confirm": 4, "test": 4}))
    ]
    rows[0] = replace(rows[0], **changes)
    kind = Kind("classification", names, templates, has_groups=True)
    write_dataset(tmp_path / f"{name}.parquet", rows, kind)
    return load_data(tmp_path / f"{name}.parquet", PREPROCESS)["search"].digest


def test_digests_of_classification_see_labels_groups_names_and_templates(tmp_path):
    variants = [
        labelled(tmp_path),
        labelled(tmp_path, label=1),
        labelled(tmp_path, group="c"),
        labelled(tmp_path, names=("cat", "hound")),
        labelled(tmp_path, templates=("a {c}",)),
    ]
    assert len(set(variants)) == 5
    path = tmp_path / "d.parquet"
    assert labelled(tmp_path) == variants[0]
    pq.write_table(pq.read_table(path), path, row_group_size=3, compression="zstd")
    assert load_data(path, PREPROCESS)["search"].digest == variants[0]
    reading = Reading(templates="simple")
    assert load_data(path, PREPROCESS, reading)["search"].digest != variants[0]


def test_digests_of_matching_see_which_image_has_which_caption(tmp_path):
    rows = [
        Row(row.path, row.image, row.captions[:1], row.split, pair=number // 2)
        for number, row in enumerate(tiny_rows({"search": 4, "confirm": 4, "test": 4}))
    ]

    def digest(rows):
        write_dataset(tmp_path / "d.parquet", rows, Kind("matching"))
        return load_data(tmp_path / "d.parquet", PREPROCESS)["search"].digest

    swapped = [replace(rows[0], captions=rows[1].captions), replace(rows[1], captions=rows[0].captions), *rows[2:]]
    reordered = [rows[2], rows[3], rows[0], rows[1], *rows[4:]]
    assert len({digest(variant) for variant in (rows, swapped, reordered)}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: {"pair": 5}}, "row 1: the two images of a pair must follow each other"),
        ({2: {"pair": 0}, 3: {"pair": 0}}, "every pair must have two images"),
        ({0: {"captions": ("a", "b")}}, "row 0: an image of a pair has one caption; got 2"),
        ({1: {"split": "test"}}, "split search holds one image of a pair without the other"),
    ],
)
def test_pairs_that_are_none_are_refused(tmp_path, changes, message):
    rows = [
        Row(row.path, row.image, row.captions[:1], row.split, pair=number // 2)
        for number, row in enumerate(tiny_rows({"search": 4, "confirm": 4, "test": 4}))
    ]
    rows = [replace(row, **changes.get(number, {})) for number, row in enumerate(rows)]
    write_dataset(tmp_path / "d.parquet", rows, Kind("matching"))
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "d.parquet", PREPROCESS)


@pytest.mark.parametrize(
    ("label", "message"),
    [(None, "row 0: the label is missing"), (2, "row 0: label must be 0 to 1; got 2"), (-1, "label must be 0 to 1")],
)
def test_labels_that_name_no_class_are_refused(tmp_path, label, message):
    with pytest.raises(DataError, match=message):
        labelled(tmp_path, label=label)


def test_a_missing_group_is_refused(tmp_path):
    with pytest.raises(DataError, match="row 0: the group is missing"):
        labelled(tmp_path, group=None)
