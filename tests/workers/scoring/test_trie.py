"""Predicted costs: counted multiply-adds of the tower's pieces, summed over the trie."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from headmask.apply.folding import probe_images
from headmask.mask import HeadGrid, HeadMask
from headmask.tower.towers import view_of
from tests.families import FAMILIES, family, text_family, tokens
from tests.headmask.test_mask import masks
from tests.tiny import tiny_clip
from workers.scoring.trie import TowerCost, shared_layers

GRID = HeadGrid(3, 4)
T, D = 17, 32


@pytest.fixture(scope="module")
def cost():
    model = tiny_clip()
    return TowerCost.of(view_of(model), probe_images(model, 2))


def test_counts_are_those_of_the_textbook(cost):
    """12 T D^2 + 2 T^2 D for a block, by hand; patches of 7 x 7, embedding of 24."""
    embed, block = 16 * 3 * 49 * D, 12 * T * D**2 + 2 * T**2 * D
    assert cost.plain_macs == embed + 3 * block + D * 24
    per_plain = pytest.approx
    assert cost.embed * cost.plain_macs == per_plain(embed)
    assert cost.enter_L[0] * cost.plain_macs == per_plain(4 * T * D**2 + 2 * T**2 * D)
    assert cost.leave_L[0] * cost.plain_macs == per_plain(8 * T * D**2)
    assert cost.head_L[0] * cost.plain_macs == per_plain(T * D * 8)
    assert cost.numbers_per_node == 3 * T * D
    # The last layer: q, W_K absorbed, W_V of a mixture per head, W_O; scores and mixtures of D per head and token.
    assert cost.enter_L[-1] * cost.plain_macs == per_plain(4 * D**2 + 2 * 4 * T * D)
    assert cost.leave_L[-1] * cost.plain_macs == per_plain(8 * D**2)


def test_a_pruned_head_saves_what_the_textbook_says(cost):
    """Rows of q, k and v, columns of W_O, two products: 4 T D d + 2 T^2 d, in every layer alike."""
    head = 4 * T * D * 8 + 2 * T**2 * 8
    assert cost.saved(HeadMask.from_heads(GRID, [(2, 1)])) * cost.plain_macs == pytest.approx(head)
    assert cost.saved(HeadMask(GRID, (1, 6, 15))) * cost.plain_macs == pytest.approx(7 * head)
    assert cost.saved(HeadMask.empty(GRID)) == 0


class Pruned(nn.Module):
    """`nn.MultiheadAttention` without some of its heads."""

    def __init__(self, attention, kept):
        super().__init__()
        width, self.num_kept = attention.head_dim, len(kept)
        rows = torch.cat([torch.arange(head * width, (head + 1) * width) for head in kept])
        self.qkv = torch.cat([part[rows] for part in attention.in_proj_weight.chunk(3)])
        self.qkv_bias = torch.cat([part[rows] for part in attention.in_proj_bias.chunk(3)])
        self.out, self.out_bias = attention.out_proj.weight[:, rows], attention.out_proj.bias

    def forward(self, x_BTD, *_, **__):
        parts = F.linear(x_BTD, self.qkv, self.qkv_bias).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_kept, -1)).transpose(1, 2) for part in parts)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return F.linear((weights @ v).transpose(1, 2).flatten(2), self.out, self.out_bias), None


def test_a_model_with_smaller_attention_takes_what_is_left(cost):
    """Counted by torch while the pruned tower runs; its embeddings are the masked model's, so it is that model."""
    model = tiny_clip()
    inputs, mask = probe_images(model, 2), HeadMask(GRID, (1, 0, 10))
    masked = view_of(model).encode(inputs, mask)
    for block, heads in zip(model.visual.transformer.resblocks, mask.to_bools(), strict=True):
        block.attn = Pruned(block.attn, [head for head, is_ablated in enumerate(heads) if not is_ablated])
    with FlopCounterMode(display=False) as counter:
        pruned = model.encode_image(inputs)
    torch.testing.assert_close(F.normalize(pruned, dim=-1), F.normalize(masked, dim=-1), atol=1e-5, rtol=0)
    assert counter.get_total_flops() / 2 / 2 == pytest.approx((1 - cost.saved(mask)) * cost.plain_macs)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_heads_of_every_family_save_what_its_attention_takes(name):
    model = family(name)
    view = view_of(model)
    cost, tokens_T = TowerCost.of(view, probe_images(model, 2)), view.embed(probe_images(model, 2)).x_BTD.shape[1]
    out = view.attentions[0].out_proj
    head = (3 * out.out_features + out.out_features + 2 * tokens_T) * tokens_T * out.in_features // view.grid.heads
    assert cost.saved(HeadMask.from_heads(view.grid, [(0, 0)])) * cost.plain_macs == pytest.approx(head)


def test_texts_save_over_their_whole_length():
    """The tower's own forward pass goes over padding, too."""
    view = view_of(text_family("causal, end of text"), "text")
    cost = TowerCost.of(view, tokens(2))
    head = 4 * 12 * 16 * 8 + 2 * 12**2 * 8
    assert cost.saved(HeadMask.from_heads(view.grid, [(0, 0)])) * cost.plain_macs == pytest.approx(head)


def test_a_scan_costs_what_its_nodes_cost(cost):
    scan = HeadMask.singles(GRID)
    path = sum(cost.enter_L) + sum(cost.leave_L)
    nodes = 4 * sum(
        cost.leave_L[layer] + cost.head_L[layer] + sum(cost.enter_L[layer + 1 :]) + sum(cost.leave_L[layer + 1 :])
        for layer in range(3)
    )
    assert cost(scan) == pytest.approx(cost.embed + path + nodes + 13 * cost.pool)


@given(st.lists(masks(GRID), min_size=1, max_size=20), st.lists(masks(GRID), min_size=1, max_size=20))
def test_scoring_together_never_costs_more_than_apart(cost, first, second):
    assert cost(first + second) <= cost(first) + cost(second) + 1e-9
    assert cost(first + first) == pytest.approx(cost(first))
    assert sum(cost.steps(sorted(first))) == pytest.approx(cost(first) - cost.embed)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_single_mask_never_costs_much_more_than_the_plain_forward_pass(name):
    model = family(name)
    cost = TowerCost.of(view_of(model), probe_images(model, 2))
    assert cost([HeadMask.empty(GRID)]) <= 1.0 + 1e-9
    assert cost([HeadMask(GRID, (1, 1, 1))]) <= 1.03


def test_texts_cost_less_for_what_is_left_out():
    cost = TowerCost.of(view_of(text_family("causal, end of text"), "text"), tokens(2))
    assert cost([HeadMask.empty(HeadGrid(2, 2))]) < 0.5


@given(masks(GRID), masks(GRID))
def test_shared_layers_are_the_common_prefix(first, second):
    layers = shared_layers(first, second)
    assert first.words[:layers] == second.words[:layers]
    assert layers == 3 or first.words[layers] != second.words[layers]


def test_counting_leaves_torchs_settings_alone(cost):
    assert torch.backends.mha.get_fastpath_enabled()
