"""Gates on heads: shut, they are the ablation; open, the model; in between, their gradient is that of the formula."""

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


def gated(tower, name):
    """Yield a frozen view of a family and inputs, with every ablation that it has and the heads' means where needed."""
    model = (family(name) if tower == "image" else text_family(name)).requires_grad_(False)
    view = view_of(model, tower)
    inputs = probe_images(model, 2) if tower == "image" else tokens(2)
    means_LHd = calibrate_means(model, lambda: view.stock(inputs), tower=tower)
    for ablation in ("zero", "uniform", "mean", *(["cls"] if view.has_class_token else [])):
        yield view, inputs, ABLATIONS[ablation], means_LHd if ablation == "mean" else None


@pytest.mark.parametrize(("tower", "name"), CASES)
def test_gates_of_0_and_1_are_a_mask(tower, name):
    for view, inputs, ablation, means_LHd in gated(tower, name):
        generator = torch.Generator().manual_seed(0)
        gates_LH = (torch.rand(view.grid.layers, view.grid.heads, generator=generator) < 0.5).float()
        mask = HeadMask.from_bools((gates_LH == 0).numpy())
        exact = view.encode(inputs, mask, ablation, means_LHd)
        found = view.encode_gated(inputs, gates_LH, ablation, means_LHd)
        torch.testing.assert_close(F.normalize(found, dim=-1), F.normalize(exact, dim=-1), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("tower", "name"), CASES)
def test_the_gradient_by_the_gates_is_that_of_finite_differences(tower, name):
    for view, inputs, ablation, means_LHd in gated(tower, name):
        view.module.double()
        taken = inputs.double() if inputs.is_floating_point() else inputs
        means = None if means_LHd is None else means_LHd.double()
        generator = torch.Generator().manual_seed(1)
        gates_LH = torch.rand(view.grid.layers, view.grid.heads, generator=generator, dtype=torch.float64)

        def encode(gates_LH, taken=taken, view=view, ablation=ablation, means=means):
            return view.encode_gated(taken, gates_LH, ablation, means)

        assert torch.autograd.gradcheck(encode, gates_LH.requires_grad_(True), fast_mode=True)
