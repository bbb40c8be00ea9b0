"""How images are prepared: as the weights say, or as all tags of their architecture do, or not without asking."""

import json
from dataclasses import asdict

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg
from safetensors import safe_open

import headmask
from headmask.apply.exporting import export
from headmask.apply.masked import load_for
from headmask.errors import MaskFileError, ModelError
from headmask.maskfile import Grid, MaskFile
from headmask.models.loading import choose_preprocessing, load_model
from headmask.models.origin import find_origin
from headmask.pixels.preprocessing import DEFAULT, GivenPreprocessing, Preprocessing, read_preprocessing
from tests.tiny import PREPROCESS, TEXT, VISION, tiny_clip

ORDER = ("mean", "std", "resize_mode", "interpolation")
CONFIG = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}


@pytest.fixture
def weights(tmp_path):
    """A checkpoint file that says nothing of preprocessing."""
    torch.save(tiny_clip(text=TEXT).state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


@pytest.fixture
def custom(tmp_path, weights):
    """A tiny architecture of one's own, with its weights."""
    (tmp_path / "my.json").write_text(json.dumps(CONFIG))
    return str(tmp_path / "my.json"), str(weights)


def chosen(name, weights, **options):
    given, why = choose_preprocessing(find_origin(name, str(weights)), **options)
    return given.changes(), why


def test_the_default_is_that_of_open_clip():
    assert {name: value for name, value in asdict(PreprocessCfg()).items() if name != "size"} == DEFAULT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B-16-SigLIP", ((0.5,) * 3, (0.5,) * 3, "squash", "bicubic")),
        ("PE-Core-B-16", ((0.5,) * 3, (0.5,) * 3, "squash", "bilinear")),
        ("MobileCLIP-B", ((0.0,) * 3, (1.0,) * 3, "shortest", "bilinear")),
        ("ViT-B-32", tuple(DEFAULT[name] for name in ORDER)),
    ],
)
def test_a_file_is_prepared_for_as_all_tags_of_its_architecture_agree(weights, name, expected):
    found, why = chosen(name, weights)
    assert tuple(found[name] for name in ORDER) == expected
    assert "pretrained tag" in why


def test_a_configuration_equal_to_one_of_open_clip_has_its_tags(tmp_path, weights):
    (tmp_path / "my.json").write_text(json.dumps(open_clip.get_model_config("ViT-B-16-SigLIP-512")))
    found, _ = chosen(str(tmp_path / "my.json"), weights)
    assert found["resize_mode"] == "squash"


def test_tags_that_differ_are_asked_about(weights):
    with pytest.raises(ModelError, match=r"Pass --preprocess .* openai \(as 10 others\) or laion2b_s32b_b82k"):
        chosen("ViT-L-14", weights)
    assert chosen("ViT-L-14", weights, asked="laion2b_s32b_b82k")[0]["mean"] == (0.5, 0.5, 0.5)
    assert chosen("ViT-L-14", weights, asked="metaclip_400m")[0]["mean"] == DEFAULT["mean"]


def test_an_architecture_without_tags_gets_the_default_and_a_word(weights):
    found, why = chosen("ViT-M-32", weights)
    assert found == {}
    assert "there are no pretrained tags" in why


def test_a_folder_that_says_nothing_is_said_so_too(tmp_path, tiny_files):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    torch.save(tiny_clip(text=TEXT).state_dict(), folder / "model.pth")
    assert "nothing comes with the weights" in load_model(f"local-dir:{folder}").notes[-1]
    assert "as the weights say: 28 x 28 pixels" in load_model(f"local-dir:{tiny_files[0]}").notes[-1]


def test_what_is_asked_for_is_used_recorded_and_said(tmp_path, custom):
    (tmp_path / "p.json").write_text(json.dumps({"mean": 0.5, "resize_mode": "squash"}))
    loaded = load_model(*custom, preprocess=tmp_path / "p.json")
    assert list(loaded.preprocess.transforms[-1].mean) == [0.5, 0.5, 0.5]
    assert type(loaded.preprocess.transforms[0]).__name__ == "Resize"
    assert loaded.reference.preprocess.mean == (0.5, 0.5, 0.5)
    assert loaded.weights_sha256[:12] in loaded.notes[-1]
    assert "p.json says: 28 x 28 pixels, both sides resized (bicubic), mean 0.5 0.5 0.5" in loaded.notes[-1]


def test_files_that_hold_preprocessing_are_read_whatever_they_are(tmp_path):
    whole = Preprocessing.of({**PREPROCESS, "resize_mode": "shortest"})
    (tmp_path / "bare.json").write_text(json.dumps(PREPROCESS))
    (tmp_path / "config.json").write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": PREPROCESS}))
    (tmp_path / "mask.json").write_text(json.dumps({"model": {"preprocess": whole.model_dump()}}))
    for name in ("bare", "config", "mask"):
        assert read_preprocessing(tmp_path / f"{name}.json").std == (0.25, 0.25, 0.25)


def mask_of(loaded):
    return MaskFile(model=loaded.reference, grid=Grid(layers=3, heads=4), heads=("L0H1",))


def test_a_mask_is_refused_where_images_are_prepared_in_another_way(tmp_path, custom):
    loaded = load_model(*custom, preprocess=GivenPreprocessing(mean=0.5))
    mask = mask_of(loaded)
    message = "other preprocessing than .*my.json.*: mean 0.48.* against 0.5 0.5 0.5. Pass the mask file to"
    other = load_model(*custom)
    for use in (lambda: mask.check_model(other.reference), lambda: export(other, mask, tmp_path / "o")):
        with pytest.raises(MaskFileError, match=message):
            use()
    with pytest.raises(MaskFileError, match=message):
        headmask.load(other, mask)
    mask.write(tmp_path / "mask.json")
    assert load_model(*custom, preprocess=tmp_path / "mask.json").preprocessing.mean == (0.5, 0.5, 0.5)


def test_weights_that_say_nothing_are_prepared_for_as_the_mask_says(tmp_path, custom):
    mask = mask_of(load_model(*custom, preprocess=GivenPreprocessing(mean=0.5)))
    found = load_for(mask)
    assert found.preprocessing.mean == (0.5, 0.5, 0.5)
    assert "the mask file says" in found.notes[-1]


def test_an_export_in_one_file_carries_its_preprocessing_along(tmp_path, custom):
    loaded = load_model(*custom, preprocess=GivenPreprocessing(mean=0.5, interpolation="bilinear"))
    out = tmp_path / "folded.safetensors"
    proof = export(loaded, mask_of(loaded), out)
    again = load_model(custom[0], str(out))
    assert again.preprocessing == loaded.preprocessing
    assert "as the weights say" in again.notes[-1]
    register, create = proof.how_to_load.split("; ")
    exec(register)
    assert Preprocessing.of(eval(create).visual.preprocess_cfg) == loaded.preprocessing
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["preprocess_cfg"])["interpolation"] == "bilinear"


def test_the_call_that_loads_an_export_in_stock_open_clip_has_the_preprocessing(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny-mean.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / "configs")
    torch.save(tiny_clip(text=TEXT).state_dict(), tmp_path / "w.pt")
    loaded = load_model("tiny-mean", str(tmp_path / "w.pt"), preprocess=GivenPreprocessing(mean=0.5))
    proof = export(loaded, mask_of(loaded), tmp_path / "folded.safetensors")
    assert Preprocessing.of(eval(proof.how_to_load).visual.preprocess_cfg) == loaded.preprocessing
