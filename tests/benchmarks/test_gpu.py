"""The script for machines with a GPU, as far as one without can tell: its models, its data, and the block it times."""

import torch

from benchmarks.gpu import block_of, timed, write_model, write_random
from headmask.ablation.rules import ZERO
from headmask.models.loading import load_model
from headmask.tower.towers import view_of
from tests.tiny import tiny_clip
from workers.data.dataset import Dataset


def test_a_model_at_random_weights_can_be_searched(tmp_path):
    write_model("ViT-S-32-alt", tmp_path / "model")
    loaded = load_model(f"local-dir:{tmp_path / 'model'}")
    assert view_of(loaded.clip).grid.layers == 12


def test_random_images_have_three_splits(tmp_path):
    write_random(tmp_path / "random.parquet", 40)
    splits = Dataset(tmp_path / "random.parquet").splits()
    assert {split: splits.count(split) for split in ("search", "confirm", "test")} == {
        "search": 40,
        "confirm": 30,
        "test": 30,
    }


def test_a_block_ablates_a_head():
    tower = tiny_clip().visual.requires_grad_(False).eval()
    view, images = view_of(tower), torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        sequences = view.embed(images)
        entered = view.enter(1, sequences, sequences.x_BTD, ZERO)
        block = block_of(view, images)
        assert torch.equal(block(), view.leave(1, entered, 1, ZERO))
        assert not torch.equal(block(), view.leave(1, entered, 0, ZERO))
    assert timed(block, torch.device("cpu")) > 0
