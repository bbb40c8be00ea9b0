"""Pictures show what they are told: read from the axes and from the pixels."""

import numpy as np
import pytest
from PIL import Image

from headmask.mask import HeadGrid, HeadMask
from orchestrator.outcome.pictures import write_pareto

GRID = HeadGrid(3, 4)


@pytest.fixture
def masks():
    heads = list(GRID)
    return [HeadMask.from_heads(GRID, heads[:count]) for count in range(7)]


def red_pixels(path):
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
    return int(((pixels[..., 0] > 180) & (pixels[..., 1] < 70) & (pixels[..., 2] < 70)).sum())


def test_the_knee_is_marked_where_there_is_one(masks, tmp_path):
    curved = dict(zip(masks, (0.40, 0.48, 0.49, 0.495, 0.50, 0.2, 0.1), strict=True))
    straight = dict(zip(masks, (0.40, 0.42, 0.44, 0.46, 0.48, 0.2, 0.1), strict=True))
    for name, values in (("curved.png", curved), ("straight.png", straight)):
        confirm = {mask: values[mask] - 0.1 for mask in masks[:5]}
        write_pareto(values, confirm, masks[4], "mean_recall", tmp_path / name, share_per_head=0.007)
    assert red_pixels(tmp_path / "curved.png") > red_pixels(tmp_path / "straight.png") == 0


@pytest.mark.parametrize("share", [None, 0.01])
def test_a_search_that_found_nothing_has_a_picture(masks, tmp_path, share):
    write_pareto({masks[0]: 0.4, masks[1]: 0.3}, {masks[0]: 0.5}, masks[0], "top1", tmp_path / "p.png", share)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (960, 660)
