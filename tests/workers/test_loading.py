"""Splits and clusters: identical pixels never in two splits, and nothing depends on the file's layout."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2

from headmask.errors import DataError
from tests.tiny import tiny_rows, write_tiny_dataset
from workers.dataset import Row, write_dataset
from workers.loading import load_data, take_split
from workers.preprocess import UInt8Preprocess
from workers.splits import SPLITS, drawn_splits, given_splits

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


def test_images_that_share_pixels_or_a_caption_form_one_cluster(tmp_path):
    rows = list(tiny_rows({"test": 6}))
    rows[2] = Row("same caption", rows[2].image, (*rows[2].captions, rows[0].captions[0]), "test")
    rows[5] = Row("same pixels", rows[2].image, rows[5].captions, "test")
    write_dataset(tmp_path / "d.parquet", rows)
    whole = load_data(tmp_path / "d.parquet", PREPROCESS, whole=True)["all"]
    assert whole.clusters_N.tolist() == [0, 1, 0, 2, 3, 0]


def test_a_split_that_is_not_there_is_refused(tmp_path):
    splits = load_data(write_tiny_dataset(tmp_path / "d.parquet"), PREPROCESS)
    with pytest.raises(DataError, match="split must be one of search, confirm, test, all; got 'val'"):
        take_split(splits, "val")
