"""A mask's score is a function of the mask alone, and it is the score of the stock model with edited weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from headmask.ablation.oracle import stock_ablation
from headmask.errors import GridError, ModelError
from headmask.mask import HeadMask, bools_of
from headmask.tower.towers import attentions
from tests.tiny import random_masks, tiny_clip
from workers.data.pixels import Pixels
from workers.scoring.embedding import embed_texts
from workers.scoring.inputs import Normalisation
from workers.scoring.packing import PackedTower
from workers.scoring.scorer import Scorer, ScorerSettings, SplitArrays, proven_view
from workers.tasks.retrieval import RetrievalTargets

NORMALISATION = Normalisation(np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))


def random_split(size, num_images=40, seed=0):
    rng = np.random.default_rng(seed)
    pixels_NCYX = rng.integers(256, size=(num_images, 3, size, size), dtype=np.uint8)
    text_QE = rng.normal(size=(2 * num_images, 24)).astype(np.float32)
    text_QE /= np.linalg.norm(text_QE, axis=1, keepdims=True)
    return SplitArrays(
        Pixels(pixels_NCYX, np.arange(num_images)), text_QE, RetrievalTargets(np.arange(num_images).repeat(2))
    )


def scorer_of(model, split, precision="float32", chunk=16, device="cpu", **settings):
    view = proven_view(model.visual, split, NORMALISATION, precision=precision, device=device)
    return Scorer(view, split, NORMALISATION, ScorerSettings(**settings), chunk=chunk)


def test_scores_are_those_of_stock_open_clip_with_edited_weights():
    model, split = tiny_clip(), random_split(28)
    scorer = scorer_of(model, split)
    images = NORMALISATION(split.inputs[:], torch.device("cpu"))
    masks = random_masks(scorer.grid, 6)
    for mask, score in zip(masks, scorer.score(bools_of(masks)), strict=True):
        with torch.no_grad(), stock_ablation(attentions(model.visual), mask):
            image_NE = F.normalize(model.encode_image(images), dim=-1)
        expected = split.targets.values(split.targets.measure(image_NE, torch.from_numpy(split.other_E)))
        assert score.metrics == pytest.approx(expected, abs=1e-6)
        assert score.failure is None


def test_scores_come_in_the_order_given():
    scorer = scorer_of(tiny_clip(), random_split(28))
    masks = random_masks(scorer.grid, 9)
    forward = [score.metrics for score in scorer.score(bools_of(masks))]
    backward = [score.metrics for score in scorer.score(bools_of(masks[::-1]))]
    assert forward == backward[::-1]
    assert len({tuple(metrics.items()) for metrics in forward}) > 1


def test_ranks_are_kept_when_asked_for():
    split = random_split(28)
    scorer = scorer_of(tiny_clip(), split)
    (score,) = scorer.score(bools_of([HeadMask.empty(scorer.grid)]), ranks=True)
    assert split.targets.values(score.ranks[0]) == score.metrics
    assert scorer.score(bools_of([HeadMask.empty(scorer.grid)]))[0].ranks is None


def test_no_masks_give_no_scores():
    assert scorer_of(tiny_clip(), random_split(28)).score(np.zeros((0, 3, 4), bool)) == []


def test_masks_of_another_grid_are_refused():
    scorer = scorer_of(tiny_clip(), random_split(28))
    with pytest.raises(GridError, match=r"must be \(masks, 3, 4\) for this tower; got \(1, 12, 12\)"):
        scorer.score(np.zeros((1, 12, 12), bool))


def test_non_finite_embeddings_fail_the_mask_and_no_other():
    """Weights that overflow only once the first head of layer 0 is gone."""
    model, split = tiny_clip(), random_split(28)
    scorer = scorer_of(model, split)
    bad = HeadMask.from_heads(scorer.grid, [(0, 0)])
    leave = scorer._engine.view.leave

    def overflowing(layer, entered, word, *rest):
        left = leave(layer, entered, word, *rest)
        return left * torch.inf if layer == 0 and word == 1 else left

    scorer._engine.view.leave = overflowing
    failed, good = scorer.score(bools_of([bad, HeadMask.empty(scorer.grid)]))
    assert failed.failure == "non-finite embeddings"
    assert failed.metrics == {}
    assert good.failure is None


def test_a_tower_whose_view_is_not_the_model_is_refused():
    model = tiny_clip()
    forward = model.visual.forward
    model.visual.forward = lambda images: forward(images) + 1
    with pytest.raises(ModelError, match="is not the model"):
        scorer_of(model, random_split(28))


def test_a_packed_tower_is_the_tower():
    visual = tiny_clip().visual
    unpacked = PackedTower.pack(visual).unpack()
    assert visual.state_dict().keys() == unpacked.state_dict().keys()
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(visual(images), unpacked(images))


def test_caption_embeddings_do_not_depend_on_how_many_there_are():
    model = tiny_clip()
    tokens_QT = torch.randint(1, 60, (300, 12), generator=torch.Generator().manual_seed(0))
    many, few = embed_texts(model, tokens_QT, threads=1), embed_texts(model, tokens_QT[:5], threads=1)
    assert (many[:5] == few).all()
    with torch.no_grad():
        stock = F.normalize(model.encode_text(tokens_QT[:5]), dim=-1).numpy()
    assert np.abs(few - stock).max() < 1e-6
