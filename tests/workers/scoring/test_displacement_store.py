"""Rows of displacements are there or not, whatever stopped a search; what is damaged is made again."""

import numpy as np
import pytest

from headmask.mask import Head, HeadGrid, HeadMask
from workers.scoring.displacement import displacement
from workers.scoring.displacement_store import DisplacementStore

GRID = HeadGrid(2, 3)
SCAN = HeadMask.singles(GRID)
SHAPES = [(5, 4), (3, 4)]


def embeddings_of(mask):
    rng = np.random.default_rng([*mask.words, 7])
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in SHAPES)


@pytest.fixture
def make_store(tmp_path):
    return lambda decides="one": DisplacementStore(SCAN, SHAPES, (decides,), folder=tmp_path / "cache")


def filled(store, masks=SCAN):
    for mask in masks:
        store.add(mask, embeddings_of(mask))
    return store


def assert_are_those_of(displacements, index, heads=SCAN[1:]):
    baseline_NE = embeddings_of(SCAN[0])[index]
    assert (displacements[index].baseline_NE == baseline_NE).all()
    for mask in heads:
        expected_NE = displacement(embeddings_of(mask)[index], baseline_NE)
        assert (displacements[index].moved[mask.heads[0]] == expected_NE).all()
        assert expected_NE.dtype == np.float16


def test_rows_are_kept_for_the_next_run(make_store):
    filled(make_store())
    found = make_store()
    assert found.missing == set()
    displacements = found.take()
    for index in range(2):
        assert_are_those_of(displacements, index)


def test_rows_may_come_before_the_baseline(make_store):
    store = filled(make_store(), SCAN[:0:-1])
    assert store.missing == set(SCAN)
    filled(store, SCAN[:1])
    assert_are_those_of(store.take(), 1)


def test_what_was_not_written_is_missing(make_store):
    filled(make_store(), SCAN[:4])
    store = make_store()
    assert store.missing == set(SCAN[4:])
    assert_are_those_of(filled(store, SCAN[4:]).take(), 0)


def test_incomplete_displacements_are_not_given_away(make_store):
    with pytest.raises(ValueError, match="3 rows of displacements are missing"):
        filled(make_store(), SCAN[:4]).take()


@pytest.mark.parametrize("damage", ["cut off", "overwritten", "emptied"])
def test_a_damaged_row_is_made_again(make_store, tmp_path, damage, caplog):
    filled(make_store())
    (path,) = (tmp_path / "cache").glob("displacements-*/L1H2.npz")
    content = path.read_bytes()
    middle = len(content) // 3
    path.write_bytes(
        {"cut off": content[:middle], "overwritten": content[:middle] + b"?" + content[middle + 1 :], "emptied": b""}[
            damage
        ]
    )
    store = make_store()
    assert store.missing == {HeadMask.from_heads(GRID, [(1, 2)])}
    assert "L1H2.npz are damaged" in caplog.text
    assert_are_those_of(filled(store, store.missing).take(), 0)
    assert make_store().missing == set()


def test_a_row_that_was_being_written_counts_for_nothing(make_store, tmp_path):
    filled(make_store(), SCAN[:2])
    (folder,) = (tmp_path / "cache").glob("displacements-*")
    (folder / "L0H1.123.part").write_bytes(b"PK")
    assert make_store().missing == set(SCAN[2:])


def test_what_decides_embeddings_decides_what_is_found(make_store):
    filled(make_store("one"))
    assert make_store("another").missing == set(SCAN)


@pytest.mark.parametrize("known", [SCAN, SCAN[:-1]])
def test_a_mask_that_fails_predicts_nothing_in_this_search_and_stays_as_it_is_on_disk(make_store, known):
    filled(make_store(), known)
    store = make_store()
    store.exclude(SCAN[-1])
    assert store.missing == set()
    assert np.isnan(store.take()[0].moved[Head(1, 2)]).all()
    assert make_store().missing == set(SCAN) - set(known)


def test_without_the_empty_mask_nothing_is_predicted_and_nothing_is_kept(make_store, tmp_path):
    store = filled(make_store(), SCAN[1:3])
    store.exclude(SCAN[0])
    assert store.missing == set()
    (first, _) = store.take()
    assert all(np.isnan(moved_NE).all() for moved_NE in (first.baseline_NE, *first.moved.values()))
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_costs_only_the_next_run(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    store = filled(DisplacementStore(SCAN, SHAPES, ("one",), folder=tmp_path / "file"))
    assert_are_those_of(store.take(), 0)
    assert caplog.text.count("cannot be kept") == 1
