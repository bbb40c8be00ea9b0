"""Scales on a model: live, folded, pruned and exported they are one model, and stock weights say which."""

from copy import deepcopy

import open_clip
import pytest
import torch

import headmask
from headmask.apply.exporting import export
from headmask.apply.folding import probe_images
from headmask.apply.live import ablate, calibrate_means
from headmask.apply.masked import load_pruned
from headmask.errors import AblationError, GridError
from headmask.mask import HeadGrid
from headmask.maskfile import Grid
from headmask.models.loading import load_model
from headmask.scales import HeadScales
from headmask.scalesfile import ScalesFile
from headmask.tower.towers import attentions
from tests.families import family, text_family
from tests.headmask.apply.test_live import MASK, encode
from tests.headmask.apply.test_pruning import PRUNED, PRUNED_TEXT, embeddings
from tests.tiny import write_tiny_model

GRID = HeadGrid(3, 4)
SCALES = HeadScales.from_heads(GRID, {(0, 1): 0.0, (0, 2): 0.25, (1, 0): 2.5, (2, 3): 0.0})
TEXT_SCALES = HeadScales.from_heads(HeadGrid(2, 2), {(0, 1): 0.0, (1, 0): 1.5})
CASES = [("image", name) for name in PRUNED] + [("text", name) for name in PRUNED_TEXT]


def case(tower, name):
    return (family(name), SCALES) if tower == "image" else (text_family(name), TEXT_SCALES)


def live(model, scales, tower, ablation="zero", means=None):
    with ablate(model, scales, ablation=ablation, tower=tower, means_LHd=means):
        return embeddings(model, tower)


@pytest.mark.parametrize(("tower", "name"), CASES)
def test_live_scales_are_stock_weights_with_scaled_columns(tower, name):
    model, scales = case(tower, name)
    stock = deepcopy(model)
    for (layer, head), scale in scales.heads.items():
        attention = attentions(stock, tower)[layer]
        with torch.no_grad():
            attention.out_proj.weight[:, attention.columns(head)] *= scale
    assert (live(model, scales, tower) - embeddings(stock, tower)).abs().max() <= 1e-6


@pytest.mark.parametrize("ablation", ["zero", "mean"])
@pytest.mark.parametrize(("tower", "name"), CASES)
def test_folded_and_pruned_scales_equal_the_live_ones(tower, name, ablation):
    model, scales = case(tower, name)
    grid = scales.grid
    means = torch.randn(grid.layers, grid.heads, 8, generator=torch.Generator().manual_seed(0))
    expected = live(model, scales, tower, ablation, means)
    for change in (headmask.fold, headmask.prune):
        changed = change(model, scales, ablation=ablation, tower=tower, means_LHd=means)
        assert (embeddings(changed, tower) - expected).abs().max() <= 1e-6


def test_scales_of_a_mask_are_bit_equal_to_the_mask(clip):
    with ablate(clip, MASK):
        masked = encode(clip)
    with ablate(clip, HeadScales.of(MASK)):
        assert torch.equal(encode(clip), masked)
    assert torch.equal(encode(headmask.fold(clip, HeadScales.of(MASK))), encode(headmask.fold(clip, MASK)))


def test_means_and_uniform_weights_are_mixed_in(clip):
    scales = HeadScales.from_heads(GRID, {(1, 2): 0.5})
    means = calibrate_means(clip, lambda: clip.encode_image(probe_images(clip, 5, seed=1)))
    for ablation in ("mean", "uniform", "cls"):
        given = means if ablation == "mean" else None
        assert not torch.equal(live(clip, scales, "image", ablation, given), live(clip, scales, "image"))


@pytest.mark.parametrize(
    ("name", "ablation", "message"),
    [
        ("multihead attention", "uniform", "ablation uniform folds for scales of 0 and 1 only"),
        ("multihead attention", "cls", "ablation cls does not fold into weights"),
        ("inner norm", "zero", "no weights equal a scaled head there"),
    ],
)
def test_what_cannot_be_folded_is_refused_with_the_reason(name, ablation, message):
    with pytest.raises(AblationError, match=message):
        headmask.fold(family(name), HeadScales.from_heads(GRID, {(1, 2): 0.5}), ablation=ablation)


def test_towers_that_normalise_their_heads_together_are_scaled_live():
    model = family("inner norm")
    assert not torch.equal(live(model, SCALES, "image"), embeddings(model, "image"))


def test_scales_of_another_grid_are_refused(clip):
    with pytest.raises(GridError, match="grid of the scales is 2x2 but this model's image tower has 3 layers x 4"):
        headmask.fold(clip, TEXT_SCALES)


@pytest.fixture(scope="module")
def loaded(tiny_files):
    return load_model(f"local-dir:{tiny_files[0]}")


def scales_file(loaded, **changes):
    heads = {str(head): scale for head, scale in SCALES.heads.items()}
    return ScalesFile(**{"model": loaded.reference, "grid": Grid(layers=3, heads=4), "heads": heads, **changes})


def test_an_export_is_loaded_by_stock_open_clip(loaded, tmp_path):
    content = scales_file(loaded)
    proof = export(loaded, content, tmp_path / "scaled")
    with ablate(loaded.clip, content):
        expected = encode(loaded.clip)
    found = open_clip.create_model(f"local-dir:{tmp_path / 'scaled'}").eval()
    assert (encode(found) - expected).abs().max() <= 1e-6
    assert ScalesFile.read(tmp_path / "scaled" / "scales.json") == content
    assert proof.max_difference <= proof.tolerance
    card = (tmp_path / "scaled" / "README.md").read_text()
    assert "4 attention heads scaled and folded into the weights" in card
    assert "## What was scaled" in card
    assert "L0H1=0, L0H2=0.25, L1H0=2.5, L2H3=0" in card
    assert "One factor per head was trained, and no other weight." in card
    export(loaded, content, tmp_path / "scaled", overwrite=True)


def test_ablated_heads_are_pruned_and_the_others_folded(loaded, tmp_path):
    content = scales_file(loaded)
    proof = export(loaded, content, tmp_path / "pruned", prune=True)
    with ablate(loaded.clip, content):
        expected = encode(loaded.clip)
    found = load_pruned(tmp_path / "pruned")
    assert (encode(found.clip) - expected).abs().max() <= 1e-6
    assert proof.footprints.after.parameters < proof.footprints.before.parameters


def test_without_an_ablated_head_there_is_nothing_to_prune(loaded, tmp_path):
    with pytest.raises(AblationError, match="nothing is ablated, so there is nothing to prune"):
        export(loaded, scales_file(loaded, heads={"L0H1": 0.5}), tmp_path / "pruned", prune=True)


@pytest.mark.parametrize("ablation", ["zero", "uniform"])
def test_a_loaded_model_has_the_scales(loaded, tmp_path, ablation):
    content = scales_file(loaded, ablation=ablation)
    content.write(tmp_path / "scales.json")
    scaled = headmask.load(loaded.reference.name, tmp_path / "scales.json")
    with ablate(loaded.clip, content):
        expected = encode(loaded.clip)
    assert (encode(scaled.clip) - expected).abs().max() <= 1e-6


def test_a_model_that_normalises_its_heads_together_is_scaled_for_good(tmp_path):
    source = load_model(f"local-dir:{write_tiny_model(tmp_path / 'inner', scale_attn_inner=True)}")
    content = scales_file(source)
    with ablate(source.clip, content):
        expected = encode(source.clip)
    assert torch.equal(encode(headmask.load(source, content).clip), expected)
