"""Tower views: the pieces are the model, and a view that is not is refused."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from headmask.attention import open_attention
from headmask.errors import ModelError
from headmask.folding import probe_images
from headmask.live import ablate
from headmask.mask import HeadGrid
from headmask.oracle import stock_ablation
from headmask.towers import VisionTowerView, attentions, prove
from tests.headmask.test_live import MASK, VARIANTS
from tests.headmask.test_mask import masks
from tests.tiny import tiny_clip

GRID = HeadGrid(3, 4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_view_of_every_variant_is_proven(variant):
    model = tiny_clip(**VARIANTS[variant])
    prove(VisionTowerView(model.visual), probe_images(model, 3), tolerance=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@given(mask=masks(GRID), ablation=st.sampled_from(["zero", "uniform", "cls", "mean"]))
@settings(max_examples=8, deadline=None)
def test_the_view_with_a_mask_equals_the_live_model_with_it(variant, mask, ablation):
    model = tiny_clip(**VARIANTS[variant])
    images = probe_images(model, 3)
    means = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), ablate(model, mask, ablation=ablation, means_LHd=means):
        live = F.normalize(model.encode_image(images), dim=-1)
        viewed = F.normalize(VisionTowerView(model.visual).encode(images, mask, ablation, means), dim=-1)
    assert (live - viewed).abs().max() <= 1e-6


def test_a_view_that_never_applies_masks_is_refused():
    model = tiny_clip()
    view = VisionTowerView(model.visual)
    finish = view.finish
    view.finish = lambda layer, x, z: finish(layer, x, view.attend(layer, x).z_BHTd)
    with pytest.raises(ModelError, match=r"is not the model: with mask L0H.* differ from stock open_clip by"):
        prove(view, probe_images(model, 3), tolerance=1e-5)


def test_a_view_of_swapped_heads_is_refused():
    model = tiny_clip()
    view = VisionTowerView(model.visual)
    finish = view.finish
    view.finish = lambda layer, x, z: finish(layer, x, z.flip(1))
    with pytest.raises(ModelError, match=r"with mask \(empty\) its embeddings differ"):
        prove(view, probe_images(model, 3), tolerance=1e-5)


@pytest.mark.parametrize("variant", ["multihead", "inner norm", "head scale"])
def test_the_stock_ablation_is_undone(variant):
    model = tiny_clip(**VARIANTS[variant])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with stock_ablation(attentions(model), MASK):
        assert any(not torch.equal(tensor, before.get(name, tensor + 1)) for name, tensor in model.state_dict().items())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_scaled_cosine_attention_is_refused_by_name():
    model = tiny_clip(scaled_cosine_attn=True)
    with pytest.raises(ModelError, match="scaled-cosine attention is not supported"):
        VisionTowerView(model.visual)


def test_attention_of_another_kind_is_refused_by_name():
    with pytest.raises(ModelError, match="attention of type Linear is not supported"):
        open_attention(torch.nn.Linear(2, 2))
