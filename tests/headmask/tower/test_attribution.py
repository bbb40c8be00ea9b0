"""Direct contributions add up to the embedding, are each head's own, and attention maps are torch's."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from headmask.apply.folding import probe_images
from headmask.errors import ModelError
from headmask.mask import Head
from headmask.tower.attribution import attention_maps, direct_contributions, prove_contributions
from headmask.tower.readout import affine
from headmask.tower.towers import view_of
from tests.families import FAMILIES, family
from tests.tiny import tiny_clip

BY_ATTENTION = ["attentional pooling", "attentional average pooling", "CoCa", "SigLIP", "SigLIP2", "PE"]
INNER_NORM = ["inner norm", "timm inner norm", "EVA02"]
SUMS = [name for name in FAMILIES if name not in BY_ATTENTION]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def lively(name):
    """A model of a family whose norms, biases and layer scales are no identities."""
    model, generator = family(name), torch.Generator().manual_seed(5)
    for parameter_name, parameter in model.visual.named_parameters():
        if parameter.ndim == 1 and "scale" not in parameter_name:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        if parameter_name == "trunk.head.weight":
            parameter.mul_(10)
    return model


@pytest.mark.parametrize("name", SUMS)
def test_contributions_of_all_heads_and_the_rest_add_up_to_the_stock_embedding(name):
    model = lively(name)
    view, images = view_of(model), probe_images(model, 3)
    found = direct_contributions(view, images, list(view.grid))
    stock_BE = model.encode_image(images)
    assert (found.heads_BhE.sum(1) + found.rest_BE - stock_BE).abs().max() <= 1e-5 * stock_BE.abs().max()
    assert (found.embedding_BE - stock_BE).abs().max() <= 1e-5 * stock_BE.abs().max()
    assert found.heads_BhE.abs().amax((0, 2)).min() > 1e-4


@pytest.mark.parametrize("name", SUMS)
def test_a_contribution_is_the_same_whichever_heads_are_asked_for(name):
    model = lively(name)
    view, images = view_of(model), probe_images(model, 3)
    everything = direct_contributions(view, images, list(view.grid))
    some = direct_contributions(view, images, [Head(2, 1), Head(0, 3), Head(2, 0)])
    for place, head in enumerate([9, 3, 8]):
        assert torch.allclose(some.heads_BhE[:, place], everything.heads_BhE[:, head], atol=1e-6)
    assert torch.allclose(some.heads_BhE.sum(1) + some.rest_BE, some.embedding_BE, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in SUMS if name not in INNER_NORM])
def test_a_head_whose_columns_are_cleared_contributes_nothing(name):
    model = lively(name)
    view, images = view_of(model), probe_images(model, 3)
    attention = view.attentions[1]
    attention.out_proj.weight[:, attention.columns(2)] = 0
    assert direct_contributions(view, images, [Head(1, 2)]).heads_BhE.abs().max() == 0
    assert direct_contributions(view, images, [Head(1, 3)]).heads_BhE.abs().max() > 1e-4


@pytest.mark.parametrize("layer", range(3))
def test_a_contribution_is_what_one_computes_by_hand_from_torchs_own_attention(layer):
    model = tiny_clip()
    tower, images = model.visual, probe_images(model, 3)
    x = tower._embeds(images)
    for block in tower.transformer.resblocks[:layer]:
        x = block(x)
    block = tower.transformer.resblocks[layer]
    normed = block.ln_1(x)
    _, weights = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=False)
    columns = slice(2 * 8, 3 * 8)
    value = normed @ block.attn.in_proj_weight[2 * 32 :][columns].T + block.attn.in_proj_bias[2 * 32 :][columns]
    added = (weights[:, 2, :1] @ value)[:, 0] @ block.attn.out_proj.weight[:, columns].T
    for block in tower.transformer.resblocks[layer:]:
        x = block(x)
    deviation = (x[:, 0].var(-1, correction=0) + tower.ln_post.eps).sqrt()[:, None]
    by_hand = (added - added.mean(-1, keepdim=True)) / deviation * tower.ln_post.weight @ tower.proj
    found = direct_contributions(view_of(model), images, [Head(layer, 2)]).heads_BhE[:, 0]
    assert (found - by_hand).abs().max() <= 1e-6 * max(1, by_hand.abs().max())


@pytest.mark.parametrize("name", BY_ATTENTION)
def test_towers_that_pool_by_attention_are_refused(name):
    model = family(name)
    with pytest.raises(ModelError, match="it pools by attention: how much of a token it takes depends on"):
        direct_contributions(view_of(model), probe_images(model, 3), [Head(0, 0)])


def test_text_towers_and_unknown_norms_and_projections_are_refused():
    with pytest.raises(ModelError, match="only image towers have the steps of their pooling known"):
        view_of(tiny_clip(), "text").readout()
    with pytest.raises(ModelError, match="a RMSNorm is no norm of which headmask knows"):
        affine(nn.RMSNorm(4), torch.ones(1, 2, 4))
    model = family("timm CLIP")
    model.visual.head = nn.Sequential(nn.GELU())
    with pytest.raises(ModelError, match="its projection is a GELU, which is not a linear map"):
        view_of(model).readout()
    model = family("timm average pooling")
    model.visual.trunk.global_pool = "max"
    with pytest.raises(ModelError, match="its pooling is 'max', which is not a mean of tokens"):
        view_of(model).readout()


def test_a_view_whose_contributions_do_not_add_up_is_refused(monkeypatch):
    model = family("layer scale")
    view, images = view_of(model), probe_images(model, 3)
    prove_contributions(view, images, tolerance=1e-5)
    monkeypatch.setattr(type(view.blocks[0]), "scale", lambda self, y: y if y.ndim == 4 else self._block.ls_1(y))
    with pytest.raises(ModelError, match=r"does not add up to its embeddings: they differ by \d.* \(allowed 1e-05\)"):
        prove_contributions(view, images, tolerance=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_times_values_is_what_the_head_outputs(name):
    model = family(name)
    view, images = view_of(model), probe_images(model, 3)
    sequences = view.embed(images)
    for layer in (0, 2):
        attention, head = view.attentions[layer], 3
        read_BTD = view.blocks[layer].read(sequences.x_BTD)
        rope = sequences.rope_of(layer)
        _, _, v_BHTd = attention._queries_keys_values(read_BTD)
        z_BHTd = attention.attend(read_BTD, rope=rope).z_BHQd
        weights_BTT = attention.weights(read_BTD, head, None, rope=rope)
        assert torch.allclose(weights_BTT @ v_BHTd[:, head], z_BHTd[:, head], atol=1e-5)
        first = torch.zeros(3, dtype=torch.int64)
        assert torch.allclose(attention.weights(read_BTD, head, first, rope=rope), weights_BTT[:, :1], atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_have_the_patches_of_every_family_and_no_more_than_all_attention(name):
    model = family(name)
    view, images = view_of(model), probe_images(model, 3)
    for head in (Head(0, 0), Head(2, 3)):
        map_BYX = attention_maps(view, images, head)
        assert map_BYX.shape == (3, 4, 4)
        assert map_BYX.min() >= 0
        total_B = map_BYX.sum((1, 2))
        assert total_B.max() <= 1 + 1e-5
        if not view.has_class_token and not getattr(model.visual.trunk, "num_prefix_tokens", 0):
            assert torch.allclose(total_B, torch.ones(3))


def test_maps_are_torchs_own_attention_weights():
    model = tiny_clip()
    tower, images = model.visual, probe_images(model, 3)
    x = tower._embeds(images)
    for block in tower.transformer.resblocks[:2]:
        x = block(x)
    block = tower.transformer.resblocks[2]
    normed = block.ln_1(x)
    _, weights = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=False)
    found = attention_maps(view_of(deepcopy(model)), images, Head(2, 1))
    assert torch.allclose(found, weights[:, 1, 0, 1:].unflatten(1, (4, 4)), atol=1e-6)
