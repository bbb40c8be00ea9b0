"""A model with a mask in it: folded where it folds, else ablating for good."""

from copy import deepcopy

import pytest
import torch

import headmask
from headmask.apply.live import ablate
from headmask.errors import MaskFileError, ModelError
from headmask.maskfile import Grid, MaskFile
from headmask.models.loading import load_model
from tests.headmask.apply.test_live import MASK, encode
from tests.tiny import write_tiny_model

HEADS = tuple(map(str, MASK.heads))


def mask_file(loaded, **changes):
    content = {"model": loaded.reference, "grid": Grid(layers=3, heads=4), "heads": HEADS}
    return MaskFile(**{**content, **changes})


@pytest.fixture(scope="module")
def loaded(tiny_files):
    return load_model(f"local-dir:{tiny_files[0]}")


@pytest.mark.parametrize("ablation", ["zero", "uniform", "cls"])
def test_a_loaded_model_is_the_masked_one(loaded, tmp_path, ablation):
    mask = mask_file(loaded, ablation=ablation)
    mask.write(tmp_path / "mask.json")
    masked = headmask.load(loaded.reference.name, tmp_path / "mask.json")
    with ablate(loaded.clip, mask):
        expected = encode(loaded.clip)
    assert (encode(masked.clip) - expected).abs().max() <= 1e-6

    assert torch.equal(masked.tokenizer(["night"]), loaded.tokenizer(["night"]))
    assert masked.preprocess.transforms[-5].size == loaded.preprocess.transforms[-5].size


def test_a_model_whose_heads_are_normalised_together_ablates_for_good(tmp_path):
    source = load_model(f"local-dir:{write_tiny_model(tmp_path / 'inner', scale_attn_inner=True)}")
    before, mask = encode(source.clip), mask_file(source)
    masked = headmask.load(source, mask)
    with ablate(source.clip, mask):
        expected = encode(source.clip)
    assert torch.equal(encode(masked.clip), expected)
    assert torch.equal(encode(deepcopy(masked.clip)), expected)
    assert torch.equal(encode(source.clip), before)


def test_a_mask_is_not_applied_twice(loaded):
    """Its weights are no longer those that the mask was made for."""
    masked = headmask.load(loaded, mask_file(loaded))
    with pytest.raises(MaskFileError, match="this mask was made for"):
        headmask.load(masked, mask_file(loaded))


def test_what_is_not_there_is_refused(loaded, tmp_path):
    with pytest.raises(MaskFileError, match="there is no mask file at"):
        headmask.load(loaded, tmp_path / "none.json")
    with pytest.raises(ModelError, match="open_clip has no architecture 'nonsense'"):
        headmask.load("nonsense", mask_file(loaded))
