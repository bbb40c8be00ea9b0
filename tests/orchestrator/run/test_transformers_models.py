"""Searches on models of transformers, from folder to verdict: scores are those that transformers itself gives."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from PIL import Image

from headmask.apply.exporting import export
from headmask.errors import ConfigError, ModelError
from headmask.maskfile import MaskFile
from orchestrator.search.preparing import prepare
from orchestrator.settings.config import read_config
from tests.orchestrator.studies import start
from tests.transformers_models import pooled, write_transformers_model
from workers.data.dataset import Dataset
from workers.tasks.retrieval import RetrievalTargets

pytestmark = pytest.mark.usefixtures("undrawn")


@torch.no_grad()
def recall_of(model, folder, data):
    """Return transformers' own mean recall on the test split."""
    dataset = Dataset(data)
    rows = [row for row, split in enumerate(dataset.splits()) if split == "test"]
    encoded, captions = list(dataset.images()), dataset.captions()
    images = [Image.open(io.BytesIO(encoded[row])) for row in rows]
    texts = [caption for row in rows for caption in captions[row]]
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(images=images, return_tensors="pt")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    image_NE = F.normalize(pooled(model.get_image_features(**pixels)), dim=-1)
    text_QE = F.normalize(pooled(model.get_text_features(**tokens)), dim=-1)
    targets = RetrievalTargets(np.repeat(np.arange(len(rows)), [len(captions[row]) for row in rows]))
    return targets.values(targets.measure(image_NE, text_QE))["mean_recall"]


@pytest.mark.parametrize(("kind", "name"), [("clip", "CLIPModel"), ("siglip", "SiglipModel")])
def test_the_baseline_of_a_search_is_what_transformers_scores(tiny_config, tiny_files, tmp_path, kind, name):
    folder = write_transformers_model(tmp_path / "model", kind)
    config = tiny_config(model__name=f"hf-dir:{folder}", budget__masks=20)
    result = start(config).result
    theirs = getattr(transformers, name).from_pretrained(folder).eval()
    assert result.splits.test.baseline["mean_recall"] == pytest.approx(recall_of(theirs, folder, tiny_files[1]))


def test_a_folder_of_transformers_is_named_by_pretrained_alone(tiny_files, tmp_path):
    folder = write_transformers_model(tmp_path / "model", "chinese_clip")
    flags = {"model.pretrained": str(folder), "data.path": str(tiny_files[1]), "output.folder": str(tmp_path / "run")}
    config = read_config(None, flags | {"search.precheck": False})
    assert (config.model.name, config.model.pretrained) == (f"hf-dir:{folder}", None)
    session = prepare(config)
    assert session.config.model.name == f"hf-dir:{folder}"
    assert (session.view.grid.layers, session.view.grid.heads) == (3, 4)


def test_a_model_of_images_alone_is_searched_where_texts_are_not_needed(tiny_config, task_files, tmp_path, headmask):
    folder = write_transformers_model(tmp_path / "model", "clip_vision_model")
    data = str(task_files / "labels.parquet")
    model = {"model__name": f"hf-dir:{folder}", "data__path": data}
    config = tiny_config(**model, data__task="similarity", budget__masks=20)
    assert start(config).result.objective == "map_at_r"
    mask, out = config.folder / "candidate.json", tmp_path / "explained"
    explain = ("explain", "--mask", mask, "--data", data, "--task", "similarity", "--heads", "L0H0", "--out", out)
    assert headmask(*explain)[0] == 0
    with pytest.raises(
        ModelError, match=r"has no text tower, .*a data set of images with labels and --task similarity"
    ):
        prepare(tiny_config("other", **model))


def test_a_reliable_mask_of_a_search_is_folded_into_a_folder_of_transformers(tiny_config, tmp_path, monkeypatch):
    folder = write_transformers_model(tmp_path / "model", "siglip")
    config = tiny_config(model__name=f"hf-dir:{folder}", budget__masks=20, output__fold=True)
    found = start(config)
    mask = MaskFile.read(config.folder / "candidate.json")
    export(prepare(config).model, mask, config.folder / "again")
    assert transformers.SiglipModel.from_pretrained(config.folder / "again").config.model_type == "siglip"
    assert (config.folder / "folded").exists() == (found.result.verdict == "reliable improvement")


def test_a_model_that_open_clip_cannot_build_is_not_registered(tiny_config, tmp_path):
    folder = write_transformers_model(tmp_path / "model", "siglip")
    config = tiny_config(model__name=f"hf-dir:{folder}", output__register_as="clip")
    with pytest.raises(ConfigError, match=r"no architecture for this siglip, .*Search without --register"):
        start(config)
