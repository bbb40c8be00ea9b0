"""`headmask bench engine`: what it runs is what it says, and its keys are there."""

import json

import numpy as np
import open_clip
import pytest

from headmask.mask import HeadGrid
from orchestrator.run import bench
from orchestrator.run.bench import make_workload
from tests.tiny import tiny_clip

GRID = HeadGrid(12, 12)
KEYS = (
    "plain_s_per_mask",
    "engine_s_per_mask",
    "speedup",
    "bound",
    "share_of_bound",
    "share_of_peak",
    "peak_memory_bytes",
    "max_abs_difference",
)


def test_the_scan_is_the_empty_mask_and_every_head():
    masks = make_workload("scan", GRID)
    assert [len(mask) for mask in masks] == [0] + [1] * 144
    assert len(set(masks)) == 145


def test_the_population_is_bred_from_few_heads_and_the_same_every_time():
    masks = make_workload("population", GRID)
    assert len(set(masks)) == len(masks) == 256
    assert len({head for mask in masks for head in mask.heads}) <= 24
    assert 4 < np.mean([len(mask) for mask in masks]) < 9
    assert make_workload("population", GRID) == masks
    assert [len(mask) for mask in make_workload("single", GRID)] == [6]


@pytest.mark.parametrize("workload", ["scan", "population", "single"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_ways_embed_the_same(monkeypatch, workload, precision):
    monkeypatch.setattr(open_clip, "create_model", lambda name: tiny_clip(std=0.15))
    found = bench.bench_engine("tiny", images=4, workload=workload, precision=precision, rounds=1, sample=4)
    assert found.max_abs_difference < (1e-6 if precision == "float32" else 0.1)
    assert found.num_masks == {"scan": 13, "population": 256, "single": 1}[workload]
    assert found.share_of_bound == pytest.approx(found.speedup / found.bound)
    assert found.bound > {"scan": 1.5, "population": 1.5, "single": 1.0}[workload]
    assert found.peak_memory_bytes > 2**20


def test_the_command_prints_the_keys(monkeypatch, headmask):
    monkeypatch.setattr(open_clip, "create_model", lambda name: tiny_clip())
    flags = ["--model", "ViT-B-32", "--images", "4", "--rounds", "1", "--json"]
    code, out, _ = headmask("bench", "engine", *flags)
    assert code == 0
    content = json.loads(out)
    assert set(KEYS) <= set(content)
    assert all(content[key] > 0 for key in KEYS)
