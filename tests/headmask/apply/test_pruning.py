"""Pruning: with the heads' rows and columns gone, every tower gives what it gives with the mask on it."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from headmask.ablation.oracle import stock_ablation
from headmask.apply.folding import probe_images
from headmask.apply.live import ablate
from headmask.apply.pruning import PrunedAttention, prune, take_out
from headmask.errors import AblationError, GridError
from headmask.mask import HeadGrid, HeadMask
from headmask.tower.towers import attentions
from tests.families import FAMILIES, TEXT_FAMILIES, family, text_family, tokens
from tests.headmask.apply.test_live import MASK
from tests.tiny import random_masks, tiny_clip

GRID, TEXT_GRID = HeadGrid(3, 4), HeadGrid(2, 2)
TOGETHER = {"inner norm", "timm inner norm", "EVA02", "text inner norm"}
"""Families that normalise the heads together."""
PRUNED, PRUNED_TEXT = ([name for name in names if name not in TOGETHER] for names in (FAMILIES, TEXT_FAMILIES))


EMPTIED = {
    "image": [HeadMask(GRID, words) for words in ((15, 0, 0), (1, 2, 15), (15, 15, 15))],
    "text": [HeadMask(TEXT_GRID, words) for words in ((3, 0), (1, 3))],
}
"""Masks that leave layers no head."""


def embeddings(model, tower):
    with torch.no_grad():
        found = model.encode_image(probe_images(model, 3)) if tower == "image" else model.encode_text(tokens(9))
    return F.normalize(found, dim=-1)


def masked(model, mask, tower, ablation="zero", means=None):
    with ablate(model, mask, ablation=ablation, tower=tower, means_LHd=means):
        return embeddings(model, tower)


def check(model, grid, tower):
    means = torch.randn(grid.layers, grid.heads, 8, generator=torch.Generator().manual_seed(0))
    for mask in [*random_masks(grid, 3), *EMPTIED[tower]]:
        pruned = prune(model, mask, tower=tower)
        with stock_ablation(attentions(model, tower), mask):
            assert (embeddings(pruned, tower) - embeddings(model, tower)).abs().max() <= 1e-6
        pruned = prune(model, mask, ablation="mean", tower=tower, means_LHd=means)
        assert (embeddings(pruned, tower) - masked(model, mask, tower, "mean", means)).abs().max() <= 1e-6


@pytest.mark.parametrize("name", PRUNED)
def test_every_image_tower_is_pruned_to_what_it_is_with_the_mask(name):
    check(family(name), GRID, "image")


@pytest.mark.parametrize("name", PRUNED_TEXT)
def test_every_text_tower_is_pruned_to_what_it_is_with_the_mask(name):
    check(text_family(name), TEXT_GRID, "text")


@pytest.mark.parametrize("name", PRUNED)
def test_rows_and_columns_of_the_heads_are_gone_and_nothing_else(name):
    model = family(name)
    pruned = prune(model, MASK)
    opened = attentions(model)
    for layer, count in enumerate(MASK.layer_counts):
        module = [each for each in pruned.visual.modules() if isinstance(each, PrunedAttention)][layer]
        kept, width = 4 - count, opened[layer].out_proj.out_features
        assert (module.num_heads, module.in_proj_weight.shape) == (kept, (3 * 8 * kept, width))
        assert module.out_proj.weight.shape == (width, 8 * kept)
    modules = {id(each) for attention in opened for each in attention.module.modules()}
    rest = {key: each for key, each in model.named_modules() if id(each) not in modules}
    assert {key: type(each) for key, each in pruned.named_modules() if key in rest} == {
        key: type(each) for key, each in rest.items()
    }


def test_layers_that_lose_no_head_keep_their_stock_module(clip):
    pruned = prune(clip, HeadMask.from_text(GRID, "L1H2"))
    kinds = [type(block.attn) for block in pruned.visual.transformer.resblocks]
    assert kinds == [torch.nn.MultiheadAttention, PrunedAttention, torch.nn.MultiheadAttention]


def test_pruning_leaves_the_model_as_it_is(clip):
    before = embeddings(clip, "image")
    prune(clip, MASK)
    assert torch.equal(embeddings(clip, "image"), before)


@pytest.mark.parametrize("name", PRUNED)
def test_weights_of_a_pruned_model_go_into_a_stock_model_with_the_heads_taken_out(name):
    """What a loader does."""
    pruned, other = prune(family(name), MASK), family(name, seed=1)
    take_out(other, MASK, "image")
    other.load_state_dict(pruned.state_dict())
    assert torch.equal(embeddings(other, "image"), embeddings(pruned, "image"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_pruned_model_runs_in_other_precisions(clip, dtype):
    pruned = deepcopy(prune(clip, MASK)).to(dtype)
    with torch.no_grad():
        found = F.normalize(pruned.encode_image(probe_images(clip, 3).to(dtype)).double(), dim=-1)
    assert (found - masked(clip, MASK, "image")).abs().max() < (1e-6 if dtype is torch.float64 else 0.05)


def test_a_pruned_model_can_be_trained(clip):
    model = deepcopy(clip).requires_grad_(True)
    pruned = prune(model, MASK)
    pruned.encode_image(probe_images(clip, 3)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in pruned.visual.transformer.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        *((name, {}, "normalises the heads' outputs before W_O") for name in sorted(TOGETHER - {"text inner norm"})),
        ("multihead attention", {"ablation": "uniform"}, "uniform cannot be pruned: it still needs .* or fold it"),
        ("multihead attention", {"ablation": "cls"}, "cls cannot be pruned: it still needs the head's values"),
        ("multihead attention", {"ablation": "mean"}, "ablation mean needs the heads' mean outputs"),
    ],
)
def test_what_cannot_be_pruned_is_refused_with_the_reason(name, arguments, message):
    with pytest.raises(AblationError, match=message):
        prune(family(name), MASK, **arguments)


def test_a_mask_of_another_grid_is_refused(clip):
    with pytest.raises(GridError, match="mask grid is 2x4 but this model's image tower has 3 layers x 4 heads"):
        prune(clip, HeadMask.empty(HeadGrid(2, 4)))


def test_pruned_attention_refuses_what_it_cannot_do():
    block = prune(tiny_clip(), MASK).visual.transformer.resblocks[0]
    x, other = torch.randn(2, 17, 32), torch.randn(2, 17, 32)
    with pytest.raises(AblationError, match="pruned attention is self-attention"):
        block.attn(x, other, other)
    timm_block = prune(family("SigLIP"), MASK).visual.trunk.blocks[0]
    with pytest.raises(AblationError, match="attention masks are not supported in timm's image towers"):
        timm_block.attn(x, attn_mask=torch.zeros(17, 17))
