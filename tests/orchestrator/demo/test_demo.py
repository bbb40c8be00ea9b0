"""The demo's scenes and assets."""

import io
import lzma
import os
import signal
import subprocess
import sys
from importlib.resources import files

import numpy as np
import open_clip
import pytest
from PIL import Image

from headmask.errors import OutputError
from orchestrator.demo import check_demo, scenes, train, unpack_demo
from orchestrator.demo.scenes import KINDS, SPLIT_SIZES, downstream_rows, draw_scene, render, unique_scenes
from tests.orchestrator.studies import outcome, trials
from workers.data.dataset import Dataset

SHIPPED_SEED = 7


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    return unpack_demo(tmp_path_factory.mktemp("demo"))


def test_the_shipped_scenes_are_those_of_the_script(shipped):
    dataset, rows = Dataset(shipped.data), downstream_rows(SHIPPED_SEED)
    captions, splits, images = dataset.captions(), dataset.splits(), dataset.images()
    for number, (image, expected, split) in zip(range(20), rows, strict=False):
        assert captions[number] == expected
        assert splits[number] == split
        ours, theirs = (np.asarray(Image.open(io.BytesIO(each)), dtype=int) for each in (next(images), image))
        assert np.abs(ours - theirs).mean() < 2
    assert {split: splits.count(split) for split in SPLIT_SIZES} == SPLIT_SIZES


def test_captions_are_unique_within_a_split(shipped):
    dataset = Dataset(shipped.data)
    for split in SPLIT_SIZES:
        texts = [
            text
            for texts, each in zip(dataset.captions(), dataset.splits(), strict=True)
            if each == split
            for text in texts
        ]
        assert len(set(texts)) == len(texts)


def test_the_assets_are_small():
    folder = files("orchestrator.demo") / "assets"
    assert sum(len(path.read_bytes()) for path in folder.iterdir()) < 8e6


def test_the_descriptions_are_in_the_words_of_the_captions(shipped):
    words = {word for captions in Dataset(shipped.data).captions() for text in captions for word in text.split()}
    texts = shipped.descriptions.read_text().splitlines()
    assert len(texts) == len(set(texts)) > 80
    assert {word for text in texts for word in text.split()} == words


def test_unpacking_again_keeps_what_is_there(shipped):
    before = [each.stat().st_mtime_ns for each in shipped.model.iterdir()]
    assert unpack_demo(shipped.model.parent) == shipped
    assert [each.stat().st_mtime_ns for each in shipped.model.iterdir()] == before


def test_demo_does_not_run_on_what_others_put_there(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "open_clip_config.json").write_text("changed")
    (tmp_path / "scenes.parquet").write_text("my own scenes")
    for refused in (check_demo, unpack_demo):
        with pytest.raises(OutputError, match=r"open_clip_config.json exists and is not the demo's own file"):
            refused(tmp_path)
    with pytest.raises(OutputError, match=r"scenes.parquet exists and is not the demo's own file"):
        check_demo(tmp_path)
    assert (tmp_path / "model" / "open_clip_config.json").read_text() == "changed"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model", "scenes.parquet"]


@pytest.mark.parametrize(("cue", "low", "high"), [(0.0, 0.12, 0.22), (0.95, 0.93, 0.98)])
def test_backgrounds_follow_the_cue(cue, low, high):
    rng = np.random.default_rng(0)
    drawn = [draw_scene(rng, cue=cue) for _ in range(3000)]
    assert low < np.mean([scene.background == KINDS.index(scene.first.kind) for scene in drawn]) < high


def test_captions_say_where_the_shapes_are():
    """The first shape lies left of, or above, the second: so do its pixels."""
    rng = np.random.default_rng(1)
    seen = set()
    for scene in unique_scenes(rng, 200, cue=0.0):
        if {scene.first.colour, scene.second.colour} != {"red", "blue"} or "ring" in str(scene):
            continue
        pixels = np.asarray(render(scene, rng), dtype=int)
        reddish = (pixels[..., 0] - pixels[..., 2]) > 100
        bluish = (pixels[..., 2] - pixels[..., 0]) > 100
        axis = 1 if scene.relation == "left of" else 0
        red, blue = (np.argwhere(where)[:, axis].mean() for where in (reddish, bluish))
        assert (red < blue) == (scene.first.colour == "red")
        seen.add(scene.relation)
    assert seen == {"left of", "above"}


def test_the_same_seed_draws_the_same_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "SPLIT_SIZES", {"search": 5, "confirm": 5, "test": 5})
    for name, seed, cue in (("a", 1, 0.0), ("b", 1, 0.0), ("c", 2, 0.0), ("d", 1, 1.0)):
        scenes.write_downstream(tmp_path / name, seed, cue=cue)
    a, b, c, d = ((tmp_path / name).read_bytes() for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_training_writes_a_model_that_open_clip_loads(tmp_path, monkeypatch):
    """A few steps of the real script."""
    monkeypatch.setattr(train, "NUM_SCENES", 64)
    monkeypatch.setattr(train, "BATCH", 16)
    train.write_model(train.train(0, steps=3), tmp_path)
    (tmp_path / "open_clip_model.safetensors").write_bytes(lzma.decompress((tmp_path / train.MODEL_FILE).read_bytes()))
    model = open_clip.create_model(f"local-dir:{tmp_path}")
    assert len(model.visual.transformer.resblocks) == 8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_killed_at_arbitrary_moments_equals_an_undisturbed_one(tmp_path):
    """48 heads, 400 masks, Ray on this machine, SIGKILL after random times, resumed until it ends."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    headmask = [sys.executable, "-m", "orchestrator.cli"]

    def run(command, kill_after=None):
        process = subprocess.Popen([*headmask, *command], env=environment, stdout=subprocess.DEVNULL)
        try:
            return process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    assert run(["demo", "--out", str(tmp_path / "whole" / "demo")]) == 0
    folder, rng, kills = tmp_path / "killed" / "demo", np.random.default_rng(), 0
    while not (folder / "result.json").exists():
        started = (folder / "config.json").exists()
        command = ["resume", str(folder)] if started else ["demo", "--out", str(folder)]
        status = run(command, kill_after=float(rng.uniform(12, 30)) if kills < 8 else None)
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
    assert kills
    assert trials(folder) == trials(tmp_path / "whole" / "demo")
    assert outcome(folder) == outcome(tmp_path / "whole" / "demo")
    assert outcome(folder)["verdict"] == "reliable improvement"
