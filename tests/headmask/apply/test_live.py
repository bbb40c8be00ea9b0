"""Ablation on a live model, against independent oracles, and always undone."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from headmask.apply.folding import probe_images
from headmask.apply.live import ablate, calibrate_means
from headmask.errors import AblationError, GridError, ModelError
from headmask.mask import HeadGrid, HeadMask
from headmask.tower.towers import grid_of
from tests.families import OPEN_CLIP
from tests.headmask.test_mask import masks
from tests.tiny import tiny_clip

GRID = HeadGrid(3, 4)
MASK = HeadMask.from_text(GRID, "L0H1,L1H0,L1H3,L2H2")
VARIANTS = {
    name: OPEN_CLIP[name]
    for name in (
        "multihead attention",
        "custom attention",
        "layer scale",
        "query and key norms",
        "head scale",
        "inner norm",
        "average pooling",
        "attentional pooling",
    )
}
"""Blocks that differ in what an ablation has to do."""


def encode(model, images=None):
    with torch.no_grad():
        return F.normalize(model.encode_image(probe_images(model, 4) if images is None else images), dim=-1)


def reference_attention(module, x, word, ablation, means=None):
    """Return one block's attention output by an explicit sum over heads, in float64."""
    width = x.shape[-1] // module.num_heads
    weight, bias = module.in_proj_weight, module.in_proj_bias
    total = module.out_proj.bias.expand(*x.shape[:2], -1).clone()
    for head in range(module.num_heads):
        rows = slice(head * width, (head + 1) * width)
        q, k, v = (x @ part[rows].T + offset[rows] for part, offset in zip(weight.chunk(3), bias.chunk(3), strict=True))
        a = torch.softmax(q @ k.transpose(1, 2) / width**0.5, dim=-1)
        if word >> head & 1:
            a = {"zero": torch.zeros_like(a), "uniform": torch.full_like(a, 1 / a.shape[-1])}.get(ablation, a)
            if ablation == "cls":
                a = torch.zeros_like(a)
                a[..., 0] = 1
        z = a @ v
        if word >> head & 1 and ablation == "mean":
            z = means[head].double().expand_as(z)
        total += z @ module.out_proj.weight[:, rows].T
    return total


@pytest.mark.parametrize("ablation", ["zero", "uniform", "cls", "mean"])
def test_ablation_equals_an_explicit_sum_over_heads_in_float64(clip, ablation):
    model = deepcopy(clip).double()
    module = model.visual.transformer.resblocks[1].attn
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 17, 32, generator=generator, dtype=torch.float64)
    means = torch.randn(3, 4, 8, generator=generator)
    with ablate(model, MASK, ablation=ablation, means_LHd=means), torch.no_grad():
        found = module(x, x, x, need_weights=False)[0]
    assert (found - reference_attention(module, x, MASK.words[1], ablation, means[1])).abs().max() < 1e-12


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "inner norm"])
def test_zero_equals_stock_weights_with_zeroed_output_columns(variant):
    model = tiny_clip(**VARIANTS[variant])
    with ablate(model, MASK):
        found = encode(model)
    for layer, head in MASK.heads:
        model.visual.transformer.resblocks[layer].attn.out_proj.weight[:, 8 * head : 8 * head + 8] = 0
    assert (found - encode(model)).abs().max() <= 1e-6


@pytest.mark.parametrize("variant", ["head scale", "inner norm"])
def test_zero_equals_open_clips_own_head_scale(variant):
    model = tiny_clip(**{**VARIANTS[variant], "scale_heads": True})
    with ablate(model, MASK):
        found = encode(model)
    for layer, head in MASK.heads:
        model.visual.transformer.resblocks[layer].attn.head_scale[head] = 0
    assert (found - encode(model)).abs().max() <= 1e-6


def test_ablating_all_heads_of_a_layer_leaves_only_the_output_bias(clip):
    module = clip.visual.transformer.resblocks[0].attn
    x = torch.randn(2, 17, 32)
    with ablate(clip, HeadMask(GRID, (15, 0, 0))), torch.no_grad():
        found = module(x, x, x, need_weights=False)[0]
    assert torch.equal(found, module.out_proj.bias.expand_as(found))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_empty_mask_is_bit_equal(variant):
    model = tiny_clip(**VARIANTS[variant])
    before = encode(model)
    with ablate(model, HeadMask.empty(GRID)):
        assert torch.equal(encode(model), before)


@given(mask=masks(GRID), ablation=st.sampled_from(["zero", "uniform", "cls"]))
@settings(max_examples=20, deadline=None)
def test_leaving_the_context_gives_the_very_model_back(clip, mask, ablation):
    before = encode(clip)
    with ablate(clip, mask, ablation=ablation):
        changed = encode(clip)
    assert torch.equal(encode(clip), before)
    assert mask.is_empty or not torch.equal(changed, before)


def test_an_exception_undoes_the_mask_too(clip):
    before = encode(clip)
    with pytest.raises(RuntimeError, match="on purpose"), ablate(clip, MASK):
        raise RuntimeError("on purpose")
    assert torch.equal(encode(clip), before)


def test_masks_can_be_nested(clip):
    inner, outer = HeadMask.from_text(GRID, "L2H2"), HeadMask.from_text(GRID, "L0H1,L1H0,L1H3")
    with ablate(clip, MASK):
        both = encode(clip)
    with ablate(clip, outer), ablate(clip, inner):
        assert torch.equal(encode(clip), both)


def test_text_heads_are_ablated_under_the_causal_mask():
    model = tiny_clip()
    tokens = torch.arange(1, 13)[None]
    mask = HeadMask.from_text(grid_of(model, "text"), "L0H0")
    with ablate(model, mask, tower="text"), torch.no_grad():
        found = model.encode_text(tokens)
    model.transformer.resblocks[0].attn.out_proj.weight[:, :8] = 0
    assert (found - model.encode_text(tokens)).abs().max() < 1e-6


def test_uniform_under_the_causal_mask_averages_what_a_query_may_see():
    model = tiny_clip()
    module = model.transformer.resblocks[0].attn
    x = torch.randn(1, 12, 16)
    with ablate(model, HeadMask.from_text(grid_of(model, "text"), "L0H0,L0H1"), tower="text", ablation="uniform"):
        found = module(x, x, x, need_weights=False, attn_mask=model.attn_mask)[0]
    value = x @ module.in_proj_weight[32:].T + module.in_proj_bias[32:]
    seen = value.cumsum(1) / torch.arange(1, 13)[None, :, None]
    assert (found - module.out_proj(seen)).abs().max() < 1e-6


def test_means_are_the_average_over_images_and_tokens(clip):
    images = probe_images(clip, 6)
    means = calibrate_means(clip, lambda: [clip.encode_image(part) for part in images.split(2)])
    module = clip.visual.transformer.resblocks[0].attn
    x = clip.visual.transformer.resblocks[0].ln_1(clip.visual._embeds(images))
    identity = torch.eye(32)
    weight, bias = module.out_proj.weight.clone(), module.out_proj.bias.clone()
    try:
        module.out_proj.weight.copy_(identity)
        module.out_proj.bias.zero_()
        z = module(x, x, x, need_weights=False)[0]
    finally:
        module.out_proj.weight.copy_(weight)
        module.out_proj.bias.copy_(bias)
    assert (means[0].flatten() - z.mean(dim=(0, 1))).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"mask": HeadMask.empty(HeadGrid(12, 12))},
            GridError,
            "mask grid is 12x12 but this model's image tower has 3 layers",
        ),
        ({"mask": MASK, "ablation": "half"}, AblationError, "must be one of zero, mean, uniform, cls; got 'half'"),
        ({"mask": MASK, "ablation": "mean"}, AblationError, "make them with headmask.calibrate_means"),
        ({"mask": HeadMask(HeadGrid(2, 2), (1, 0)), "tower": "text", "ablation": "cls"}, AblationError, "class token"),
    ],
)
def test_what_cannot_be_ablated_is_refused(clip, arguments, error, message):
    mask = arguments.pop("mask")
    with pytest.raises(error, match=message), ablate(clip, mask, **arguments):
        pass


def test_a_tower_without_known_heads_is_refused_by_name():
    with pytest.raises(ModelError, match="the image tower is a Linear; supported: open_clip's VisionTransformer"):
        grid_of(torch.nn.Linear(2, 2))
