"""Exports: what is written loads as the masked model, and what does not is never kept."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from torch import nn

import headmask
from headmask.apply.exporting import export
from headmask.apply.folding import probe_images
from headmask.apply.live import ablate, calibrate_means
from headmask.apply.pruning import PrunedAttention, prune
from headmask.errors import AblationError, MaskFileError, ModelError, OutputError
from headmask.mask import HeadMask
from headmask.maskfile import Grid, MaskFile
from headmask.models.loading import load_model
from tests.headmask.apply.test_live import MASK, encode
from tests.tiny import PREPROCESS, TEXT, VISION, write_chinese_model

FILES = ["README.md", "mask.json", "open_clip_config.json", "open_clip_model.safetensors"]


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
    monkeypatch.setattr("headmask.apply.exporting.fold", lambda model, mask: model)
    with pytest.raises(AblationError, match="is not equal to the masked one: embeddings differ by"):
        export(loaded, mask_file(loaded), tmp_path / "folded")
    assert list(tmp_path.iterdir()) == []


def test_a_mask_of_other_weights_is_refused(loaded, tmp_path):
    foreign = mask_file(loaded, model=loaded.reference.model_copy(update={"weights_sha256": "0" * 64}))
    with pytest.raises(MaskFileError, match="weights 000000000000"):
        export(loaded, foreign, tmp_path / "folded")


def test_an_existing_target_is_kept(loaded, tmp_path):
    for name in ("folded", "folded.safetensors"):
        export(loaded, mask_file(loaded), tmp_path / name)
        with pytest.raises(OutputError, match=f"{name} exists; choose another name or pass --overwrite"):
            export(loaded, mask_file(loaded), tmp_path / name)


def test_only_a_checkpoint_is_replaced(loaded, tmp_path):
    """`--overwrite` with the name of some other folder must not cost that folder."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(OutputError, match=r"photos holds what is not of a model folder that .*: a.jpg; choose another"):
        export(loaded, mask_file(loaded), tmp_path / "photos", overwrite=True)
    for _ in range(2):
        export(loaded, mask_file(loaded), tmp_path / "folded", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folded", "photos"]
    assert (tmp_path / "photos" / "a.jpg").exists()


def test_a_folder_with_a_thesis_beside_the_model_is_kept(loaded, tmp_path):
    out = tmp_path / "folded"
    export(loaded, mask_file(loaded), out)
    (out / "thesis.tex").write_text("years")
    with pytest.raises(OutputError, match=r"folded holds what is not of a model folder .*: thesis.tex; choose another"):
        export(loaded, mask_file(loaded), out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "thesis.tex"])


def test_a_model_that_headmask_did_not_write_is_kept(loaded, tmp_path):
    """A model of the hub has the same names, also with a mask file beside it; so has any checkpoint."""
    theirs = Path(shutil.copytree(loaded.reference.paths[0], tmp_path / "theirs"))
    mask_file(loaded).write(theirs / "mask.json")
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    with pytest.raises(OutputError, match=r"theirs holds what is not of a model folder .*: mask.json, open_clip"):
        export(loaded, mask_file(loaded), theirs, overwrite=True)
    with pytest.raises(OutputError, match=r"model.safetensors exists and is not a checkpoint that headmask wrote"):
        export(loaded, mask_file(loaded), theirs / "open_clip_model.safetensors", overwrite=True)
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before


def test_the_model_itself_is_never_replaced(loaded, tmp_path):
    out = tmp_path / "folded"
    export(loaded, mask_file(loaded), out)
    again = load_model(f"local-dir:{out}")
    with pytest.raises(OutputError, match="folded is read by the same command"):
        export(again, mask_file(again), out, overwrite=True)


def test_what_a_dead_export_left_is_cleared_away(loaded, tmp_path):
    (tmp_path / ".folded.headmask-0badcafe").mkdir()
    (tmp_path / ".folded.headmask-0badcafe" / "junk").touch()
    export(loaded, mask_file(loaded), tmp_path / "folded")
    assert [path.name for path in tmp_path.iterdir()] == ["folded"]
    assert sorted(path.name for path in (tmp_path / "folded").iterdir()) == FILES


def texts_of(loaded):
    return loaded.tokenizer(["a small red circle", "a large blue square left of a green star", "night"])


def equal(loaded, mask, other):
    """Compare embeddings of the masked model and of another one, both towers."""
    images, texts = probe_images(loaded.clip, 5, seed=3), texts_of(loaded)
    with torch.no_grad(), ablate(loaded.clip, mask):
        sides = [loaded.clip.encode_image(images), loaded.clip.encode_text(texts)]
    with torch.no_grad():
        others = [other.encode_image(images), other.encode_text(texts)]
    pairs = zip(sides, others, strict=True)
    return all((F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).abs().max() <= 1e-6 for a, b in pairs)


def with_means(loaded):
    means = calibrate_means(loaded.clip, lambda: loaded.clip.encode_image(probe_images(loaded.clip, 5)))
    return {str(head): means[head].tolist() for head in MASK.heads}


@pytest.mark.parametrize("changes", [{}, {"ablation": "mean"}, {"tower": "text", "heads": ("L0H1", "L1H0", "L1H1")}])
def test_a_pruned_folder_loads_as_the_masked_model(loaded, tmp_path, changes):
    means = with_means(loaded) if "ablation" in changes else None
    grid = Grid(layers=2, heads=2) if "tower" in changes else Grid(layers=3, heads=4)
    mask = mask_file(loaded, means=means, grid=grid, **changes)
    proof = export(loaded, mask, tmp_path / "pruned", prune=True)
    assert proof.how_to_load == f'headmask.load_pruned("{tmp_path / "pruned"}")'
    assert sorted(path.name for path in (tmp_path / "pruned").iterdir()) == FILES
    assert len({path.stat().st_mode for path in (tmp_path / "pruned").iterdir()}) == 1
    pruned = headmask.load_pruned(tmp_path / "pruned")
    assert equal(loaded, mask, pruned.clip)
    assert torch.equal(texts_of(pruned), texts_of(loaded))
    assert type(pruned.clip) is type(loaded.clip)
    assert [module.num_heads for module in pruned.clip.modules() if isinstance(module, PrunedAttention)] == (
        [1, 0] if "tower" in changes else [3, 2, 3]
    )


def test_a_pruned_file_is_smaller_by_the_rows_and_columns_of_its_heads(loaded, tmp_path):
    export(loaded, mask_file(loaded), tmp_path / "pruned", prune=True)
    state = load_file(tmp_path / "pruned" / "open_clip_model.safetensors")
    before = sum(tensor.numel() for tensor in loaded.clip.state_dict().values())
    assert before - sum(tensor.numel() for tensor in state.values()) == 4 * 8 * (3 * (32 + 1) + 32)


def test_stock_open_clip_refuses_a_pruned_folder(loaded, tmp_path):
    """Rather than giving a model with random weights."""
    export(loaded, mask_file(loaded), tmp_path / "pruned", prune=True)
    with pytest.raises(RuntimeError, match="size mismatch"):
        open_clip.create_model(f"local-dir:{tmp_path / 'pruned'}")


def test_what_is_no_pruned_folder_is_refused_by_its_loader(loaded, tmp_path):
    export(loaded, mask_file(loaded), tmp_path / "folded")
    with pytest.raises(ModelError, match="is not a pruned model; load it with open_clip"):
        headmask.load_pruned(tmp_path / "folded")
    with pytest.raises(ModelError, match="none holds no pruned model"):
        headmask.load_pruned(tmp_path / "none")
    export(loaded, mask_file(loaded), tmp_path / "pruned", prune=True)
    mask_file(loaded, heads=("L0H0",)).write(tmp_path / "pruned" / "mask.json")
    with pytest.raises(ModelError, match=r"cannot load the pruned model in .*pruned: Error"):
        headmask.load_pruned(tmp_path / "pruned")


@pytest.mark.parametrize(
    ("changes", "out", "error", "message"),
    [
        ({"ablation": "uniform"}, "pruned", AblationError, "ablation uniform cannot be pruned"),
        ({"heads": ()}, "pruned", AblationError, "nothing is ablated, so there is nothing to prune"),
        ({}, "pruned.safetensors", MaskFileError, r"a pruned model is a folder; .* end in \.safetensors"),
    ],
)
def test_what_cannot_be_pruned_leaves_nothing(loaded, tmp_path, changes, out, error, message):
    with pytest.raises(error, match=message):
        export(loaded, mask_file(loaded, **changes), tmp_path / out, prune=True)
    assert list(tmp_path.iterdir()) == []


def test_a_pruned_model_that_is_not_equal_is_not_kept(loaded, tmp_path, monkeypatch):
    """Here, because another head was taken out."""
    other = HeadMask.from_text(MASK.grid, "L0H2,L1H0,L1H3,L2H2")
    monkeypatch.setattr("headmask.apply.pruning.prune", lambda model, mask: prune(model, other))
    with pytest.raises(AblationError, match="is not equal to the masked one: embeddings differ by"):
        export(loaded, mask_file(loaded), tmp_path / "pruned", prune=True)
    assert list(tmp_path.iterdir()) == []


def test_the_empty_mask_exports_as_the_model_itself(loaded, tmp_path):
    """What a search without a reliable improvement recommends."""
    export(loaded, mask_file(loaded, heads=()), tmp_path / "same")
    stock = open_clip.create_model(f"local-dir:{tmp_path / 'same'}").eval()
    assert torch.equal(encode(stock), encode(loaded.clip))


def test_a_tokenizer_of_hugging_face_comes_along(tmp_path):
    """Stock open_clip looks for it in the folder."""
    source = load_model(f"local-dir:{write_chinese_model(tmp_path / 'chinese')}")
    mask = mask_file(source)
    texts = ["一只猫坐在沙发上", "城市夜景 dog"]
    for way in ("folded", "pruned"):
        out = tmp_path / way
        export(source, mask, out, prune=way == "pruned")
        assert torch.equal(open_clip.get_tokenizer(f"local-dir:{out}")(texts), source.tokenizer(texts))
    assert equal(source, mask, headmask.load_pruned(out).clip)


TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224}


@pytest.mark.parametrize("vision", [TIMM, {**VISION, "block_type": "custom"}], ids=["timm", "custom attention"])
def test_towers_of_other_kinds_go_through_a_pruned_folder(tmp_path, vision):
    source = tmp_path / "source"
    source.mkdir()
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}
    preprocess = {**PREPROCESS, "size": vision["image_size"]}
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{source}", load_weights=False)
    save_file(model.state_dict(), source / "open_clip_model.safetensors")
    loaded = load_model(f"local-dir:{source}")
    grid = headmask.grid_of(loaded.clip)
    heads = tuple(f"L{layer}H{layer % grid.heads}" for layer in range(grid.layers))
    mask = mask_file(loaded, grid=Grid(layers=grid.layers, heads=grid.heads), heads=heads)
    export(loaded, mask, tmp_path / "pruned", prune=True)
    assert equal(loaded, mask, headmask.load_pruned(tmp_path / "pruned").clip)


@pytest.mark.parametrize("prune", [False, True])
def test_an_export_says_what_the_tower_takes(loaded, tmp_path, prune):
    """A head of this model is 4 T D d + 2 T^2 d multiply-adds."""
    found = export(loaded, mask_file(loaded), tmp_path / "out", prune=prune, latency_s=0.2).footprints
    assert found.before.parameters == sum(each.numel() for each in loaded.clip.visual.parameters())
    num_pruned = len(MASK) if prune else 0
    assert found.before.parameters - found.after.parameters == num_pruned * 8 * (3 * (32 + 1) + 32)
    assert found.before.flops - found.after.flops == num_pruned * 2 * (4 * 17 * 32 * 8 + 2 * 17**2 * 8)
    assert found.timing.rounds >= 5
    for side in (found.before, found.after):
        assert 0 < side.quartiles_ms[0] <= side.latency_ms <= side.quartiles_ms[1]


def test_nothing_is_timed_unasked(loaded, tmp_path):
    found = export(loaded, mask_file(loaded), tmp_path / "out").footprints
    assert found.timing is found.before.latency_ms is found.after.latency_ms is None


def test_no_module_of_a_pruned_model_but_attention_is_ours(loaded, tmp_path):
    export(loaded, mask_file(loaded), tmp_path / "pruned", prune=True)
    kinds = {type(module) for module in headmask.load_pruned(tmp_path / "pruned").clip.modules()}
    assert {kind for kind in kinds if kind.__module__.startswith("headmask")} == {PrunedAttention}
    assert nn.MultiheadAttention in kinds  # The text tower's.
