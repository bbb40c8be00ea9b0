"""The front is what no mask dominates, by brute force; the knee is where the rule says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headmask.mask import HeadGrid, HeadMask
from orchestrator.statistics.pareto import Point, front, knee, savings
from tests.headmask.test_mask import masks

GRID = HeadGrid(3, 4)
VALUES = st.dictionaries(masks(GRID), st.integers(0, 8).map(lambda eighths: eighths / 8), min_size=1, max_size=30)


def undominated(values, size):
    """Return (size, value) of all masks that none beats in one of both and equals in the other."""
    points = {(size(mask), value) for mask, value in values.items()}
    return {(s, v) for s, v in points if not any((o, w) != (s, v) and o >= s and w >= v for o, w in points)}


def sizes_and_values(points, sign=1):
    return [(sign * point.num_heads, point.value) for point in points]


@given(VALUES)
def test_fronts_are_the_undominated_masks(values):
    fewest, most = front(values), savings(values)
    assert set(sizes_and_values(fewest, -1)) == undominated(values, lambda mask: -len(mask))
    assert set(sizes_and_values(most)) == undominated(values, len)
    for points in (fewest, most):
        assert len(set(sizes_and_values(points))) == len(points)
        assert sizes_and_values(points) == sorted(sizes_and_values(points))
        assert all(values[point.mask] == point.value for point in points)


@given(VALUES)
def test_both_fronts_hold_the_best_value_at_its_extremes(values):
    best = max(values.values())
    sizes = [len(mask) for mask, value in values.items() if value == best]
    assert sizes_and_values(front(values))[-1] == (min(sizes), best)
    assert sizes_and_values(savings(values))[0] == (max(sizes), best)


@given(VALUES, st.randoms())
def test_the_order_of_masks_changes_nothing(values, random):
    shuffled = list(values.items())
    random.shuffle(shuffled)
    assert front(dict(shuffled)) == front(values)
    assert savings(dict(shuffled)) == savings(values)


def points(*pairs):
    heads = list(GRID)
    return [Point(HeadMask.from_heads(GRID, heads[:size]), value) for size, value in pairs]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(0, 0.0), (1, 0.1), (2, 0.8), (5, 1.0)], 2),
        ([(0, 0.50), (1, 0.54), (3, 0.57), (8, 0.58)], 3),
        ([(0, 0.0), (1, 0.5), (3, 0.75), (4, 1.0)], 1),
        ([(0, 0.0), (1, 0.5), (2, 0.75), (4, 1.0)], 1),
    ],
    ids=["steep", "late", "one", "equal distances: fewer heads"],
)
def test_the_knee_lies_furthest_above_the_line_between_the_ends(pairs, expected):
    assert knee(points(*pairs)).num_heads == expected


@given(VALUES)
def test_no_point_of_the_front_lies_further_above_the_line_than_the_knee(values):
    found, chosen = front(values), knee(front(values))
    ends = found[0], found[-1]

    def above(point):
        share = (point.num_heads - ends[0].num_heads) / (ends[1].num_heads - ends[0].num_heads)
        return (point.value - ends[0].value) / (ends[1].value - ends[0].value) - share

    if chosen is not None:
        assert above(chosen) > 0
        assert max(map(above, found)) == pytest.approx(above(chosen))


@pytest.mark.parametrize(
    "pairs",
    [[], [(0, 0.5)], [(0, 0.1), (4, 0.9)], [(0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4)], [(0, 0.0), (2, 0.1), (3, 0.9)]],
    ids=["nothing", "baseline", "ends", "straight", "hollow"],
)
def test_a_front_that_nowhere_rises_above_the_line_has_no_knee(pairs):
    assert knee(points(*pairs)) is None
