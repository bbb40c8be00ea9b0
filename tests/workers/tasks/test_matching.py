"""Text, image and group score agree with CLIP_benchmark's own evaluation of pairs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from clip_benchmark.metrics.image_caption_selection import evaluate

from workers.tasks.matching import MatchingTargets

# P pairs, E embedding


class Embedded:
    """Stands in for a model whose images and texts are embedded already."""

    def __init__(self, image_PE, text_PE):
        self.image_PE, self.text_PE = image_PE, text_PE

    def encode_image(self, pixels):
        return self.image_PE[pixels[:, 0, 0, 0].long()]

    def encode_text(self, rows):
        return self.text_PE[rows]


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_clip_benchmarks(seed):
    generator, num_pairs = torch.Generator().manual_seed(seed), 200
    image_PE = F.normalize(torch.randn(2 * num_pairs, 16, generator=generator), dim=-1)
    text_PE = F.normalize(image_PE + 0.9 * torch.randn(2 * num_pairs, 16, generator=generator), dim=-1)
    numbers = torch.arange(2 * num_pairs).float().reshape(num_pairs, 2, 1, 1, 1)
    texts = [[str(2 * pair), str(2 * pair + 1)] for pair in range(num_pairs)]
    theirs = evaluate(
        Embedded(image_PE, text_PE),
        [(numbers, texts)],
        lambda rows: torch.tensor([int(row) for row in rows]),
        "cpu",
        amp=False,
    )
    targets = MatchingTargets(num_pairs)
    ours = targets.values(targets.measure(image_PE, text_PE))
    assert 0.1 < ours["group_score"] < ours["text_score"] < 1
    assert np.float32(ours["text_score"]) == np.float32(theirs["text_acc"])
    assert np.float32(ours["image_score"]) == np.float32(theirs["image_acc"])
    assert np.float32(ours["group_score"]) == np.float32(theirs["acc"])


def test_a_collapsed_model_matches_nothing():
    same_PE = F.normalize(torch.ones(8, 4), dim=-1)
    targets = MatchingTargets(4)
    assert set(targets.values(targets.measure(same_PE, same_PE)).values()) == {0.0}


def test_colas_own_example():
    """Text-side winners and image-side winners are told apart: caption 0 beats caption 1 on both images."""
    image_PE = torch.tensor([[0.9, 0.8], [0.5, 0.6]])
    text_PE = torch.eye(2)
    values = MatchingTargets(1).values(MatchingTargets(1).measure(image_PE, text_PE))
    assert values == {"text_score": 1.0, "image_score": 0.0, "group_score": 0.0}
