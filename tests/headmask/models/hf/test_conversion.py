"""Models of transformers: loaded as open_clip's, they compute what transformers itself computes."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from headmask.errors import ModelError
from headmask.models.hf import architecture
from headmask.models.hf.source import TOKENIZERS
from headmask.models.loading import load_model, tokenizer_of
from headmask.tower.towers import grid_of, prove, view_of
from tests.transformers_models import KINDS, pooled, write_transformers_model

TEXTS = ["A picture of a dog", "the cat", "一只猫坐在沙发上", "in again a photo of the number " * 5]
CLASSES = {
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
    "chinese_clip": "ChineseCLIPModel",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "clip_vision_model alone": "CLIPVisionModel",
}
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """A kind, its folder, and the model as headmask and as transformers load it."""
    folder = write_transformers_model(tmp_path_factory.mktemp("hf") / "model", request.param)
    theirs = getattr(transformers, CLASSES[request.param]).from_pretrained(folder).eval()
    return request.param, folder, load_model(f"hf-dir:{folder}"), theirs


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_transformers_model(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture
def copy(clip_folder, tmp_path):
    return shutil.copytree(clip_folder, tmp_path / "copy")


def edited(folder: Path, name: str = "config.json", **changes) -> Path:
    """Change values of a JSON file, those of a part by `part__key`."""
    content = json.loads((folder / name).read_text())
    for key, value in changes.items():
        part, _, inner = key.rpartition("__")
        (content[part] if part else content)[inner] = value
    (folder / name).write_text(json.dumps(content))
    return folder


def photo() -> Image.Image:
    """Return a smooth image that is not square."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 61), torch.linspace(0, 1, 40), indexing="ij")
    colours = torch.stack([rows, columns, (rows * columns)], dim=-1)
    return Image.fromarray((colours * 255).to(torch.uint8).numpy())


def distance(first, second):
    return (F.normalize(first, dim=-1) - F.normalize(second, dim=-1)).abs().max().item()


def their_images(kind, theirs, folder, image):
    """Return transformers' embedding of an image as its own processor prepares it."""
    inputs = transformers.AutoImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")
    if kind.startswith("clip_vision"):
        output = theirs(**inputs)
        return output.image_embeds if kind == "clip_vision_model" else output.pooler_output
    return pooled(theirs.get_image_features(**inputs))


@torch.no_grad()
def test_images_are_embedded_as_by_transformers(pair):
    kind, folder, ours, theirs = pair
    image = photo().resize((28, 28))  # Of the model's size, where resizing has nothing to say.
    found = ours.clip.encode_image(ours.preprocess(image)[None])
    assert distance(found, their_images(kind, theirs, folder, image)) < TOLERANCE


@torch.no_grad()
def test_texts_are_embedded_as_by_transformers(pair):
    kind, folder, ours, theirs = pair
    if kind.startswith("clip_vision"):
        with pytest.raises(ModelError, match="has no text tower, and texts are needed here"):
            ours.tokenizer(TEXTS)
        return
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    found = ours.clip.encode_text(ours.tokenizer(TEXTS))
    assert distance(found, pooled(theirs.get_text_features(**inputs))) < TOLERANCE


@torch.no_grad()
def test_logits_are_those_of_transformers(pair):
    kind, _, ours, theirs = pair
    if kind.startswith("clip_vision") or kind == "siglip2":
        return
    pixels, tokens = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1)), ours.tokenizer(TEXTS)
    mask = {"attention_mask": (tokens != 0).long()} if kind == "chinese_clip" else {}
    expected = theirs(input_ids=tokens, pixel_values=pixels, **mask).logits_per_image
    assert torch.allclose(ours.clip.get_logits(pixels, tokens)[0], expected, atol=1e-4)


def test_images_that_are_not_square_are_prepared_as_by_pillow_in_transformers(pair):
    kind, folder, ours, _ = pair
    if kind == "siglip2":  # Whose processor keeps their shape.
        assert any("one fixed resolution: images of all shapes are made 28 x 28" in note for note in ours.notes)
        return
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    expected = processor(images=photo(), return_tensors="pt").pixel_values[0]
    assert torch.allclose(ours.preprocess(photo()), expected, atol=1e-5)


def test_heads_of_a_converted_tower_are_proven(pair):
    _, _, ours, _ = pair
    view = view_of(ours.clip)
    assert (view.grid.layers, view.grid.heads) == (3, 4)
    prove(view, torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0)), tolerance=1e-5)


def test_heads_of_a_converted_text_tower_are_proven(pair):
    kind, _, ours, _ = pair
    if kind in ("clip", "siglip", "siglip2"):
        assert str(grid_of(ours.clip, "text")) == "2x2"
        prove(view_of(ours.clip, "text"), ours.tokenizer(TEXTS), tolerance=1e-5)


def test_the_note_says_that_both_were_compared(pair):
    kind, _, ours, _ = pair
    what = "images" if kind.startswith("clip_vision") else "images and texts"
    assert f"proven equal to it on {what}: embeddings differ by at most" in ours.notes[0]


@pytest.mark.parametrize(
    ("vision", "text"),
    [
        ({"hidden_act": "gelu"}, {"hidden_act": "gelu"}),
        ({"hidden_act": "gelu_pytorch_tanh"}, {"hidden_act": "gelu"}),
        ({"layer_norm_eps": 1e-3}, {"layer_norm_eps": 1e-2}),
        ({"intermediate_size": 57}, {"intermediate_size": 41}),
        ({}, {"eos_token_id": 2}),
        ({}, {"eos_token_id": 512}),
        ({"patch_size": 14}, {"max_position_embeddings": 13}),
    ],
)
def test_details_of_the_configuration_are_kept(tmp_path, vision, text):
    folder = write_transformers_model(tmp_path / "model", vision=vision, text=text)
    assert "proven equal" in load_model(f"hf-dir:{folder}").notes[0]


def test_a_tokenizer_that_says_what_is_padding_masks_it(tmp_path):
    folder = write_transformers_model(tmp_path / "model", "siglip")
    edited(folder, "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"], pad_token="<pad>")
    texts = ["the cat", "a photo of the dog in the picture"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")
    theirs = transformers.SiglipModel.from_pretrained(folder).eval()
    ours = load_model(f"hf-dir:{folder}")
    with torch.no_grad():
        found = ours.clip.encode_text(ours.tokenizer(texts))
        assert distance(found, pooled(theirs.get_text_features(**inputs))) < TOLERANCE
        assert distance(found, pooled(theirs.get_text_features(input_ids=inputs["input_ids"]))) > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "blip"},
            r"config\.json has model_type 'blip'; supported are clip, chinese_clip, siglip, siglip2, ",
        ),
        (
            {"vision_config__hidden_act": "silu"},
            r"hidden_act of vision_config is 'silu', and open_clip computes only with",
        ),
        (
            {"text_config__hidden_act": "gelu"},
            r"text_config\.hidden_act is gelu: open_clip has quick_gelu in both towers",
        ),
        (
            {"text_config__eos_token_id": [1, 2]},
            r"text_config\.eos_token_id is \[1, 2\], and open_clip computes only with",
        ),
        ({"vision_config__image_size": [28, 56]}, r"image_size of the image tower is .*28, 56.*only with a square"),
        (
            {"vision_config__num_channels": 1},
            r"num_channels of the image tower is 1, and open_clip computes only with 3",
        ),
        (
            {"vision_config__num_attention_heads": 5},
            r"32.* is not a multiple of .*num_attention_heads|cannot load the config.json of .*32.* is not a multiple",
        ),
        (
            {"vision_config__num_hidden_layers": 4},
            r"not those of its config\.json: 16 tensors are missing, such as vision_m",
        ),
        (
            {"vision_config__num_hidden_layers": 2},
            r"16 tensors are not expected, such as vision_model\.encoder\.layers\.2",
        ),
        ({"projection_dim": 8}, r"cannot load the weights of .*size|tensors are of another shape"),
    ],
)
def test_what_open_clip_cannot_compute_is_refused_by_name(copy, changes, message):
    edited(copy, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(f"hf-dir:{copy}")


def test_a_model_that_computes_something_else_is_refused(copy, monkeypatch):
    monkeypatch.setitem(architecture._ACTIVATIONS, "quick_gelu", "gelu")
    with pytest.raises(ModelError, match=r"its clip computes something else, embeddings of images differ by"):
        load_model(f"hf-dir:{copy}")


def test_without_transformers_the_error_names_the_extra(clip_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"needs Hugging Face's transformers: pip install 'headmask\[transformers\]'"):
        load_model(f"hf-dir:{clip_folder}")


# Files.


def test_a_folder_goes_to_pretrained_alone(clip_folder):
    assert load_model(pretrained=str(clip_folder)).reference == load_model(f"hf-dir:{clip_folder}").reference
    with pytest.raises(
        ModelError, match=r"is a folder of transformers, which is a whole model: pass it without --model"
    ):
        load_model("ViT-B-32", str(clip_folder))
    with pytest.raises(ModelError, match=r"brings its own weights; leave out pretrained \(openai\)"):
        load_model(f"hf-dir:{clip_folder}", "openai")


def test_weights_in_parts_and_in_half_precision_are_read(clip_folder, tmp_path):
    model = transformers.CLIPModel.from_pretrained(clip_folder)
    parts = shutil.copytree(clip_folder, tmp_path / "parts")
    (parts / "model.safetensors").unlink()
    model.save_pretrained(parts, max_shard_size="40KB")
    assert len(list(parts.glob("model-*.safetensors"))) > 2
    whole = load_model(f"hf-dir:{clip_folder}")
    assert load_model(f"hf-dir:{parts}").weights_sha256 == whole.weights_sha256
    half = shutil.copytree(clip_folder, tmp_path / "half")
    model.bfloat16().save_pretrained(half)
    loaded = load_model(f"hf-dir:{half}")
    assert loaded.clip.visual.proj.dtype == torch.float32
    assert loaded.weights_sha256 != whole.weights_sha256


def test_a_bin_is_read_and_code_in_it_is_not_run(copy):
    expected = load_model(f"hf-dir:{copy}").weights_sha256
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    assert load_model(f"hf-dir:{copy}").weights_sha256 == expected
    torch.save({**state, "harm": Malicious(copy / "owned")}, copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot load the weights of"):
        load_model(f"hf-dir:{copy}")
    assert not (copy / "owned").exists()


def test_parts_of_a_bin_are_read_by_their_index(copy):
    expected = load_model(f"hf-dir:{copy}").weights_sha256
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names, index = sorted(state), {"metadata": {}, "weight_map": {}}
    for number, part in enumerate((names[:40], names[40:]), 1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: state[name] for name in part}, copy / file)
        index["weight_map"] |= dict.fromkeys(part, file)
    (copy / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert load_model(f"hf-dir:{copy}").weights_sha256 == expected
    (copy / file).unlink()
    with pytest.raises(ModelError, match="cannot load the weights of"):
        load_model(f"hf-dir:{copy}")


class Malicious:
    """Leaves a file behind when it is unpickled by somebody who trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_weights_that_are_damaged_or_missing_are_refused(copy):
    (copy / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="is a pointer of Git LFS, not the weights"):
        load_model(f"hf-dir:{copy}")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights: transformers looks for model\.safetensors"):
        load_model(f"hf-dir:{copy}")


def test_weights_that_are_no_numbers_are_refused(copy):
    state = load_file(copy / "model.safetensors")
    state["visual_projection.weight"] = torch.full_like(state["visual_projection.weight"], float("nan"))
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="embeddings of images differ by nan"):
        load_model(f"hf-dir:{copy}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"size": {"shortest_edge": 32}},
            r"resizes the shorter side to 32 pixels and then crops to height 28, width 28",
        ),
        ({"resample": 1}, r"interpolates by resample 1; open_clip knows 2 \(bilinear\) and 3"),
        ({"do_resize": False}, r"does not resize images \(do_resize is false\)"),
        ({"rescale_factor": 1.0}, r"does not scale pixels by 1/255"),
        ({"size": {"longest_edge": 28}}, r"resizes images to longest_edge 28, which open_clip cannot"),
    ],
)
def test_preprocessing_that_open_clip_does_not_have_is_refused_unless_another_is_named(copy, changes, message):
    edited(copy, "preprocessor_config.json", **changes)
    with pytest.raises(ModelError, match=rf"is unknown: the image processor of .* {message}.*--preprocess"):
        load_model(f"hf-dir:{copy}")
    assert "as OpenAI did" in load_model(f"hf-dir:{copy}", preprocess="openai").notes[-1]


def test_a_folder_without_a_processor_or_a_tokenizer_is_refused(copy):
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"has no preprocessor_config.json. Say it with --preprocess"):
        load_model(f"hf-dir:{copy}")
    for each in copy.iterdir():
        if "token" in each.name or each.name in TOKENIZERS:
            each.unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer: put its files beside config\.json, tokenizer\.json"):
        tokenizer_of(f"hf-dir:{copy}")


# Repositories.


@pytest.fixture
def repository(clip_folder, tmp_path, monkeypatch):
    """The name of a repository that was fetched once, and is read offline."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--org--clip" / "snapshots" / ("0" * 40)
    shutil.copytree(clip_folder, snapshot)
    (cache / "models--org--clip" / "refs").mkdir()
    (cache / "models--org--clip" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for module in ("hub", "tokenizer", "hf.source", "loading"):
        monkeypatch.setattr(f"headmask.models.{module}.hub_cache", lambda: str(cache))
    return "hf-hub:org/clip"


def test_a_repository_that_was_fetched_once_is_read_offline(repository, clip_folder):
    loaded = load_model(repository)
    assert loaded.weights_sha256 == load_model(f"hf-dir:{clip_folder}").weights_sha256
    assert loaded.reference.name == repository
    assert torch.equal(loaded.tokenizer(TEXTS), tokenizer_of(repository)(TEXTS))


def test_a_repository_that_was_not_fetched_is_refused_offline(repository):
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set, and it is not in the cache"):
        load_model(f"{repository}-2")
