"""Every ablation means the same in all that applies one; a new one is a class and nothing else.

Two are registered here alone. `half` folds: z becomes z / 2, which scaling columns of W_O by a power of two gives
exactly. `second` does not: z becomes the head's value at the second token.
"""

import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from headmask.ablation.rules import ABLATIONS, Ablation, find_ablation
from headmask.apply.exporting import export
from headmask.apply.folding import fold, probe_images, why_not_folded
from headmask.apply.live import ablate, calibrate_means
from headmask.apply.pruning import prune, why_not_pruned
from headmask.errors import AblationError, ConfigError
from headmask.mask import HeadGrid, HeadMask
from headmask.maskfile import MaskFile
from headmask.models.loading import load_model
from headmask.tower.towers import attentions, view_of
from tests.families import family, text_family, tokens
from tests.orchestrator.studies import recall_of, start, undrawn
from tests.tiny import make_tiny_config
from workers.scoring.engine import Engine

GRID = HeadGrid(3, 4)
MASK = HeadMask.from_text(GRID, "L0H1,L1H0,L1H3,L2H2")
TEXT_MASK = HeadMask.from_text(HeadGrid(2, 2), "L0H1,L1H0")
IMAGE_TOWERS = ("multihead attention", "head scale", "query and key norms", "inner norm", "EVA02", "SigLIP", "PE")


class Half(Ablation):
    """Half of what the head puts out."""

    name = "half"

    def replacement(self, attended, heads, means_Hd):
        return attended.z_of(heads) / 2

    def why_not_folded(self, attention, tower, scale=0.0):
        return None

    def fold(self, attention, head, mean_d, scale=0.0):
        attention.out_proj.weight[:, attention.columns(head)] *= (1 + scale) / 2


class Second(Ablation):
    """The head's value at the second token, at every query."""

    name = "second"

    def of_values(self, values):
        return values.at(1)


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        for added in (Half(), Second()):
            patch.setitem(ABLATIONS, added.name, added)
        yield


@pytest.fixture(params=[*ABLATIONS, Half.name, Second.name])
def ablation(request):
    return request.param


class Case:
    """A tower with inputs, a mask, and what an ablation needs of them."""

    def __init__(self, tower, name, ablation):
        self.model = family(name) if tower == "image" else text_family(name)
        self.tower, self.view, self.rule = tower, view_of(self.model, tower), find_ablation(ablation)
        self.mask = MASK if tower == "image" else TEXT_MASK
        self.inputs = probe_images(self.model, 5) if tower == "image" else tokens(5)
        if self.rule.needs_class_token and not self.view.has_class_token:
            pytest.skip("undefined for this tower")
        means_LHd = calibrate_means(self.model, lambda: self.encode(self.model), tower=tower)
        self.means_LHd = means_LHd if self.rule.needs_means else None
        self.options = {"ablation": ablation, "tower": tower, "means_LHd": self.means_LHd}

    def encode(self, model):
        with torch.no_grad():
            found = model.encode_image(self.inputs) if self.tower == "image" else model.encode_text(self.inputs)
        return F.normalize(found, dim=-1)

    def live(self):
        with ablate(self.model, self.mask, **self.options):
            return self.encode(self.model)


CASES = pytest.mark.parametrize(
    ("tower", "name"),
    [*(("image", name) for name in IMAGE_TOWERS), ("text", "causal, last"), ("text", "text inner norm")],
)


class Chunks:
    """Inputs as an engine reads them, as they are."""

    def __init__(self, inputs):
        self._inputs, self.order_N = inputs, np.arange(len(inputs))

    def __len__(self):
        return len(self._inputs)

    def stream(self, parts):
        return (self._inputs[part] for part in parts)


@CASES
def test_the_engine_gives_the_live_models_embeddings(tower, name, ablation):
    case = Case(tower, name, ablation)
    engine = Engine(case.view, Chunks(case.inputs), ablation=case.rule, means_LHd=case.means_LHd, chunk=5)
    (found,) = engine.embed([case.mask])
    assert (F.normalize(found, dim=-1) - case.live()).abs().max() <= 1e-6


@CASES
def test_scales_of_0_are_the_ablation(tower, name, ablation):
    case = Case(tower, name, ablation)
    scales_LH = 1 - torch.from_numpy(case.mask.to_bools().astype(np.float32))
    with torch.no_grad():
        found = case.view.encode_scaled(case.inputs, scales_LH, case.rule, case.means_LHd)
    assert (F.normalize(found, dim=-1) - case.live()).abs().max() <= 2e-6


@CASES
@pytest.mark.parametrize(("change", "why_not"), [(fold, why_not_folded), (prune, why_not_pruned)])
def test_it_is_written_into_weights_or_refused_with_the_reason(change, why_not, tower, name, ablation):
    case = Case(tower, name, ablation)
    reason = why_not(case.rule, attentions(case.model, tower)[0], tower)
    if reason is None:
        changed = change(case.model, case.mask, **case.options)
        assert (case.encode(changed) - case.live()).abs().max() <= 1e-6
        return
    with pytest.raises(AblationError) as raised:
        change(case.model, case.mask, **case.options)
    assert str(raised.value) == reason


@pytest.mark.parametrize("name", [name for name in IMAGE_TOWERS if "inner" not in name and name != "EVA02"])
def test_half_is_bit_equal_to_stock_weights_with_halved_columns(name):
    case = Case("image", name, "half")
    stock = deepcopy(case.model)
    for layer, head in MASK.heads:
        attentions(stock)[layer].out_proj.weight[:, 8 * head : 8 * head + 8] /= 2
    assert torch.equal(case.encode(fold(case.model, MASK, ablation="half")), case.encode(stock))
    assert (case.live() - case.encode(stock)).abs().max() <= 1e-6


def test_half_cannot_be_pruned():
    with pytest.raises(AblationError, match="ablation half cannot be pruned: it still needs the head's values"):
        prune(family("multihead attention"), MASK, ablation="half")


@pytest.fixture(scope="module", params=[Half.name, Second.name])
def searched(request, tmp_path_factory, tiny_files, empty_mlflow, pixel_cache):
    """The name of a new ablation, the result of a search by it, and the configuration of that run."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    config = make_tiny_config(tiny_files, folder / "tiny", search__ablation=request.param, budget__masks=14)
    with undrawn():
        return request.param, start(config).result, config


def test_a_search_by_a_new_ablation_reports_the_recall_of_the_live_model(searched):
    name, result, config = searched
    mask = MaskFile.read(config.folder / "candidate.json")
    assert (mask.ablation, list(mask.heads)) == (name, result.selected)
    model = load_model(config.model.name)
    with ablate(model.clip, mask):
        found = recall_of(model.clip, model.preprocess, model.tokenizer, Path(config.data[0].path))
    assert result.selected
    assert found == pytest.approx(result.splits.test.selected["mean_recall"], abs=1e-9)


def test_the_mask_of_such_a_search_is_exported_or_refused_with_the_reason(searched, tmp_path):
    name, _, config = searched
    model, mask = load_model(config.model.name), MaskFile.read(config.folder / "candidate.json")
    with pytest.raises(AblationError, match=f"ablation {name} cannot be pruned"):
        export(model, mask, tmp_path / "pruned", prune=True)
    if name == Half.name:
        assert export(model, mask, tmp_path / "folded").max_difference <= 1e-6
        return
    with pytest.raises(AblationError, match="ablation second does not fold into weights; use it live"):
        export(model, mask, tmp_path / "folded")


def test_a_search_that_is_to_fold_is_refused_at_its_start(tiny_config):
    with pytest.raises(ConfigError, match=r"ablation second does not fold into weights.*Search without --fold"):
        start(tiny_config("second", search__ablation="second", output__fold=True))


def test_an_unknown_ablation_is_refused_with_all_that_there_are(tiny_config):
    with pytest.raises(AblationError, match="ablation must be one of zero, mean, uniform, cls, half, second; got 'no'"):
        find_ablation("no")
    with pytest.raises(ConfigError, match=r"search.ablation: .*'second'"):
        tiny_config(search__ablation="no")
