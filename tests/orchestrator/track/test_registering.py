"""Registered models: loaded where there is nothing of headmask, equal to stock open_clip on the folded checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from mlflow import MlflowClient
from PIL import Image

import headmask as library
from headmask.errors import ConfigError, StudyError
from headmask.maskfile import MaskFile
from orchestrator.run import begin
from orchestrator.run.display import Quiet
from orchestrator.settings.modelname import ModelName
from orchestrator.track import registering
from orchestrator.track.registering import register, requirements
from orchestrator.verdict.decide import Verdict
from tests.orchestrator.studies import start
from tests.tiny import write_tiny_model

pytestmark = pytest.mark.usefixtures("undrawn")

CHAMPION = ModelName("clip", "champion")


@pytest.fixture
def reliable(monkeypatch):
    """Random weights never improve reliably; take whatever wins on confirm for an improvement."""
    monkeypatch.setattr(Verdict, "is_reliable", True)


@pytest.fixture
def found(tiny_config, reliable):
    """The outcome of a search that found something."""
    return start(tiny_config(budget__masks=30))


def store(outcome):
    return f"sqlite:///{outcome.session.config.folder.parent / 'mlflow.db'}"


def test_a_registered_model_loads_where_there_is_nothing_of_headmask(found, tmp_path):
    folder = found.session.config.folder
    registered = register(folder, CHAMPION)
    Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 30, 3), dtype=np.uint8)).save(tmp_path / "i.png")
    script = str(Path(__file__).with_name("served_elsewhere.py"))
    arguments = [registered.uri, store(found), "a red bicycle", str(tmp_path / "i.png")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, *arguments],
        capture_output=True, text=True, timeout=250, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    library.export(found.session.model, MaskFile.read(folder / "mask.json"), tmp_path / "folded")
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'folded'}")
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'folded'}")(["a red bicycle"])
        text_E = F.normalize(clip.eval().encode_text(tokens), dim=-1)[0].numpy()
        with Image.open(tmp_path / "i.png") as image:
            image_E = F.normalize(clip.encode_image(preprocess(image)[None]), dim=-1)[0].numpy()
        unmasked = F.normalize(found.session.model.clip.encode_image(preprocess(image)[None]), dim=-1)[0].numpy()
    assert np.abs(unmasked - image_E).max() > 1e-3
    for row, expected in ((got["text"], [text_E, text_E, None]), (got["image"], [image_E, None, image_E])):
        for each, one in zip(row, expected, strict=True):
            assert (each is None) == (one is None)
            assert each is None or np.abs(np.array(each) - one).max() < 1e-6
    assert got["similarity"][0] == pytest.approx(float(text_E @ image_E), abs=1e-6)
    assert got["similarity"][1:] == [None, None]
    assert np.abs(np.array(got["again"]) - image_E).max() < 1e-6
    assert np.abs(np.array(got["listed"]) - text_E).max() < 1e-6


def test_a_version_says_what_it_is(found):
    folder = found.session.config.folder
    registered = register(folder, CHAMPION)
    client = MlflowClient(tracking_uri=store(found))
    version = client.get_model_version_by_alias("clip", "champion")
    assert (str(version.version), registered.version) == ("1", "1")
    assert version.run_id == found.result.mlflow_run_id
    assert version.tags["headmask.verdict"] == "reliable improvement"
    assert version.tags["headmask.heads"] == ",".join(found.result.selected)
    assert version.tags["headmask.fingerprint"] == found.result.fingerprint
    assert version.description.startswith("**Reliable improvement**: ablating ")
    (output,) = client.get_run(version.run_id).outputs.model_outputs
    assert client.get_logged_model(output.model_id).artifact_location == version.source
    info = mlflow.models.get_model_info(str(folder / "registered"))
    assert info.metadata["headmask.heads"] == ",".join(found.result.selected)
    assert info.signature.inputs.input_names() == ["text", "image"]
    assert info.saved_input_example_info is not None
    files = {path.suffix for path in (folder / "registered").rglob("*") if path.is_file()}
    assert ".safetensors" in files
    assert not files & {".pkl", ".pt", ".pth", ".bin"}
    assert "headmask" not in (folder / "registered" / "requirements.txt").read_text()


def test_registering_again_makes_no_second_version(found):
    folder = found.session.config.folder
    register(folder, CHAMPION)
    assert register(folder, ModelName("clip", "backup")).version == "1"
    client = MlflowClient(tracking_uri=store(found))
    aliases = client.get_registered_model("clip").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {"champion": 1, "backup": 1}


def test_a_half_done_registration_is_completed(found, monkeypatch):
    folder = found.session.config.folder

    def broken(*_, **__):
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(MlflowClient, "create_model_version", broken)
    with pytest.raises(StudyError, match=r"cannot register clip at sqlite.*: the server is gone"):
        register(folder, CHAMPION)
    monkeypatch.undo()
    monkeypatch.setattr(Verdict, "is_reliable", True)
    assert register(folder, CHAMPION).version == "1"
    client = MlflowClient(tracking_uri=store(found))
    experiment = client.get_run(found.result.mlflow_run_id).info.experiment_id
    assert len(client.search_logged_models([experiment])) == 1


class Listening(Quiet):
    """A display that remembers."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_a_search_registers_what_it_found(tiny_config, reliable):
    display = Listening()
    outcome = begin.start(tiny_config(budget__masks=20, output__register_as="clip@champion"), display)
    assert outcome.exit_code == 0
    assert 'Load it with: mlflow.pyfunc.load_model("models:/clip@champion")' in " ".join(display.lines)
    version = MlflowClient(tracking_uri=store(outcome)).get_model_version_by_alias("clip", "champion")
    assert version.run_id == outcome.result.mlflow_run_id


def test_without_a_reliable_improvement_nothing_is_registered_unasked(tiny_config, headmask):
    display = Listening()
    outcome = begin.start(tiny_config(budget__masks=20, output__register_as="clip"), display)
    folder = outcome.session.config.folder
    command = f"headmask track register {folder} --name clip@challenger"
    assert outcome.exit_code == 0
    assert f"nothing is registered; to do it anyway: {command} --candidate" in " ".join(display.lines)
    code, _, said = headmask(*command.split()[1:])
    assert code == 2
    assert "shows no reliable improvement, so its mask.json is the model as it is; --candidate registers" in said
    code, said, _ = headmask(*command.split()[1:], "--candidate")
    assert code == 0
    assert "Registered clip, version 1, alias challenger, at sqlite:///" in said
    version = MlflowClient(tracking_uri=store(outcome)).get_model_version("clip", "1")
    assert version.tags["headmask.verdict"] == "no reliable improvement"


def test_a_search_whose_model_cannot_be_registered_ends_with_exit_code_1(tiny_config, reliable, monkeypatch):
    def broken(*_, **__):
        raise StudyError("the server is gone")

    monkeypatch.setattr(registering, "sync", broken)
    display = Listening()
    outcome = begin.start(tiny_config(budget__masks=20, output__register_as="clip@champion"), display)
    assert outcome.exit_code == 1
    folder = outcome.session.config.folder
    assert f"Do it later with: headmask track register {folder} --name clip@champion" in " ".join(display.lines)


def test_what_cannot_be_folded_is_refused_before_the_search(tiny_config):
    for change in ({"output__register_as": "clip"}, {"output__fold": True}):
        with pytest.raises(ConfigError, match=r"cls does not fold into weights.* Search without --fold and --register"):
            start(tiny_config("cls", search__ablation="cls", **change))
    start(tiny_config("mean", search__ablation="mean", budget__masks=14, output__register_as="clip"))


def test_names_that_mlflow_refuses_are_refused_at_once(tiny_config, tmp_path):
    assert ModelName.parse("clip.retrieval-1") == ModelName("clip.retrieval-1", "challenger")
    for name in ("a/b", "a:b", "", "@champion", "clip@", "clip@latest", "clip@v1", "clip@a@b"):
        with pytest.raises(ConfigError, match=r"a registered model is called NAME or NAME@ALIAS.* got "):
            ModelName.parse(name)
    with pytest.raises(ConfigError, match=r"output\.register_as: a registered model is called NAME"):
        tiny_config(output__register_as="clip@v1")
    with pytest.raises(StudyError, match=r"is not a run folder: it has no result\.json, and no config\.json"):
        register(tmp_path, CHAMPION)


def test_requirements_are_exact_and_know_hugging_face(tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    plain = requirements(folder)
    assert f"torch=={torch.__version__.split('+')[0]}" in plain
    assert {line.split("==")[0] for line in plain} == set(registering.PACKAGES)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "xlm-roberta-base"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert {line.split("==")[0] for line in requirements(folder)} == {*registering.PACKAGES, "transformers"}
