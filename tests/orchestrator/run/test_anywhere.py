"""Paths in a study and in a mask file hold from any folder."""

import json
import shutil

import torch

from orchestrator.settings.location import located
from tests.tiny import TEXT, VISION, tiny_clip, write_tiny_dataset


def test_a_study_of_an_architecture_of_ones_own_goes_on_from_another_folder(
    headmask, tmp_path, monkeypatch, empty_mlflow
):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    write_tiny_dataset(here / "d.parquet")
    (here / "my.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}))
    (here / "p.json").write_text(json.dumps({"mean": 0.5, "std": 0.25}))
    torch.save(tiny_clip(text=TEXT).state_dict(), here / "weights.pt")
    shutil.copyfile(empty_mlflow, here / "mlflow.db")
    monkeypatch.chdir(here)
    model = ["--model", "my.json", "--pretrained", "weights.pt", "--preprocess", "p.json"]
    options = ["--pool", "inline", "--strategy", "scan", "--no-precheck", "--image-chunk", "16", "--masks", "13"]
    code, out, err = headmask("search", *model, "--data", "d.parquet", "--out", "r", *options)
    assert (code, err) == (0, ""), err
    assert "images are prepared as p.json says: 28 x 28 pixels" in out
    content = json.loads((here / "r" / "mask.json").read_text())["model"]
    assert (content["name"], content["pretrained"]) == (str(here / "my.json"), str(here / "weights.pt"))
    assert content["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    monkeypatch.chdir(there)
    code, out, err = headmask("resume", here / "r", "--masks", "14")
    assert (code, err) == (0, ""), err
    code, out, err = headmask("eval", "--mask", here / "r" / "mask.json", "--data", here / "d.parquet")
    assert (code, err) == (0, ""), err
    assert "images are prepared as the mask file says" in out
    (here / "weights.pt").unlink()
    code, out, err = headmask("resume", here / "r", "--masks", "15")
    assert code == 2
    assert f"there is no file {here / 'weights.pt'}" in err


def test_locations_are_absolute_and_urls_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located("s.journal") == str(tmp_path / "s.journal")
    assert located("sqlite:///s.db") == f"sqlite:///{tmp_path}/s.db"
    for url in ("sqlite:////a/s.db", "sqlite://", "sqlite:///:memory:", "postgresql://u@h/db", "http://h:5000"):
        assert located(url) == url
