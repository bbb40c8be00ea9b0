"""Predicted costs: counted multiply-adds of the tower's pieces, summed over the trie."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headmask.folding import probe_images
from headmask.mask import HeadGrid, HeadMask
from headmask.towers import view_of
from tests.families import FAMILIES, family, text_family, tokens
from tests.headmask.test_mask import masks
from tests.tiny import tiny_clip
from workers.trie import TowerCost, shared_layers

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
