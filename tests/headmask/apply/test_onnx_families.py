"""Every kind of tower that folds goes to ONNX, and ONNX Runtime computes the masked model's embeddings."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from headmask.apply.folding import probe_images
from headmask.apply.live import ablate
from headmask.apply.onnx import TOLERANCE, OnnxModel, write
from headmask.apply.pruning import prune
from headmask.mask import HeadMask
from headmask.tower.towers import grid_of
from tests.families import family, text_family, tokens
from tests.headmask.apply.test_pruning import PRUNED, PRUNED_TEXT

QUICK = {"custom attention", "SigLIP", "CoCa"}
"""Those of `make test`: torch translates one in two to three seconds."""


def cases(names):
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


def largest_difference(clip, changed, mask, tower, inputs, folder):
    """Return the largest difference of normalised embeddings, as ONNX and with the mask on the live model."""
    write(changed, folder, {f"{tower}.onnx": inputs})
    found = getattr(OnnxModel(folder), f"encode_{tower}")(inputs)
    with torch.no_grad(), ablate(clip, mask, tower=tower):
        expected = getattr(clip, f"encode_{tower}")(inputs)
    assert found.shape == expected.shape
    return (F.normalize(found, dim=-1) - F.normalize(expected, dim=-1)).abs().max()


@pytest.mark.parametrize("name", cases(PRUNED))
def test_pruned_image_towers_are_the_masked_ones_in_onnx(name, tmp_path):
    clip = family(name)
    mask = HeadMask.from_text(grid_of(clip), "L0H0,L0H1,L1H1")
    changed, images = prune(clip, mask), probe_images(clip, 4)
    assert largest_difference(clip, changed, mask, "image", images, tmp_path) <= TOLERANCE


@pytest.mark.parametrize("name", PRUNED_TEXT)
@pytest.mark.slow
def test_pruned_text_towers_are_the_masked_ones_in_onnx(name, tmp_path):
    clip = text_family(name)
    mask = HeadMask.from_text(grid_of(clip, "text"), "L0H0,L1H1")
    changed = prune(clip, mask, tower="text")
    assert largest_difference(clip, changed, mask, "text", tokens(9), tmp_path) <= TOLERANCE


@pytest.mark.slow
def test_the_text_tower_of_a_coca_is_the_same_in_onnx(tmp_path):
    clip, texts = family("CoCa"), tokens(9)[:, :11]  # The class token is the twelfth.
    write(clip, tmp_path, {"text.onnx": texts})
    with torch.no_grad():
        expected = F.normalize(clip.encode_text(texts), dim=-1)
    assert (F.normalize(OnnxModel(tmp_path).encode_text(texts), dim=-1) - expected).abs().max() <= TOLERANCE
