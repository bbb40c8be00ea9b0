"""Checkpoint files as training leaves them."""

import json
import warnings

import open_clip
import pytest
import torch

from headmask.errors import ModelError
from headmask.models.loading import build, load_model, weights_digest
from tests.headmask.pixels.test_preprocessing import CONFIG
from tests.tiny import TEXT, tiny_clip

MODEL = tiny_clip(text=TEXT)


def load(folder, content, name="w.pt"):
    (folder / "my.json").write_text(json.dumps(CONFIG))
    torch.save(content, folder / name)
    return load_model(str(folder / "my.json"), str(folder / name))


def wrapped(prefix):
    return {prefix + name: value for name, value in MODEL.state_dict().items()}


@pytest.mark.parametrize(
    "content",
    [
        wrapped(""),
        wrapped("module."),
        wrapped("_orig_mod."),
        wrapped("model."),
        wrapped("module._orig_mod."),
        wrapped("_fsdp_wrapped_module."),
        wrapped("net.clip_model."),
        {"epoch": 3, "state_dict": wrapped("module."), "optimizer": {"state": {0: {}}}},
        {"pytorch-lightning_version": "2.5", "state_dict": wrapped("model.")},
        {"model": wrapped("")},
        {name.replace("visual.", "visual._orig_mod."): value for name, value in wrapped("").items()},
        {name.replace("resblocks.1.", "resblocks.1._checkpoint_wrapped_module."): v for name, v in wrapped("").items()},
        wrapped("module.") | {"n_averaged": torch.tensor(7)},
        {"model_state_dict": wrapped("_orig_mod."), "step": 1},
    ],
    ids=lambda content: ", ".join(map(str, list(content)[:2])),
)
def test_what_training_wraps_around_the_weights_is_taken_off(tmp_path, content):
    bare = load(tmp_path, MODEL.state_dict(), "bare.pt")
    assert load(tmp_path, content).weights_sha256 == bare.weights_sha256


def test_what_was_taken_off_and_left_is_said(tmp_path):
    averaged = {name: torch.zeros_like(value) for name, value in MODEL.state_dict().items()}
    loaded = load(tmp_path, {"state_dict": wrapped("_orig_mod."), "state_dict_ema": averaged})
    assert "w.pt also holds averaged weights under state_dict_ema, which are not used" in "; ".join(loaded.notes)
    assert "All names in w.pt begin with _orig_mod., which is stripped" in loaded.notes


def test_a_torchscript_archive_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "my.json").write_text(json.dumps(CONFIG))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather not.
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "jit.pt")
    with pytest.raises(ModelError, match=r"is a TorchScript archive \(JIT\).*torch.jit.load"):
        load_model(str(tmp_path / "my.json"), str(tmp_path / "jit.pt"))


def test_a_file_of_an_old_torch_is_read(tmp_path):
    bare = load(tmp_path, MODEL.state_dict(), "bare.pt")
    torch.save(wrapped("module."), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load_model(str(tmp_path / "my.json"), str(tmp_path / "old.pt")).weights_sha256 == bare.weights_sha256


def test_weights_that_do_not_fit_name_what_is_missing_and_what_is_not_expected(tmp_path):
    content = wrapped("") | {"head.weight": torch.zeros(2)}
    del content["visual.proj"], content["visual.class_embedding"]
    with pytest.raises(ModelError, match=r"2 tensors are missing, such as visual.*; 1 tensor is not expected"):
        load(tmp_path, content)


def test_what_wrappers_insert_and_what_was_averaged_is_said(tmp_path):
    content = wrapped("module.") | {"n_averaged": torch.tensor(7)}
    notes = load(tmp_path, content).notes
    assert "w.pt holds weights averaged over 7 steps, by torch's AveragedModel" in notes
    content = {name.replace("visual.", "visual._orig_mod."): value for name, value in wrapped("").items()}
    assert "Names in w.pt have _orig_mod. in them, which is taken out" in load(tmp_path, content).notes


def test_an_open_clip_epoch_of_a_compiled_model_is_read_as_its_folder(tmp_path):
    """What open_clip's main.py saves: distributed, compiled, with optimizer, scaler and name."""
    content = {
        "epoch": 10,
        "name": "2026_ViT",
        "state_dict": wrapped("_orig_mod.module."),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "scaler": {"scale": 65536.0},
    }
    bare = load(tmp_path, MODEL.state_dict(), "bare.pt")
    assert load(tmp_path, content, "epoch_10.pt").weights_sha256 == bare.weights_sha256


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(tmp_path, dtype):
    loaded = load(tmp_path, {name: value.to(dtype) for name, value in MODEL.state_dict().items()})
    expected = {name: value.to(dtype).float() for name, value in MODEL.state_dict().items()}
    for name, value in loaded.clip.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])


def test_positions_of_another_resolution_are_interpolated_as_open_clip_does_and_that_is_said(tmp_path):
    larger = tiny_clip(text=TEXT | {"context_length": 20}, image_size=42)
    loaded = load(tmp_path, larger.state_dict())
    text = " ".join(loaded.notes)
    assert "The position embedding in w.pt is of 6 x 6 patches; it is interpolated to 4 x 4, as open_clip does" in text
    assert "The text position embedding in w.pt is of 20 tokens; it is interpolated to 12, as open_clip does" in text
    stock = tiny_clip(1, text=TEXT)
    open_clip.load_checkpoint(stock, str(tmp_path / "w.pt"))
    assert torch.equal(loaded.clip.visual.positional_embedding, stock.visual.positional_embedding)
    assert torch.equal(loaded.clip.positional_embedding, stock.positional_embedding)


def test_positions_that_are_not_a_square_are_refused(tmp_path):
    content = dict(MODEL.state_dict())
    content["visual.positional_embedding"] = torch.zeros(13, 32)
    with pytest.raises(
        ModelError, match=r"is of 12 patches, and the model has 4 x 4: open_clip interpolates squares alone"
    ):
        load(tmp_path, content)


def test_positions_of_another_resolution_are_refused_in_towers_of_timm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"patch_size": 7, "embed_dim": 32, "depth": 2, "num_heads": 4, "class_token": False, "global_pool": "map"}
    for size in (28, 42):
        timm = {"architecture": "vit_base_patch16_siglip_224", "pretrained_cfg": {}, "num_classes": 0}
        (tmp_path / f"tower{size}").mkdir()
        (tmp_path / f"tower{size}" / "config.json").write_text(
            json.dumps(timm | {"model_args": sizes | {"img_size": size}})
        )
        tower = {"timm_model_name": f"local-dir:tower{size}", "timm_model_pretrained": False, "image_size": size}
        tower |= {"timm_pool": "map", "timm_proj": "none"}
        config = {"embed_dim": 32, "vision_cfg": tower, "text_cfg": TEXT, "custom_text": True}
        (tmp_path / f"{size}.json").write_text(json.dumps(config))
        torch.save(build(f"{size}.json", config).state_dict(), f"{size}.pt")
    assert load_model("42.json", "42.pt").clip.visual.image_size == (42, 42)
    with pytest.raises(
        ModelError, match=r"is of 36 tokens, and the model has 16: open_clip does not interpolate those of"
    ):
        load_model("28.json", "42.pt")


def test_what_a_refusal_of_averaged_weights_says_gives_a_checkpoint_that_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="holds weights under model_ema") as refused:
        load(tmp_path, {"model_ema": wrapped("module."), "epoch": 3}, "ema.pt")
    line = str(refused.value).partition("Save those that you mean: ")[2]
    exec(line, {"torch": torch})
    assert load_model("my.json", "weights.pt").weights_sha256 == load(tmp_path, MODEL.state_dict()).weights_sha256


def test_an_average_of_two_models_has_a_digest_of_its_own_that_is_said(tmp_path):
    """As WiSE-FT makes it: weights of the zero-shot and of the fine-tuned model, averaged."""
    other = tiny_clip(1, text=TEXT).state_dict()
    mean = {name: (value + other[name]) / 2 for name, value in MODEL.state_dict().items()}
    found = [load(tmp_path, content) for content in (MODEL.state_dict(), other, mean)]
    assert len({each.weights_sha256 for each in found}) == 3
    for each in found:
        assert each.notes[-1].startswith(f"Weights {each.weights_sha256[:12]};")
        assert each.weights_sha256 == weights_digest(each.clip)
