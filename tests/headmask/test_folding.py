"""Folding: the weights alone give the masked model, and a checkpoint that does not is never kept."""

import json

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from headmask.errors import AblationError, MaskFileError
from headmask.folding import export, fold, probe_images
from headmask.live import ablate, calibrate_means
from headmask.mask import HeadGrid, HeadMask
from headmask.maskfile import Grid, MaskFile
from headmask.models import load_model
from tests.headmask.test_live import MASK, VARIANTS, encode
from tests.tiny import tiny_clip

FOLDABLE = [name for name in VARIANTS if name != "inner norm"]


@pytest.mark.parametrize("variant", FOLDABLE)
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_folded_weights_equal_the_live_mask(variant, ablation):
    model = tiny_clip(**VARIANTS[variant])
    means = calibrate_means(model, lambda: model.encode_image(probe_images(model, 5, seed=1)))
    with ablate(model, MASK, ablation=ablation, means_LHd=means):
        live = encode(model)
    assert (encode(fold(model, MASK, ablation=ablation, means_LHd=means)) - live).abs().max() <= 1e-6


def test_uniform_folds_into_image_towers(clip):
    with ablate(clip, MASK, ablation="uniform"):
        live = encode(clip)
    assert (encode(fold(clip, MASK, ablation="uniform")) - live).abs().max() <= 1e-6


def test_folding_leaves_the_model_as_it_is(clip):
    before = encode(clip)
    fold(clip, MASK)
    assert torch.equal(encode(clip), before)


@pytest.mark.parametrize(
    ("variant", "arguments", "message"),
    [
        ({"scale_attn_inner": True}, {}, "normalises the heads' outputs before W_O"),
        ({"qk_norm": True}, {"ablation": "uniform"}, "a zero query row does not give uniform attention"),
        ({}, {"ablation": "cls"}, "ablation cls does not fold into weights"),
        ({}, {"ablation": "uniform", "tower": "text"}, "folds into image towers only"),
    ],
)
def test_what_cannot_be_folded_is_refused_with_the_reason(variant, arguments, message):
    mask = HeadMask(HeadGrid(2, 2), (1, 2)) if arguments.get("tower") == "text" else MASK
    with pytest.raises(AblationError, match=message):
        fold(tiny_clip(**variant), mask, **arguments)


@pytest.fixture(scope="module")
def loaded(tiny_files):
    return load_model(f"local-dir:{tiny_files[0]}")


def mask_file(loaded, **changes):
    content = {"model": loaded.reference, "grid": Grid(layers=3, heads=4), "heads": tuple(map(str, MASK.heads))}
    return MaskFile(**{**content, **changes})


@pytest.mark.parametrize("ablation", ["zero", "uniform", "mean"])
def test_an_exported_folder_loads_in_stock_open_clip_as_the_masked_model(loaded, tmp_path, ablation):
    images = probe_images(loaded.clip, 5, seed=3)
    means = calibrate_means(loaded.clip, lambda: loaded.clip.encode_image(images))
    by_head = {str(head): means[head].tolist() for head in MASK.heads}
    mask = mask_file(loaded, ablation=ablation, means=by_head if ablation == "mean" else None)
    proof = export(loaded, mask, tmp_path / "folded")
    stock = open_clip.create_model(f"local-dir:{tmp_path / 'folded'}").eval()
    with torch.no_grad(), ablate(loaded.clip, mask):
        masked = F.normalize(loaded.clip.encode_image(images), dim=-1)
    with torch.no_grad():
        difference = (F.normalize(stock.encode_image(images), dim=-1) - masked).abs().max()
    assert difference <= 1e-6
    assert proof.max_difference <= proof.tolerance == 1e-6
    assert proof.how_to_load == f'open_clip.create_model("local-dir:{tmp_path / "folded"}")'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folded"]


def test_a_named_architecture_is_exported_as_a_checkpoint_file(tmp_path, monkeypatch):
    architecture = tmp_path / "configs"
    architecture.mkdir()
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 28, "patch_size": 7, "width": 32, "layers": 3, "head_width": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (architecture / "tiny-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(architecture)
    torch.save(open_clip.create_model("tiny-test").state_dict(), tmp_path / "weights.pt")
    loaded = load_model("tiny-test", str(tmp_path / "weights.pt"))
    out = tmp_path / "refined.safetensors"
    export(loaded, mask_file(loaded), out)
    stock = open_clip.create_model("tiny-test", pretrained=str(out)).eval()
    with ablate(loaded.clip, MASK):
        masked = encode(loaded.clip)
    assert (encode(stock) - masked).abs().max() <= 1e-6


def test_a_checkpoint_that_is_not_equal_is_not_kept(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("headmask.folding.fold", lambda model, mask: model)
    with pytest.raises(AblationError, match="is not equal to the masked model: embeddings differ by"):
        export(loaded, mask_file(loaded), tmp_path / "folded")
    assert list(tmp_path.iterdir()) == []


def test_a_mask_of_other_weights_is_refused(loaded, tmp_path):
    foreign = mask_file(loaded, model=loaded.reference.model_copy(update={"weights_sha256": "0" * 64}))
    with pytest.raises(MaskFileError, match="weights 000000000000"):
        export(loaded, foreign, tmp_path / "folded")


def test_an_existing_target_is_kept(loaded, tmp_path):
    (tmp_path / "folded").mkdir()
    with pytest.raises(MaskFileError, match="exists; choose another name or pass --overwrite"):
        export(loaded, mask_file(loaded), tmp_path / "folded")


def test_only_a_checkpoint_is_replaced(loaded, tmp_path):
    """`--overwrite` with the name of some other folder must not cost that folder."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(MaskFileError, match="photos is no model folder; choose another name"):
        export(loaded, mask_file(loaded), tmp_path / "photos", overwrite=True)
    for _ in range(2):
        export(loaded, mask_file(loaded), tmp_path / "folded", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folded", "photos"]
    assert (tmp_path / "photos" / "a.jpg").exists()


def test_what_a_dead_export_left_is_cleared_away(loaded, tmp_path):
    (tmp_path / ".folded.part").mkdir()
    (tmp_path / ".folded.part" / "junk").touch()
    export(loaded, mask_file(loaded), tmp_path / "folded")
    assert sorted(path.name for path in (tmp_path / "folded").iterdir()) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
