"""Exports to transformers: what came from there is written as a folder that it loads, equal to the masked model."""

import json
import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from PIL import Image

import headmask
from headmask.apply.exporting import check_target, export
from headmask.apply.live import ablate, calibrate_means
from headmask.errors import AblationError, MaskFileError, ModelError, OutputError
from headmask.mask import HeadMask
from headmask.maskfile import Grid, MaskFile
from headmask.models.loading import load_model
from headmask.tower.towers import grid_of
from tests.transformers_models import KINDS, pooled, write_transformers_model

TEXTS = ["a picture of the dog", "一只猫", "in again"]
CLASSES = {
    "clip": transformers.CLIPModel,
    "siglip": transformers.SiglipModel,
    "siglip2": transformers.Siglip2Model,
    "chinese_clip": transformers.ChineseCLIPModel,
    "clip_vision_model": transformers.CLIPVisionModelWithProjection,
    "clip_vision_model alone": transformers.CLIPVisionModel,
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Loads the model of a kind, each once."""
    found = {}

    def load(kind):
        if kind not in found:
            found[kind] = load_model(f"hf-dir:{write_transformers_model(tmp_path_factory.mktemp('hf') / 'm', kind)}")
        return found[kind]

    return load


def mask_file(model, heads="L0H1,L1H3,L2H0", tower="image", **changes):
    grid = grid_of(model.clip, tower)
    content = {
        "model": model.reference,
        "tower": tower,
        "grid": Grid(layers=grid.layers, heads=grid.heads),
        "heads": tuple(map(str, HeadMask.from_text(grid, heads).heads)),
    }
    return MaskFile(**{**content, **changes})


def features(theirs, folder, images, texts):
    """Return transformers' embeddings of images and texts, with the processor in the folder."""
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(images=images, return_tensors="pt")
    with torch.no_grad():
        if isinstance(theirs, transformers.CLIPVisionModelWithProjection):
            return [theirs(**pixels).image_embeds]
        if isinstance(theirs, transformers.CLIPVisionModel):
            return [theirs(**pixels).pooler_output]
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
        return [pooled(theirs.get_image_features(**pixels)), pooled(theirs.get_text_features(**tokens))]


def pictures():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (3, 28, 28, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(each.numpy()) for each in noise]


def test_what_came_from_transformers_goes_back_as_the_masked_model(models, kind, tmp_path):
    model = models(kind)
    mask, out = mask_file(model), tmp_path / "out"
    proof = export(model, mask, out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = features(CLASSES[kind].from_pretrained(out).eval(), out, pictures(), TEXTS)
    with torch.no_grad(), ablate(model.clip, mask):
        masked = [model.clip.encode_image(torch.stack([model.preprocess(each) for each in pictures()]))]
        if len(found) > 1:
            masked.append(model.clip.encode_text(model.tokenizer(TEXTS)))
    for ours, theirs in zip(masked, found, strict=True):
        assert (F.normalize(ours, dim=-1) - F.normalize(theirs, dim=-1)).abs().max() < 1e-5
    with torch.no_grad():
        plain = model.clip.encode_image(torch.stack([model.preprocess(each) for each in pictures()]))
    assert (F.normalize(plain, dim=-1) - F.normalize(found[0], dim=-1)).abs().max() > 1e-3
    assert proof.max_difference <= proof.tolerance == 1e-5
    assert proof.how_to_load == f'transformers.{CLASSES[kind].__name__}.from_pretrained("{out}")'


def test_the_folder_holds_the_processor_the_mask_and_a_card(models, tmp_path):
    model, out = models("clip"), tmp_path / "out"
    export(model, mask_file(model), out, format="transformers")
    names = {each.name for each in out.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "mask.json", "README.md"} <= names
    processor = transformers.AutoProcessor.from_pretrained(out)
    assert set(processor(text=["a dog"], images=pictures()[0], return_tensors="pt")) >= {"input_ids", "pixel_values"}
    card = (out / "README.md").read_text()
    assert "library_name: transformers" in card
    assert 'model = transformers.CLIPModel.from_pretrained("PATH")  # of this folder' in card


def test_an_export_loads_again_with_its_pixel_rule_and_is_replaced_on_request(models, tmp_path):
    model, out = models("siglip"), tmp_path / "out"
    export(model, mask_file(model, pixels="composited"), out)
    assert "Images were scored *composited*" in (out / "README.md").read_text()
    again = headmask.load_model(f"hf-dir:{out}")
    assert type(again.preprocess.transforms[0]).__name__ == "Composited"
    with pytest.raises(OutputError, match="exists"):
        check_target(out)
    export(model, mask_file(model, pixels="stock"), out, overwrite=True)
    (out / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        export(model, mask_file(model), out, overwrite=True)


def test_a_mask_on_the_text_tower_goes_back(models, tmp_path):
    model = models("siglip2")
    mask = mask_file(model, "L0H1,L1H0", "text")
    assert export(model, mask, tmp_path / "out").format == "transformers"


@pytest.mark.parametrize("ablation", ["uniform", "mean"])
def test_other_ablations_go_back_where_they_fold(models, tmp_path, ablation):
    model = models("siglip")
    images = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(3))
    means = calibrate_means(model.clip, lambda: model.clip.encode_image(images))
    by_head = {
        str(each): means[each].tolist() for each in HeadMask.from_text(grid_of(model.clip), "L0H1,L1H3,L2H0").heads
    }
    mask = mask_file(model, ablation=ablation, means=by_head if ablation == "mean" else None)
    export(model, mask, tmp_path / "out")


def test_a_named_preprocessing_is_written_as_a_processor(tmp_path):
    folder = write_transformers_model(tmp_path / "m")
    asked = tmp_path / "p.json"
    asked.write_text(json.dumps({"resize_mode": "squash", "mean": 0.5, "std": 0.25, "interpolation": "bilinear"}))
    model = load_model(f"hf-dir:{folder}", preprocess=str(asked))
    export(model, mask_file(model), tmp_path / "out")
    again = load_model(f"hf-dir:{tmp_path / 'out'}")
    assert again.preprocessing == model.preprocessing
    asked.write_text(json.dumps({"resize_mode": "longest"}))
    other = load_model(f"hf-dir:{folder}", preprocess=str(asked))
    with pytest.raises(ModelError, match=r"no image processor that prepares images as .*leave out --preprocess"):
        export(other, mask_file(other), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_that_is_not_equal_is_not_kept(models, tmp_path, monkeypatch):
    model = models("clip")
    monkeypatch.setattr("headmask.apply.exporting.fold", lambda clip, mask: clip)
    with pytest.raises(AblationError, match="is not equal to the masked one: embeddings differ by"):
        export(model, mask_file(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_clip_from_transformers_goes_to_open_clip_folded_and_pruned(models, tmp_path):
    model = models("clip")
    mask = mask_file(model)
    proof = export(model, mask, tmp_path / "folded", format="open_clip")
    assert proof.how_to_load == f'open_clip.create_model("local-dir:{tmp_path / "folded"}")'
    export(model, mask, tmp_path / "pruned", prune=True)
    pruned = headmask.load_pruned(tmp_path / "pruned")
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(5))
    with torch.no_grad(), ablate(model.clip, mask):
        assert (pruned.clip.encode_image(images) - model.clip.encode_image(images)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("siglip", {"format": "open_clip"}, r"no architecture for this siglip, .*: pass --format transformers"),
        ("chinese_clip", {"prune": True}, r"no architecture for this chinese_clip, .*: leave out --prune"),
        (
            "clip_vision_model",
            {"format": "open_clip"},
            r"has no text tower, and models of open_clip have one: pass --form",
        ),
        (
            "clip",
            {"format": "transformers", "prune": True},
            r"as many heads: leave out --prune or --format transformers",
        ),
    ],
)
def test_formats_that_a_model_cannot_have_are_refused(models, tmp_path, kind, options, message):
    model = models(kind)
    with pytest.raises(ModelError, match=message):
        export(model, mask_file(model), tmp_path / "out", **options)


def test_a_file_is_refused_for_a_model_of_transformers(models, tmp_path):
    model = models("clip")
    with pytest.raises(ModelError, match="choose a folder, not a file"):
        export(model, mask_file(model), tmp_path / "out.safetensors")


def test_a_model_of_open_clip_does_not_go_to_transformers(tiny_files, tmp_path):
    model = load_model(f"local-dir:{tiny_files[0]}")
    with pytest.raises(ModelError, match="is a model of open_clip, and --format transformers writes what came from"):
        export(model, mask_file(model), tmp_path / "out", format="transformers")


def test_the_command_says_what_loads_the_export(models, tmp_path, headmask):
    model, mask = models("chinese_clip"), tmp_path / "mask.json"
    mask_file(model).write(mask)
    code, out, _ = headmask("export", "--mask", mask, "--out", tmp_path / "out", "--no-latency")
    assert code == 0
    assert "Loaded by stock transformers, its embeddings differ" in " ".join(out.split())
    code, _, err = headmask("export", "--mask", mask, "--out", tmp_path / "o", "--format", "open_clip", "--no-latency")
    assert code == 2
    assert "pass --format transformers" in " ".join(err.split())
    with pytest.raises(MaskFileError, match=r"other weights|made for"):
        export(models("clip"), mask_file(model), tmp_path / "x")
