"""Which masks add heads to others, against a search through all pairs."""

import numpy as np
import pytest

from strategies.additions import MAX_ADDED, Additions


def every_pair(bits, values):
    """Return what `Additions.of` does, mask by mask."""
    good = [row for row in range(len(bits)) if np.isfinite(values[row]) and bits[row].sum() > 1]
    found = []
    for row in good:
        within = [(bits[base].sum(), -base) for base in good if (bits[base] <= bits[row]).all()]
        within = [(size, place) for size, place in within if 0 < bits[row].sum() - size <= MAX_ADDED]
        if within:
            size, place = max(within)
            found.append((bits[row] & ~bits[-place], values[row] - values[-place], size))
    return found


def drawn(count, *, heads=14):
    """Return masks of all sizes with their values, some of which are failures."""
    rng = np.random.default_rng(0)
    bits = rng.random((count, heads)) < rng.random((count, 1)) * 0.8
    return bits, np.where(rng.random(count) < 0.1, np.nan, rng.random(count))


@pytest.mark.parametrize("counts", [(150,), (1, 2, 40, 41, 150), (150, 60, 150)], ids=str)
def test_additions_are_those_of_a_search_through_all_pairs_whatever_was_known_before(counts, monkeypatch):
    monkeypatch.setattr("strategies.additions._AT_ONCE", 16)
    bits, values = drawn(150)
    additions = Additions()
    for count in counts:
        groups, changes, sizes = additions.of(bits[:count], values[:count])
        expected = every_pair(bits[:count], values[:count])
        assert len(groups) == len(expected)
        for *found, (group, change, size) in zip(groups, changes, sizes, expected, strict=True):
            assert (found[0] == group).all()
            assert found[1:] == [change, size]


def test_results_of_another_study_are_not_mixed_with_those_before():
    bits, values = drawn(60)
    additions = Additions()
    additions.of(bits, values)
    other = bits[::-1].copy()
    for found, fresh in zip(additions.of(other, values), Additions().of(other, values), strict=True):
        np.testing.assert_array_equal(found, fresh)
