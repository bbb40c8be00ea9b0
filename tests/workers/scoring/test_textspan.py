"""TextSpan against the published loop on all contributions, and on contributions of known directions."""

import numpy as np
import pytest
import torch

from headmask.apply.folding import probe_images
from headmask.mask import Head
from headmask.tower.attribution import direct_contributions
from headmask.tower.towers import view_of
from tests.families import family
from workers.scoring.textspan import contribution_spread, text_span


class Images:
    """Inputs over images that are in memory."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def stream(self, parts):
        return (self.images[part] for part in parts)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def algorithm_1(contribution_NE, text_QE, count):
    """Directly on the contributions: project texts on their span, take the most varying, remove it from both."""
    centred = contribution_NE - contribution_NE.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[sizes > 1e-5 * sizes[0]]
    texts = text_QE @ axes.T @ axes
    total, found = centred.var(0).sum(), []
    for _ in range(count):
        best = int((centred @ texts.T).var(0).argmax())
        direction = texts[best] / np.linalg.norm(texts[best])
        found.append((best, (centred @ direction).var() / total))
        centred = centred - np.outer(centred @ direction, direction)
        texts = texts - np.outer(texts @ direction, direction)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_published_algorithm(seed):
    rng = np.random.default_rng(seed)
    contribution_NE = rng.normal(size=(60, 6)) @ rng.normal(size=(6, 16)) + 3 * rng.normal(size=16)
    text_QE = unit(rng.normal(size=(40, 16)))
    found = text_span(np.cov(contribution_NE.T, bias=True), text_QE, 5)
    expected = algorithm_1(contribution_NE, text_QE.astype(np.float64), 5)
    assert [each.text for each in found] == [text for text, _ in expected]
    assert np.allclose([each.share for each in found], [share for _, share in expected])


def test_it_finds_the_directions_that_a_head_writes_and_their_shares():
    text_QE = unit(np.eye(8))
    amount_N2 = np.random.default_rng(0).normal(size=(500, 2)) * (3.0, 1.0)
    covariance_EE = np.cov((amount_N2 @ text_QE[[5, 2]]).T, bias=True)
    first, second = text_span(covariance_EE, text_QE, 8)
    assert (first.text, second.text) == (5, 2)
    assert first.share == pytest.approx(0.9, abs=0.02)
    assert first.share + second.share == pytest.approx(1.0, abs=1e-3)


def test_a_contribution_that_never_varies_has_no_texts():
    assert text_span(np.zeros((4, 4)), unit(np.eye(4)), 3) == []


def test_texts_that_are_no_part_of_what_varies_are_not_named():
    assert [each.text for each in text_span(np.diag([1.0, 0, 0, 0]), unit(np.eye(4)), 3)] == [0]


def test_the_spread_of_streamed_images_is_that_of_all_at_once():
    view, images = view_of(family("multihead attention")), probe_images(family("multihead attention"), 10)
    heads = [Head(2, 1), Head(0, 0)]
    found = contribution_spread(view, Images(images), heads, chunk=4)
    with torch.no_grad():
        whole = direct_contributions(view, images, heads)
    for place in range(2):
        expected = np.cov(whole.heads_BhE[:, place].double().T.numpy(), bias=True)
        assert np.allclose(found.covariance_hEE[place], expected, atol=1e-6 * np.trace(expected))
    variance = whole.embedding_BE.double().var(0, correction=0).sum().item()
    assert found.embedding_variance == pytest.approx(variance, rel=1e-6)
    assert found.size(1) == pytest.approx((np.trace(found.covariance_hEE[1]) / variance) ** 0.5)
