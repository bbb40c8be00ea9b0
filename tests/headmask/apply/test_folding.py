"""Folding: the weights alone give the masked model."""

import pytest
import torch

from headmask.apply.folding import fold, probe_images
from headmask.apply.live import ablate, calibrate_means
from headmask.errors import AblationError
from headmask.mask import HeadGrid, HeadMask
from tests.headmask.apply.test_live import MASK, VARIANTS, encode
from tests.tiny import tiny_clip

FOLDABLE = [name for name in VARIANTS if name != "inner norm"]


@pytest.mark.parametrize("variant", FOLDABLE)
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_folded_weights_equal_the_live_mask(variant, ablation):
    model = tiny_clip(**VARIANTS[variant])
    means = calibrate_means(model, lambda: model.encode_image(probe_images(model, 5, seed=1)))
    with ablate(model, MASK, ablation=ablation, means_LHd=means):
        live = encode(model)
    assert (encode(fold(model, MASK, ablation=ablation, means_LHd=means)) - live).abs().max() <= 1e-6


def test_uniform_folds_into_image_towers(clip):
    with ablate(clip, MASK, ablation="uniform"):
        live = encode(clip)
    assert (encode(fold(clip, MASK, ablation="uniform")) - live).abs().max() <= 1e-6


def test_folding_leaves_the_model_as_it_is(clip):
    before = encode(clip)
    fold(clip, MASK)
    assert torch.equal(encode(clip), before)


@pytest.mark.parametrize(
    ("variant", "arguments", "message"),
    [
        ({"scale_attn_inner": True}, {}, "normalises the heads' outputs before W_O"),
        ({"qk_norm": True}, {"ablation": "uniform"}, "a zero query row does not give uniform attention"),
        ({}, {"ablation": "cls"}, "ablation cls does not fold into weights"),
        ({}, {"ablation": "uniform", "tower": "text"}, "folds into image towers only"),
    ],
)
def test_what_cannot_be_folded_is_refused_with_the_reason(variant, arguments, message):
    mask = HeadMask(HeadGrid(2, 2), (1, 2)) if arguments.get("tower") == "text" else MASK
    with pytest.raises(AblationError, match=message):
        fold(tiny_clip(**variant), mask, **arguments)
