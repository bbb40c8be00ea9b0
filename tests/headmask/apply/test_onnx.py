"""Exports to ONNX: ONNX Runtime computes the masked model's embeddings, for any number of inputs."""

import json
import re
import shutil

import numpy as np
import onnxruntime
import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from headmask.apply import deployment, onnx
from headmask.apply.exporting import check_target, export
from headmask.apply.folding import fold, probe_images
from headmask.apply.live import ablate
from headmask.errors import AblationError, MaskFileError, ModelError, OutputError
from headmask.mask import HeadMask
from headmask.maskfile import Grid, MaskFile
from headmask.models.loading import load_model
from headmask.tower.towers import grid_of
from tests.tiny import write_chinese_model
from tests.transformers_models import write_transformers_model

FILES = ["README.md", "image.onnx", "mask.json", "onnx_config.json", "open_clip_config.json", "text.onnx"]
TEXTS = ["a dog", "in again", "night", "the cat", "a picture of"]


@pytest.fixture(scope="module")
def loaded(tiny_files):
    return load_model(f"local-dir:{tiny_files[0]}")


def mask_file(loaded, heads="L0H0,L0H1,L0H2,L0H3,L1H1,L2H0", tower="image", **changes):
    grid = grid_of(loaded.clip, tower)
    content = {
        "model": loaded.reference,
        "tower": tower,
        "grid": Grid(layers=grid.layers, heads=grid.heads),
        "heads": tuple(map(str, HeadMask.from_text(grid, heads).heads)),
    }
    return MaskFile(**{**content, **changes})


@pytest.fixture(scope="module")
def exported(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "folded"
    return folder, export(loaded, mask_file(loaded), folder, format="onnx")


def embedded(path, inputs):
    """Return the embeddings of a model in a file, by the runtime alone."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (only,) = session.get_inputs()
    return torch.from_numpy(session.run(["embeddings"], {only.name: inputs.numpy()})[0])


def assert_close(one, other):
    assert one.shape == other.shape
    assert (F.normalize(one, dim=-1) - F.normalize(other, dim=-1)).abs().max() <= 1e-5


def code_of(folder):
    """Return the names that the code of a folder's card defines."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    found = {}
    exec(compile(code.replace("PATH", str(folder)), "card", "exec"), found)
    return found


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((41, 60), 80).convert("RGB").save("photo.jpg")
    with Image.open("photo.jpg") as image:
        yield image


@pytest.mark.parametrize("count", [1, 2, 5])
def test_both_towers_take_any_number_of_inputs_and_are_the_masked_model(loaded, exported, count):
    folder, _ = exported
    images, tokens = probe_images(loaded.clip, count, seed=3), loaded.tokenizer(TEXTS[:count])
    with torch.no_grad(), ablate(loaded.clip, mask_file(loaded)):
        masked = loaded.clip.encode_image(images), loaded.clip.encode_text(tokens)
    assert_close(embedded(folder / "image.onnx", images), masked[0])
    assert_close(embedded(folder / "text.onnx", tokens), masked[1])
    with torch.no_grad():
        plain = F.normalize(loaded.clip.encode_image(images), dim=-1)
    assert (F.normalize(masked[0], dim=-1) - plain).abs().max() > 1e-3


def test_the_folder_says_how_inputs_are_prepared_and_what_loads_it(loaded, exported):
    folder, proof = exported
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert 0 <= proof.max_difference <= proof.tolerance == 1e-5
    names = folder / "image.onnx", folder / "text.onnx"
    assert proof.how_to_load == " and ".join(f'onnxruntime.InferenceSession("{name}")' for name in names)
    config = json.loads((folder / "onnx_config.json").read_text())
    assert config["image"]["preprocess"] == loaded.preprocessing.model_dump(mode="json")
    assert config["text"] == {"file": "text.onnx", "input": "input_ids", "context_length": 12}
    assert config["similarity"]["scale"] == pytest.approx(loaded.scale)
    # Each has the weights of its tower only, and no paths of the machine that wrote it.
    parameters = sum(each.numel() for each in loaded.clip.parameters()) * 4
    assert sum(name.stat().st_size for name in names) < parameters * 1.5
    assert b"exporting.py" not in names[0].read_bytes()


def test_the_code_of_the_card_embeds_as_the_masked_model(loaded, exported, photo):
    found = code_of(exported[0])
    with torch.no_grad(), ablate(loaded.clip, mask_file(loaded)):
        assert_close(
            torch.from_numpy(found["image_embeddings"]), loaded.clip.encode_image(loaded.preprocess(photo)[None])
        )
        assert_close(
            torch.from_numpy(found["text_embeddings"]), loaded.clip.encode_text(loaded.tokenizer(["a photo of a dog"]))
        )
    assert found["cosine"].shape == (1, 1)


@pytest.mark.parametrize("size", [(41, 60), (60, 41), (28, 28), (50, 50), (29, 300)])
def test_the_card_prepares_images_as_the_model_does(loaded, exported, photo, size):
    image = Image.effect_noise(size, 80).convert("RGB")
    assert np.array_equal(code_of(exported[0])["pixel_values"](image), loaded.preprocess(image).numpy())


@pytest.mark.parametrize(
    "preprocess",
    [
        {"resize_mode": "squash", "mean": 0.5, "std": 0.25, "interpolation": "bilinear"},
        {"resize_mode": "longest", "fill_color": 9},
    ],
)
def test_other_preprocessings_are_in_the_code_of_the_card(tiny_files, photo, tmp_path, preprocess):
    asked = tmp_path / "p.json"
    asked.write_text(json.dumps(preprocess))
    model = load_model(f"local-dir:{tiny_files[0]}", preprocess=str(asked))
    text, found = deployment.loading(model, "composited"), {}
    code, _, _ = text.partition("```python\n")[2].partition("\nsession = ")
    exec(compile(code, "card", "exec"), found)
    assert np.array_equal(found["pixel_values"](photo), model.preprocess(photo).numpy())
    assert "Images were scored *composited*" in text


def test_a_pruned_model_is_smaller_and_replaces_a_folded_one(loaded, exported, tmp_path):
    out, mask = tmp_path / "out", mask_file(loaded)
    export(loaded, mask, out)
    proof = export(loaded, mask, out, prune=True, format="onnx", overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == FILES
    images = probe_images(loaded.clip, 3, seed=4)
    with torch.no_grad():
        assert_close(embedded(out / "image.onnx", images), fold(loaded.clip, mask).encode_image(images))
    assert (out / "image.onnx").stat().st_size < (exported[0] / "image.onnx").stat().st_size
    assert proof.footprints.after.parameters < proof.footprints.before.parameters
    card = (out / "README.md").read_text()
    assert "library_name: onnx" in card
    assert "pruned" in card
    export(loaded, mask, out, overwrite=True)
    assert not (out / "image.onnx").exists()


@pytest.mark.parametrize(
    ("kind", "tower", "prunes"),
    [
        ("siglip2", "text", False),
        ("chinese_clip", "image", True),
        ("clip_vision_model", "image", True),
    ],
)
def test_models_of_transformers_go_to_onnx_with_their_tokenizer(kind, tower, prunes, tmp_path, photo):
    model = load_model(f"hf-dir:{write_transformers_model(tmp_path / 'm', kind)}")
    mask, out = mask_file(model, "L0H1,L1H0", tower), tmp_path / "out"
    export(model, mask, out, prune=prunes, format="onnx")
    found = code_of(out)
    with torch.no_grad(), ablate(model.clip, mask):
        assert_close(
            torch.from_numpy(found["image_embeddings"]), model.clip.encode_image(model.preprocess(photo)[None])
        )
        if kind == "clip_vision_model":
            assert not (out / "text.onnx").exists()
        else:
            tokens = model.tokenizer(["a photo of a dog"])
            assert_close(torch.from_numpy(found["text_embeddings"]), model.clip.encode_text(tokens))
    # All of it is ours, the tokenizer included, so it is replaced.
    (out / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        export(model, mask, out, format="onnx", overwrite=True)
    (out / "mine.txt").unlink()
    check_target(out, format="onnx", overwrite=True)


def test_a_multilingual_text_tower_keeps_its_tokenizer(tmp_path):
    loaded = load_model(f"local-dir:{write_chinese_model(tmp_path / 'model')}")
    export(loaded, mask_file(loaded), tmp_path / "out", format="onnx")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(["一只狗", "night"])
    with torch.no_grad():
        assert_close(embedded(tmp_path / "out" / "text.onnx", tokens), loaded.clip.encode_text(tokens))


def test_large_weights_go_into_a_file_of_their_own(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "MAX_BYTES", 1000)
    out, mask = tmp_path / "out", mask_file(loaded)
    export(loaded, mask, out, format="onnx")
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted([*FILES, "image.onnx.data", "text.onnx.data"])
    images = probe_images(loaded.clip, 2, seed=5)
    with torch.no_grad():
        assert_close(embedded(out / "image.onnx", images), fold(loaded.clip, mask).encode_image(images))
    check_target(out, format="onnx", overwrite=True)


def test_onnx_of_another_producer_is_not_replaced(loaded, exported, tmp_path):
    folder, _ = exported
    with pytest.raises(OutputError, match=r"exist"):
        export(loaded, mask_file(loaded), folder, format="onnx")
    for name in FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes().replace(b"\x08headmask", b"\x08somebody", 1))
    with pytest.raises(OutputError, match=r"image\.onnx"):
        export(loaded, mask_file(loaded), tmp_path, format="onnx", overwrite=True)


@pytest.mark.parametrize("name", ["out.safetensors", "out.onnx"])
def test_a_file_is_refused(loaded, tmp_path, name):
    with pytest.raises(MaskFileError, match=r"is a folder of image\.onnx and text\.onnx; choose a name that does not"):
        export(loaded, mask_file(loaded), tmp_path / name, format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_models_that_are_not_equal_are_not_kept(loaded, exported, tmp_path, monkeypatch):
    names = ("image.onnx", "text.onnx")
    monkeypatch.setattr(onnx, "write", lambda clip, to, inputs: [shutil.copy(exported[0] / name, to) for name in names])
    with pytest.raises(AblationError, match="not equal to the masked one: embeddings differ by"):
        export(loaded, mask_file(loaded, "L2H1"), tmp_path / "out", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_tower_that_torch_cannot_express_is_refused_by_name(loaded, tmp_path):
    class Odd(torch.nn.Module):
        def encode_image(self, images):
            raise RuntimeError("no graph of it")

    with pytest.raises(AblationError, match="the image tower cannot be written as ONNX: "):
        onnx.write(Odd(), tmp_path, {"image.onnx": probe_images(loaded.clip, 2)})


def test_without_the_extra_the_message_names_it_before_anything_is_loaded(headmask, loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name != "onnx" else object())
    with pytest.raises(ModelError, match=r"needs onnxruntime and onnxscript: pip install 'headmask\[onnx\]'"):
        export(loaded, mask_file(loaded), tmp_path / "out", format="onnx")
    mask_file(loaded, model={"name": "nothing-of-that-name", "weights_sha256": "0" * 64}).write(tmp_path / "mask.json")
    code, _, err = headmask("export", "--mask", tmp_path / "mask.json", "--out", tmp_path / "out", "--format", "onnx")
    assert code == 2
    assert "--format onnx needs onnxruntime and onnxscript: pip install 'headmask[onnx]'" in " ".join(err.split())


def test_the_command_says_what_loads_the_export(headmask, loaded, tmp_path):
    mask_file(loaded).write(tmp_path / "mask.json")
    command = ["export", "--mask", tmp_path / "mask.json", "--out", tmp_path / "out", "--format", "onnx", "--prune"]
    code, out, err = headmask(*command)
    assert (code, err) == (0, "")
    assert "6 heads pruned. Loaded by ONNX Runtime, its embeddings differ from the masked" in " ".join(out.split())
    assert ", by torch, median" in (tmp_path / "out" / "README.md").read_text()
