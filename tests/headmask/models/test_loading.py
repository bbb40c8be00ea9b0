"""Loading models: open_clip's own loader, and its refusals in clear words."""

import sys
import warnings

import pytest
import torch

from headmask.errors import ModelError
from headmask.models.loading import load_model, tokenizer_of, weights_digest
from tests.tiny import tiny_clip, write_chinese_model, write_tiny_model


def test_a_folder_loads_with_its_preprocessing_and_tokenizer(tiny_files):
    loaded = load_model(f"local-dir:{tiny_files[0]}")
    assert loaded.clip.visual.image_size == (28, 28)
    assert loaded.tokenizer(["a cat"]).shape == (1, 12)
    assert list(loaded.preprocess.transforms[-1].mean) == [0.5, 0.5, 0.5]
    assert not any(parameter.requires_grad for parameter in loaded.clip.parameters())


def test_the_digest_is_of_the_weights_alone(tmp_path):
    first, second = (load_model(f"local-dir:{write_tiny_model(tmp_path / name)}") for name in ("a", "b"))
    other = load_model(f"local-dir:{write_tiny_model(tmp_path / 'c', seed=1)}")
    assert first.reference.weights_sha256 == second.reference.weights_sha256 != other.reference.weights_sha256


def test_the_digest_sees_a_single_bit():
    model = tiny_clip()
    before = weights_digest(model)
    model.visual.proj.view(torch.int32)[0, 0] ^= 1
    assert weights_digest(model) != before


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-23", "openai", r"no architecture 'ViT-B-23', did you mean ViT-B-"),
        ("ViT-B-32", None, "ViT-B-32 needs weights: pass pretrained"),
        ("ViT-B-32", "no-such-tag", "must be a file or a tag of ViT-B-32: .*laion2b_s34b_b79k.*; got 'no-such-tag'"),
        ("local-dir:/no/such/folder", None, "the folder must hold open_clip_config.json"),
        ("local-dir:/no/such/folder", "openai", r"brings its own weights; leave out pretrained \(openai\)"),
    ],
)
def test_names_that_cannot_be_loaded_are_refused(name, pretrained, message):
    with pytest.raises(ModelError, match=message):
        load_model(name, pretrained)


def test_a_broken_checkpoint_is_one_clear_message(tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    (folder / "open_clip_model.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match="is damaged or was cut off"):
        load_model(f"local-dir:{folder}")


def test_a_folder_without_weights_is_refused(tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights: open_clip looks for \*.safetensors, \*.bin, \*.pth"):
        load_model(f"local-dir:{folder}")


class Malicious:
    """Leaves a file behind when it is unpickled by somebody who trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path):
    checkpoint = tmp_path / "weights.pt"
    torch.save({"state_dict": Malicious(tmp_path / "owned")}, checkpoint)
    with pytest.raises(ModelError, match=r"weights.pt holds more than weights, an object of .*would run its code"):
        load_model("ViT-B-32", str(checkpoint))
    assert not (tmp_path / "owned").exists()


@pytest.fixture
def chinese(tmp_path_factory):
    """A model folder with a multilingual text tower."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return write_chinese_model(tmp_path_factory.mktemp("zh") / "model")


def test_a_multilingual_text_tower_loads_with_its_own_tokenizer(chinese):
    loaded = load_model(f"local-dir:{chinese}")
    tokens_QT = loaded.tokenizer(["一只猫", "城市夜景"])
    assert tokens_QT[:, :6].tolist() == [[0, 4, 5, 6, 2, 1], [0, *tokens_QT[1, 1:5].tolist(), 2]]
    with torch.no_grad():
        assert loaded.clip.encode_text(tokens_QT).shape == (2, 24)


def test_without_transformers_the_error_names_the_extra(chinese, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("open_clip.hf_model.transformers", None)
    with pytest.raises(ModelError, match=r"need Hugging Face's transformers: pip install 'headmask\[transformers\]'"):
        load_model(f"local-dir:{chinese}")
    with pytest.raises(ModelError, match=r"headmask\[transformers\]"):
        tokenizer_of(f"local-dir:{chinese}")
