"""Scales on heads: 0 is the ablation, 1 the model; in between and beyond, their gradient is that of the formula."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from headmask.ablation.rules import ABLATIONS
from headmask.apply.folding import probe_images
from headmask.apply.live import calibrate_means
from headmask.mask import HeadMask
from headmask.tower.towers import view_of
from tests.families import FAMILIES, TEXT_FAMILIES, family, text_family, tokens

CASES = [("image", name) for name in FAMILIES] + [("text", name) for name in TEXT_FAMILIES]


def scaled(tower, name):
    """Yield a frozen view of a family and inputs, with every ablation that it has and the heads' means where needed."""
    model = (family(name) if tower == "image" else text_family(name)).requires_grad_(False)
    view = view_of(model, tower)
    inputs = probe_images(model, 2) if tower == "image" else tokens(2)
    means_LHd = calibrate_means(model, lambda: view.stock(inputs), tower=tower)
    for ablation in ("zero", "uniform", "mean", *(["cls"] if view.has_class_token else [])):
        yield view, inputs, ABLATIONS[ablation], means_LHd if ablation == "mean" else None


@pytest.mark.parametrize(("tower", "name"), CASES)
def test_scales_of_0_and_1_are_a_mask(tower, name):
    for view, inputs, ablation, means_LHd in scaled(tower, name):
        generator = torch.Generator().manual_seed(0)
        scales_LH = (torch.rand(view.grid.layers, view.grid.heads, generator=generator) < 0.5).float()
        mask = HeadMask.from_bools((scales_LH == 0).numpy())
        exact = view.encode(inputs, mask, ablation, means_LHd)
        found = view.encode_scaled(inputs, scales_LH, ablation, means_LHd)
        torch.testing.assert_close(F.normalize(found, dim=-1), F.normalize(exact, dim=-1), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("tower", "name"), CASES)
def test_the_gradient_by_the_scales_is_that_of_finite_differences(tower, name):
    for view, inputs, ablation, means_LHd in scaled(tower, name):
        view.module.double()
        taken = inputs.double() if inputs.is_floating_point() else inputs
        means = None if means_LHd is None else means_LHd.double()
        generator = torch.Generator().manual_seed(1)
        scales_LH = 1.5 * torch.rand(view.grid.layers, view.grid.heads, generator=generator, dtype=torch.float64)

        def encode(scales_LH, taken=taken, view=view, ablation=ablation, means=means):
            return view.encode_scaled(taken, scales_LH, ablation, means)

        assert torch.autograd.gradcheck(encode, scales_LH.requires_grad_(True), fast_mode=True)
