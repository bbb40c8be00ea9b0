"""Checkpoint files as training leaves them."""

import json
import warnings

import pytest
import torch

from headmask.errors import ModelError
from headmask.models.loading import load_model
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
