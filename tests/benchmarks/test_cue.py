"""What the benchmark of the cue measures: planted heads, and shares against scipy's analysis of variance."""

import numpy as np
import pytest
from scipy.stats import f_oneway

from benchmarks import cue
from headmask.maskfile import Grid, MaskFile
from headmask.models.loading import load_model
from orchestrator.demo import unpack_demo
from orchestrator.demo.scenes import KINDS, unique_scenes

SCENES = unique_scenes(np.random.default_rng(0), 600, cue=0.0)
DIRECTIONS = np.eye(6, dtype=np.float32) - 1 / 6


def measured(kind_N, noise=0.5):
    """Return what a head contributes that writes the direction of a kind, and noise."""
    added_NE = np.eye(6)[kind_N] + noise * np.random.default_rng(1).normal(size=(len(SCENES), 6))
    return cue.measures(added_NE, DIRECTIONS, np.ones(len(SCENES)), 10.0, SCENES)


def test_a_head_that_writes_the_background_is_told_from_one_that_writes_the_shape():
    background = measured([scene.background for scene in SCENES])
    shape = measured([KINDS.index(scene.first.kind) for scene in SCENES])
    nothing = measured(np.zeros(len(SCENES), dtype=int))
    assert background["cue"] > 0.3 > 0.05 > abs(background["shape"])
    assert shape["shape"] > 0.3 > 0.05 > abs(shape["cue"])
    assert abs(nothing["cue"]) < 0.02
    assert background["cue_of_cue_and_shape"] > 0.9 > 0.1 > shape["cue_of_cue_and_shape"]
    assert background["pull"] == pytest.approx(10 * 5 / 6, rel=0.1)
    assert abs(shape["pull"]) < 1


def test_the_share_is_that_of_an_analysis_of_variance_adjusted_for_chance():
    rng = np.random.default_rng(2)
    group_N = rng.integers(4, size=200)
    score_N1 = (0.5 * group_N + rng.normal(size=200))[:, None]
    ratio = f_oneway(*(score_N1[group_N == group, 0] for group in range(4))).statistic
    share = 3 * ratio / (3 * ratio + 196)
    assert cue.explained(score_N1, group_N) == pytest.approx(1 - (1 - share) * 199 / 196)
    chance = [cue.explained(rng.normal(size=(60, 3)), rng.integers(4, size=60)) for _ in range(400)]
    assert abs(np.mean(chance)) < 0.01


def test_selected_heads_are_compared_with_the_others():
    rows = [{"selected": number < 3, "direct": {"cue": 10 - number}} for number in range(8)]
    found = cue.comparison(rows, "direct", "cue")
    assert (found["auc"], found["median_selected"], found["median_others"]) == (1.0, 9, 5)
    assert found["p"] == pytest.approx(2 / 56)


def test_heads_of_the_demo_that_carry_the_cue_are_found(tmp_path):
    model = load_model(f"local-dir:{unpack_demo(tmp_path).model}")
    heads = ("L0H2", "L4H0", "L6H4", "L7H4")
    mask = MaskFile(model=model.reference, grid=Grid(layers=8, heads=6), heads=heads)
    found = cue.study(mask, model, 150, 0)
    shares = {row["head"]: row["direct"]["cue"] for row in found["heads"]}
    assert len(shares) == 48
    assert min(shares[head] for head in heads) > 0.25 > shares["L2H2"]
    assert found["compared"]["total"]["pull"]["auc"] > 0.9
