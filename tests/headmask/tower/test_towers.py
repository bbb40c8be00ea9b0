"""Tower views: the pieces are the model, for every family, and a view that is not is refused."""

import inspect

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Attention as TimmAttention
from timm.layers import AttentionRope
from timm.models.eva import EvaBlock

from headmask.ablation.oracle import stock_ablation
from headmask.ablation.rules import ABLATIONS
from headmask.apply.folding import fold, probe_images
from headmask.apply.live import ablate, calibrate_means
from headmask.attention.adapters import TimmHeadAttention, open_attention
from headmask.errors import AblationError, ModelError
from headmask.mask import HeadGrid, HeadMask
from headmask.tower.towers import attentions, grid_of, prove, tower_of, view_of
from tests.families import FAMILIES, OPEN_CLIP, REFUSED, TEXT_FAMILIES, family, text_family, timm_tower, tokens
from tests.headmask.apply.test_live import MASK
from tests.headmask.test_mask import masks
from tests.tiny import tiny_clip

GRID, TEXT_GRID = HeadGrid(3, 4), HeadGrid(2, 2)


def normalised(embedding):
    return F.normalize(embedding.float(), dim=-1)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_view_of_every_image_tower_is_proven(name):
    model = family(name)
    prove(view_of(model), probe_images(model, 3), tolerance=1e-6)


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_the_view_of_every_text_tower_is_proven(name):
    prove(view_of(text_family(name), "text"), tokens(9), tolerance=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_head_of_every_image_tower_matters(name):
    model = family(name)
    images, view = probe_images(model, 3), view_of(model)
    with torch.no_grad():
        before = normalised(view.stock(images))
        for head in view.grid:
            after = normalised(view.encode(images, HeadMask.from_heads(view.grid, [head])))
            assert (after - before).abs().max() > 1e-5, head


@pytest.mark.parametrize("name", FAMILIES)
@given(mask=masks(GRID), ablation=st.sampled_from(list(ABLATIONS)))
@settings(max_examples=8, deadline=None)
def test_the_view_with_a_mask_equals_the_live_model_with_it(name, mask, ablation):
    model = family(name)
    view = view_of(model)
    if ablation == "cls" and not view.has_class_token:
        ablation = "uniform"
    images = probe_images(model, 3)
    means = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), ablate(model, mask, ablation=ablation, means_LHd=means):
        live = normalised(model.encode_image(images))
    with torch.no_grad():
        viewed = normalised(view.encode(images, mask, ABLATIONS[ablation], means))
    assert (live - viewed).abs().max() <= 1e-6


@pytest.mark.parametrize("name", TEXT_FAMILIES)
@given(mask=masks(TEXT_GRID), ablation=st.sampled_from(["zero", "uniform", "mean"]))
@settings(max_examples=8, deadline=None)
def test_the_text_view_with_a_mask_equals_the_live_model_with_it(name, mask, ablation):
    model, texts = text_family(name), tokens(9)
    means = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), ablate(model, mask, ablation=ablation, tower="text", means_LHd=means):
        live = normalised(model.encode_text(texts))
    with torch.no_grad():
        viewed = normalised(view_of(model, "text").encode(texts, mask, ABLATIONS[ablation], means))
    assert (live - viewed).abs().max() <= 1e-6


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("ablation", ["zero", "mean", "uniform"])
def test_every_family_folds_into_its_weights_or_says_why_not(name, ablation):
    model = family(name)
    images, attention = probe_images(model, 3), attentions(model)[0]
    means = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    if attention.normalises_heads or (ablation == "uniform" and attention.normalises_query):
        with pytest.raises(AblationError, match="this tower normalises"):
            fold(model, MASK, ablation=ablation, means_LHd=means)
        return
    with torch.no_grad():
        found = normalised(fold(model, MASK, ablation=ablation, means_LHd=means).encode_image(images))
        with ablate(model, MASK, ablation=ablation, means_LHd=means):
            live = normalised(model.encode_image(images))
    assert (found - live).abs().max() <= 1e-6


@pytest.mark.parametrize("name", ["multihead attention", "SigLIP", "EVA01", "EVA02", "PE", "CoCa"])
def test_means_are_taken_of_every_family(name):
    model = family(name)
    images = probe_images(model, 3)
    means = calibrate_means(model, lambda: model.encode_image(images))
    assert means.shape == (3, 4, 8)
    assert means.abs().min() > 0


def test_a_text_tower_that_lies_in_its_clip_runs_without_the_image_tower():
    model = tiny_clip()
    alone = tower_of(model, "text")
    assert not hasattr(alone, "visual")
    assert alone.token_embedding is model.token_embedding
    assert grid_of(alone, "text") == grid_of(model, "text") == TEXT_GRID
    assert model.visual is not None


def test_a_text_view_leaves_out_what_comes_after_the_last_token_read():
    view, texts = view_of(tiny_clip(), "text"), tokens(3)
    assert view.embed(texts).x_BTD.shape[1] == int(texts.argmax(-1).max()) + 1 < texts.shape[1]


def test_a_view_that_never_applies_masks_is_refused():
    model = tiny_clip()
    view = view_of(model)
    leave = view.leave
    view.leave = lambda layer, entered, word, ablation, means=None: leave(layer, entered, 0, ablation)
    with pytest.raises(ModelError, match=r"is not the model: with mask L0H.* differ from stock open_clip by"):
        prove(view, probe_images(model, 3), tolerance=1e-5)


def test_a_view_of_swapped_heads_is_refused():
    model = tiny_clip()
    view = view_of(model)
    project = view.attentions[1].project
    view.attentions[1].project = lambda z: project(z.flip(1))
    with pytest.raises(ModelError, match=r"with mask \(empty\) its embeddings differ"):
        prove(view, probe_images(model, 3), tolerance=1e-5)


@pytest.mark.parametrize("name", ["multihead attention", "inner norm", "head scale", "EVA02", "timm inner norm"])
def test_the_stock_ablation_acts_and_is_undone(name):
    model = family(name)
    images = probe_images(model, 3)
    with torch.no_grad():
        before = model.encode_image(images)
        with stock_ablation(attentions(model), MASK):
            assert not torch.equal(model.encode_image(images), before)
        assert torch.equal(model.encode_image(images), before)


def test_the_stock_ablation_of_an_inner_norm_equals_open_clips_head_scale():
    """An independent oracle: `head_scale` multiplies z per head, before the inner norm."""
    model = tiny_clip(**OPEN_CLIP["inner norm"], scale_heads=True)
    images = probe_images(model, 3)
    with torch.no_grad():
        with stock_ablation(attentions(model), MASK):
            found = model.encode_image(images)
        for layer, head in MASK.heads:
            model.visual.transformer.resblocks[layer].attn.head_scale[head] = 0
        assert (found - model.encode_image(images)).abs().max() <= 1e-6


@pytest.mark.parametrize("name", REFUSED)
def test_towers_that_are_no_plain_transformers_are_refused_by_name(name):
    with pytest.raises(ModelError, match=rf"image tower is a TimmModel around timm's {name}; supported: .*SigLIP2"):
        view_of(timm_tower(*REFUSED[name]))


def test_scaled_cosine_attention_is_refused_by_name():
    model = tiny_clip(scaled_cosine_attn=True)
    with pytest.raises(ModelError, match=r"and scaled-cosine attention is not supported.*; supported:"):
        view_of(model)


def test_a_text_tower_of_another_library_is_refused_by_name():
    model = tiny_clip()
    model.text = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"the text tower is a Linear; supported: .*open_clip's text transformer"):
        view_of(model, "text")


def test_attention_of_another_kind_is_refused_by_name():
    with pytest.raises(ModelError, match="attention of type Linear is not supported"):
        open_attention(torch.nn.Linear(2, 2))


@pytest.mark.skipif(
    "gated" not in inspect.signature(TimmAttention).parameters, reason="this timm has no gated attention"
)
def test_gated_and_grouped_attention_is_refused_by_name():
    with pytest.raises(ModelError, match="gated attention is not supported"):
        TimmHeadAttention(TimmAttention(8, num_heads=2, gated=True))
    with pytest.raises(ModelError, match="fewer key and value heads"):
        TimmHeadAttention(AttentionRope(8, num_heads=2, num_kv_heads=1, qkv_fused=False))


def test_layers_that_differ_in_their_heads_are_refused():
    model = family("EVA01")
    model.visual.trunk.blocks[1] = EvaBlock(32, 2).eval()
    with pytest.raises(ModelError, match=r"must have the same number of heads; this one has \[4, 2, 4\]"):
        view_of(model)
