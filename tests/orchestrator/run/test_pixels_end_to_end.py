"""What a search reports of odd images is what every deployed form of its model scores on them."""

import io
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from mlflow import pyfunc
from PIL import Image

import headmask
from headmask.errors import ConfigError, PixelsChangedError, StudyError
from headmask.maskfile import MaskFile
from orchestrator.run import begin, runner
from orchestrator.run.display import Quiet
from orchestrator.study.looks import ATTR
from orchestrator.study.reopening import stored_config
from orchestrator.study.store import StudyStore
from orchestrator.track.registering import package
from orchestrator.verdict.decide import Verdict
from orchestrator.verdict.evaluate import evaluate_masks
from tests.odd_images import ODD, PLAIN, resizes_wide
from tests.orchestrator.studies import start
from workers.data.dataset import Dataset, Row, write_dataset
from workers.tasks.retrieval import RetrievalTargets

pytestmark = pytest.mark.usefixtures("undrawn")

SPLITS = {"search": 20, "confirm": 20, "test": 24}


def write_images(path, kinds):
    rows = []
    for split, count in SPLITS.items():
        for index in range(count):
            kind = list(kinds)[index % len(kinds)]
            image = kinds[kind](2 * len(rows))
            captions = (f"picture {index} of {split}", f"number {index} in {split} again")
            rows.append(Row(f"{split}{index}", image, captions, split))
    write_dataset(path, rows)
    return path


@pytest.fixture(scope="module")
def odd_files(tiny_files, tmp_path_factory):
    """A model, and a data set of transparent, turned, 16-bit, CMYK and other images."""
    return tiny_files[0], write_images(tmp_path_factory.mktemp("odd") / "odd.parquet", ODD)


@pytest.fixture
def reliable(monkeypatch):
    monkeypatch.setattr(Verdict, "is_reliable", True)


def test_files(data):
    """Return the encoded images and the captions of the test split."""
    dataset = Dataset(Path(data))
    rows = [row for row, split in enumerate(dataset.splits()) if split == "test"]
    encoded, captions = list(dataset.images()), dataset.captions()
    return [encoded[row] for row in rows], [captions[row] for row in rows]


test_files.__test__ = False


def recall(image_NE, text_QE, captions):
    targets = RetrievalTargets(np.repeat(np.arange(len(captions)), list(map(len, captions))))
    values = targets.values(targets.measure(F.normalize(image_NE, dim=-1), F.normalize(text_QE, dim=-1)))
    return values["mean_recall"]


@torch.no_grad()
def recall_of(clip, preprocess, tokenizer, data):
    encoded, captions = test_files(data)
    images = torch.stack([preprocess(Image.open(io.BytesIO(content))) for content in encoded])
    texts = [caption for each in captions for caption in each]
    return recall(clip.encode_image(images), clip.encode_text(tokenizer(texts)), captions)


def recall_of_pyfunc(folder, data):
    encoded, captions = test_files(data)
    model = pyfunc.load_model(str(folder))
    images = model.predict([{"image": content} for content in encoded])["image_embedding"]
    texts = model.predict([{"text": text} for each in captions for text in each])["text_embedding"]
    return recall(*(torch.tensor(np.stack(list(column))) for column in (images, texts)), captions)


# With these seeds, masks of a few heads are selected; without heads there is nothing to deploy.
@pytest.mark.parametrize(("rule", "seed"), [("stock", 0), ("composited", 1)])
def test_the_reported_test_recall_is_that_of_every_deployed_form(tiny_config, odd_files, reliable, rule, seed):
    changes = {"search__pixels": rule, "search__seed": seed, "search__max_heads": 4, "search__guide": "objective"}
    config = tiny_config("odd", odd_files, output__fold=True, **changes)
    outcome = start(config)
    result, data, folder = outcome.result, config.data[0].path, config.folder
    expected = result.splits.test.selected["mean_recall"]
    assert result.selected
    assert expected != result.splits.test.baseline["mean_recall"]
    mask = MaskFile.read(folder / "mask.json")
    assert mask.pixels == rule

    exported = headmask.load_model(f"local-dir:{folder / 'folded'}")
    masked = headmask.load(str(mask.model.name), folder / "mask.json")
    headmask.export(outcome.session.model, mask, folder / "pruned", prune=True)
    pruned = headmask.load_pruned(folder / "pruned")
    package(outcome.session.model, mask, result, folder / "registered")
    deployed = {
        **{
            name: recall_of(model.clip, model.preprocess, model.tokenizer, data)
            for name, model in (("exported", exported), ("masked", masked), ("pruned", pruned))
        },
        "pyfunc": recall_of_pyfunc(folder / "registered", data),
        "eval": evaluate_masks([folder / "mask.json"], config.data, split="test")[0][0].masked["mean_recall"],
    }
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder / 'folded'}")
    stock = recall_of(clip.eval(), preprocess, exported.tokenizer, data)
    assert deployed == pytest.approx(dict.fromkeys(deployed, expected), abs=1e-9)
    assert (stock == pytest.approx(expected, abs=1e-9)) == (rule == "stock")


@pytest.mark.drawn
def test_a_study_says_how_many_images_depend_on_the_rule_and_is_another_under_the_other(tiny_config, odd_files):
    said = []

    class Display(Quiet):
        def say(self, text):
            said.append(text)

    stock = begin.start(tiny_config("odd", odd_files, budget__masks=8, search__pixels="stock"), Display())
    composited = start(tiny_config("odd2", odd_files, budget__masks=8, search__pixels="composited"))
    total = sum(SPLITS.values())
    assert stock.result.pixels.rule == "stock"
    assert stock.result.pixels.data["odd"].num_differing == total
    sentence = f"{total} images of {total} in odd have other pixels under stock open_clip than composited"
    assert any(text.startswith(sentence) for text in said)
    assert sentence in (stock.session.config.folder / "report.html").read_text()
    assert stock.result.searched["pixels"] == "stock"
    assert "pixels" not in composited.result.searched
    assert stock.result.fingerprint != composited.result.fingerprint
    assert composited.result.pixels.data["odd"].num_clipped == 0
    assert (stock.result.pixels.data["odd"].num_clipped > 0) == resizes_wide()


@pytest.mark.skipif(not resizes_wide(), reason="this Pillow does not resize images of 16 bits")
def test_values_that_stock_cuts_off_are_not_scored_unasked(tiny_config, odd_files):
    message = r"images of odd have values of more than 8 bits, .* --pixels composited .* --pixels stock"
    with pytest.raises(ConfigError, match=message):
        start(tiny_config("odd", odd_files, budget__masks=8))


def test_ordinary_images_make_one_study_under_both_rules(tiny_config, tiny_files, tmp_path):
    files = tiny_files[0], write_images(tmp_path / "plain.parquet", PLAIN)
    results = [
        start(tiny_config(rule, files, budget__masks=16, search__pixels=rule)).result
        for rule in ("stock", "composited")
    ]
    assert results[0].searched == results[1].searched
    assert results[0].splits == results[1].splits
    assert results[0].pixels.sentences == []


def test_a_study_of_before_the_choice_goes_on_composited(tiny_config, odd_files):
    config = tiny_config("odd", odd_files, budget__masks=16, search__pixels="composited")
    before = start(config).result
    path = config.folder / "config.json"
    content = json.loads(path.read_text())
    del content["search"]["pixels"]
    path.write_text(json.dumps(content))
    stored = stored_config(str(config.folder), None)
    assert stored.search.pixels == "composited"
    assert begin.resume(stored, Quiet()).result.splits == before.splits


def test_a_mask_file_of_before_the_choice_is_composited(tiny_config, odd_files, tmp_path):
    config = tiny_config("odd", odd_files, budget__masks=8, search__pixels="composited")
    start(config)
    content = json.loads((config.folder / "candidate.json").read_text())
    assert content.pop("pixels") == "composited"
    old = tmp_path / "old.json"
    old.write_text(json.dumps(content))
    assert MaskFile.read(old).pixels == "composited"
    new = config.folder / "candidate.json"
    one, other = (evaluate_masks([each], config.data)[0][0] for each in (old, new))
    assert one.masked == other.masked
    assert one.remarks
    assert evaluate_masks([old], config.data, pixels="stock")[0][0].masked != one.masked
    old.write_text(json.dumps({**content, "pixels": "stock"}))
    with pytest.raises(ConfigError, match=r"must be scored on the same pixels .*; name the rule with --pixels"):
        evaluate_masks([old, new], config.data)


def test_pixels_that_change_while_a_search_runs_end_it_before_the_test_split(
    tiny_config, tiny_files, monkeypatch, tmp_path
):
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "cache"))
    config = tiny_config("changed", tiny_files, budget__masks=16)
    settled = runner._search

    def search(*arguments):
        found = settled(*arguments)
        (path,) = (tmp_path / "cache").glob("*.npy")
        with path.open("r+b") as file:
            file.seek(-5, 2)
            file.write(b"\xff\x00\xff\x00\xff")
        return found

    monkeypatch.setattr(runner, "_search", search)
    with pytest.raises(PixelsChangedError, match=r"changed after it was made.*search again with another --out"):
        start(config)
    with StudyStore.open(config.storage, config.study_name) as study:
        assert not study.attr(ATTR)
    monkeypatch.setattr(runner, "_search", settled)
    with pytest.raises(StudyError, match=r"scores of study 'changed' cannot be trusted .*start another one with --out"):
        begin.resume(config, Quiet())
