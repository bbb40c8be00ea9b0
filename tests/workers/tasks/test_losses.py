"""What scales are trained by, against open_clip's loss, torch's cross-entropy and sums written out."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from open_clip.loss import ClipLoss

from workers.tasks.classification import ClassificationTargets
from workers.tasks.losses import INPUTS, micro_batches
from workers.tasks.matching import MatchingTargets
from workers.tasks.retrieval import RetrievalTargets

SCALE = 12.0


def unit(rows, seed=0, width=6):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


def surprise(scores, right):
    """Return -log of the softmax on the right places together, written out."""
    odds = [math.exp(score) for score in scores]
    return -math.log(sum(odds[place] for place in right) / sum(odds))


@pytest.mark.parametrize("tower", ["image", "text"])
def test_with_one_caption_each_a_whole_split_has_the_loss_of_open_clip(tower):
    targets = RetrievalTargets(np.arange(9), SCALE)
    image_NE, text_NE = unit(9), unit(9, seed=1)
    batch = targets.micro_batch(np.arange(9), tower, 9)
    own, other = (image_NE, text_NE) if tower == "image" else (text_NE, image_NE)
    expected = ClipLoss()(image_NE, text_NE, torch.tensor(SCALE, dtype=torch.float64))
    torch.testing.assert_close(batch.loss(own, other), expected)


def test_images_are_contrasted_with_all_captions_and_captions_with_the_images_of_the_micro_batch():
    image_of_caption = np.array([0, 0, 1, 2, 2, 2, 3])
    targets, units = RetrievalTargets(image_of_caption, SCALE), np.array([2, 0])
    image_uE, text_QE = unit(2), unit(7, seed=1)
    batch = targets.micro_batch(units, "image", 4)
    scores_uQ = (SCALE * image_uE @ text_QE.T).tolist()
    to_text = [surprise(scores_uQ[0], [3, 4, 5]), surprise(scores_uQ[1], [0, 1])]
    own = {0: 1, 1: 1, 3: 0, 4: 0, 5: 0}
    to_image = [surprise([row[caption] for row in scores_uQ], [place]) for caption, place in own.items()]
    assert batch.inputs_n.tolist() == [2, 0]
    assert float(batch.loss(image_uE, text_QE)) == pytest.approx((np.mean(to_text) + np.mean(to_image)) / 2)


def test_captions_are_contrasted_with_all_images_and_images_with_the_captions_of_the_micro_batch():
    image_of_caption = np.array([0, 0, 1, 2, 2, 2, 3])
    targets, units = RetrievalTargets(image_of_caption, SCALE), np.array([2, 0])
    batch = targets.micro_batch(units, "text", 7)
    text_qE, image_NE = unit(5), unit(4, seed=1)
    scores_qN = (SCALE * text_qE @ image_NE.T).tolist()
    to_image = [surprise(row, [image]) for row, image in zip(scores_qN, [0, 0, 2, 2, 2], strict=True)]
    to_text = [surprise([row[image] for row in scores_qN], own) for image, own in ((2, [2, 3, 4]), (0, [0, 1]))]
    assert batch.inputs_n.tolist() == [0, 1, 3, 4, 5]
    assert float(batch.loss(text_qE, image_NE)) == pytest.approx((np.mean(to_text) + np.mean(to_image)) / 2)


def test_images_of_classes_have_the_cross_entropy_over_all_classes():
    targets, units = ClassificationTargets(np.array([2, 0, 1, 2]), 3, scale=SCALE), np.array([3, 1])
    image_uE, class_CE = unit(2), unit(3, seed=1)
    batch = targets.micro_batch(units, "image", 4)
    expected = F.cross_entropy(SCALE * image_uE @ class_CE.T, torch.tensor([2, 0]))
    assert batch.inputs_n.tolist() == [3, 1]
    torch.testing.assert_close(batch.loss(image_uE, class_CE), expected)


def test_prompts_have_the_cross_entropy_over_the_classes_of_the_micro_batch():
    targets, units = ClassificationTargets(np.array([2, 0, 1, 2]), 3, scale=SCALE), np.array([3, 1])
    batch = targets.micro_batch(units, "text", 3 * 4)
    assert batch.inputs_n.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    text_nE, image_NE = unit(8), unit(4, seed=1)
    class_2E = F.normalize(torch.stack([text_nE[:4].mean(0), text_nE[4:].mean(0)]), dim=-1)
    expected = F.cross_entropy(SCALE * image_NE[[3, 1]] @ class_2E.T, torch.tensor([1, 0]))
    torch.testing.assert_close(batch.loss(text_nE, image_NE), expected)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_pairs_are_contrasted_within_themselves(tower):
    targets, units = MatchingTargets(5, SCALE), np.array([4, 1])
    batch = targets.micro_batch(units, tower, 10)
    assert batch.inputs_n.tolist() == [8, 9, 2, 3]
    own_nE, other_E = unit(4), unit(10, seed=1)
    losses = []
    for first, rows in ((0, [8, 9]), (2, [2, 3])):
        scores = (SCALE * own_nE[first : first + 2] @ other_E[rows].T).tolist()
        losses += [surprise(scores[i], [i]) for i in (0, 1)]
        losses += [surprise([scores[0][i], scores[1][i]], [i]) for i in (0, 1)]
    assert float(batch.loss(own_nE, other_E)) == pytest.approx(np.mean(losses))


@pytest.mark.parametrize(
    ("targets", "num_inputs", "most"),
    [
        (RetrievalTargets(np.arange(150).repeat(2)), 150, INPUTS),
        (RetrievalTargets(np.arange(150).repeat(2)), 300, INPUTS // 2),
        (ClassificationTargets(np.arange(90) % 9, 9), 90, INPUTS),
        (ClassificationTargets(np.arange(90) % 9, 9), 9 * 80, 8),
        (MatchingTargets(70), 140, INPUTS // 2),
    ],
)
def test_micro_batches_are_all_of_a_split_in_equal_parts(targets, num_inputs, most):
    parts = micro_batches(targets, num_inputs, seed=3)
    assert sorted(np.concatenate(parts)) == list(range(targets.num_units))
    sizes = [len(part) for part in parts]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert [part.tolist() for part in parts] == [part.tolist() for part in micro_batches(targets, num_inputs, seed=3)]
    assert parts[0].tolist() != micro_batches(targets, num_inputs, seed=4)[0].tolist()
