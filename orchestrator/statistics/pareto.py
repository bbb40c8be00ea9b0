"""How good masks of each size can be: the Pareto front and its knee. Free of side effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headmask.mask import HeadMask


@dataclass(frozen=True)
class Point:
    """A mask and its value."""

    mask: HeadMask
    value: float

    @property
    def num_heads(self) -> int:
        """Number of ablated heads."""
        return len(self.mask)


def front(values: Mapping[HeadMask, float]) -> list[Point]:
    """Return the masks for which no other one is as good with fewer heads, or better with as many; fewest first.

    It begins at the smallest mask, the baseline, and ends at the best one. The first by words stands for its equals.

    Args:
        values: of masks, finite.
    """
    ranked = sorted(values, key=lambda mask: (len(mask), -values[mask], mask.words))
    return _rising(ranked, values)


def savings(values: Mapping[HeadMask, float]) -> list[Point]:
    """Return the masks for which no other one is as good with more heads, or better with as many; fewest first.

    It goes on where `front` ends: from the best mask to the largest one, at what quality that costs.

    Args:
        values: of masks, finite.
    """
    ranked = sorted(values, key=lambda mask: (-len(mask), -values[mask], mask.words))
    return _rising(ranked, values)[::-1]


def knee(points: Sequence[Point]) -> Point | None:
    """Return the point of a front that lies furthest above the line between its ends; None where none lies above it.

    With both axes scaled by the ends, that is where an additional head stops paying what it pays on average (the knee
    of Das 1999, "On characterizing the knee of the Pareto curve"). Of equals, the one with the fewest heads.
    """
    if not points:
        return None
    first, last = points[0], points[-1]
    width, height = last.num_heads - first.num_heads, last.value - first.value

    def above(point: Point) -> float:
        return (point.value - first.value) * width - (point.num_heads - first.num_heads) * height

    best = max(points, key=lambda point: (above(point), -point.num_heads))
    # A tolerance, because the points of a straight line round.
    return best if above(best) > 1e-9 * width else None


def _rising(ranked: Sequence[HeadMask], values: Mapping[HeadMask, float]) -> list[Point]:
    """Return the masks that are better than all before them."""
    found: list[Point] = []
    for mask in ranked:
        if not found or values[mask] > found[-1].value:
            found.append(Point(mask, values[mask]))
    return found
