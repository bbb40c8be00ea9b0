"""What is said of heads holds for the stock model: gains by brute force, pictures by their pixels, texts by name."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from headmask.apply.live import ablate
from headmask.mask import Head, HeadGrid, HeadMask
from headmask.maskfile import Grid, MaskFile
from headmask.models.loading import load_model
from orchestrator.explain.explanation import Change, DescribingText, ExplainedHead, Explanation, HarmedImage, Query
from orchestrator.explain.harm import image_credits, place_in_words, rank_in_words
from orchestrator.explain.heads import explain_heads
from orchestrator.explain.subject import read_descriptions
from orchestrator.settings.sections import DataSection
from tests.tiny import tiny_rows, write_tiny_model
from workers.data.dataset import Kind, Row, write_dataset
from workers.data.loading import load_data
from workers.data.preprocess import UInt8Preprocess
from workers.tasks.metrics import Mix

GRID = HeadGrid(3, 4)
HEADS = ("L0H2", "L2H1")
COLOURS = ("red", "green", "blue", "a dog", "a cat")


def write_mask(folder, model, heads=HEADS, **changes):
    reference = load_model(f"local-dir:{model}").reference
    content = {
        "model": reference,
        "grid": Grid(layers=3, heads=4),
        "heads": heads,
        "objective": "mean_recall",
        **changes,
    }
    path = folder / "mask.json"
    MaskFile(**content).write(path)
    return path


@pytest.fixture(scope="module")
def mask(tiny_files, tmp_path_factory):
    return write_mask(tmp_path_factory.mktemp("mask"), tiny_files[0])


@pytest.fixture(scope="module")
def explained(tiny_files, mask, tmp_path_factory):
    """The folder of an explanation, and what is in it."""
    out = tmp_path_factory.mktemp("explained") / "explain"
    return out, explain_heads(DataSection(path=str(tiny_files[1])), out, mask=mask, split="test", num_images=4)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A data set of labels, and one of pairs."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = list(tiny_rows({"search": 12, "confirm": 12, "test": 12}, seed=1))
    kind = Kind("classification", ("cat", "dog", "red bus"), ("a {c}", "the {c}"))
    labelled = [Row(row.path, row.image, split=row.split, label=n % 3) for n, row in enumerate(rows)]
    write_dataset(folder / "labels.parquet", labelled, kind)
    paired = [Row(row.path, row.image, row.captions[:1], row.split, pair=n // 2) for n, row in enumerate(rows)]
    write_dataset(folder / "pairs.parquet", paired, Kind("matching"))
    return folder


def test_the_file_is_what_was_returned_and_names_pictures_that_are_there(explained):
    out, found = explained
    assert Explanation.model_validate_json((out / "explain.json").read_text()) == found
    assert [head.head for head in found.heads] == list(HEADS)
    assert found.no_texts is None
    for head in found.heads:
        assert head.in_mask
        assert head.picture == f"{head.head}.png"
        with Image.open(out / head.picture) as picture:
            assert picture.width > 1000
        assert head.alt.startswith(f"Attention of head {head.head} over the 4 images on which it hurts most. 1: ")
        cumulative = [each.cumulative for each in head.texts]
        assert len(cumulative) == 8  # A head has as many dimensions.
        assert cumulative == sorted(cumulative)
        assert cumulative[-1] <= 1 + 1e-6
        assert {each.text for each in head.texts} <= set(read_descriptions(None))


def test_gains_are_those_of_the_stock_model_by_brute_force(explained, tiny_files):
    _, found = explained
    model = load_model(f"local-dir:{tiny_files[0]}")
    split = load_data(tiny_files[1], UInt8Preprocess(model.preprocess))["test"]
    images = (torch.from_numpy(split.pixels[:]).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        text_QE = F.normalize(model.clip.encode_text(model.tokenizer(list(split.texts))), dim=-1)

    def probability(mask):
        """Return every image's mean of its captions' probability of finding it and its own of finding the best one."""
        with torch.no_grad(), ablate(model.clip, HeadMask.from_text(GRID, mask)):
            scores_QN = model.scale * text_QE @ F.normalize(model.clip.encode_image(images), dim=-1).T
        own_N2 = torch.stack([scores_QN.softmax(1)[2 * n : 2 * n + 2, n] for n in range(30)])
        found = []
        for n in range(30):
            best, others = scores_QN[2 * n : 2 * n + 2, n].max(), scores_QN[:, n].clone()
            others[2 * n : 2 * n + 2] = -torch.inf
            found.append(float(1 / (1 + (others - best).exp().sum())))
        return (own_N2.mean(1).numpy() + np.array(found)) / 2

    baseline = probability("")
    for head in found.heads:
        gain_N = probability(head.head) - baseline
        assert [image.row - 44 for image in head.images] == np.argsort(-gain_N)[:4].tolist()
        assert [image.gain.head for image in head.images] == pytest.approx(sorted(gain_N)[:-5:-1], abs=1e-5)
        whole = probability(",".join(HEADS)) - baseline
        assert [each.gain.mask for each in head.images] == pytest.approx(whole[np.argsort(-gain_N)[:4]], abs=1e-5)
        assert (head.num_hurt, head.num_helped) == (int((gain_N > 0).sum()), int((gain_N < 0).sum()))
        assert head.guide.head - head.guide.baseline == pytest.approx(gain_N.mean(), abs=1e-5)


def test_an_image_has_all_its_queries_with_ranks_and_probabilities(explained, tiny_files):
    _, found = explained
    for image in found.heads[0].images:
        assert sorted(query.kind for query in image.queries) == ["i2t", "t2i", "t2i"]
        assert {query.text for query in image.queries} == {None, *image.texts}
        for query in image.queries:
            assert 1 <= query.rank.baseline <= 60
            assert 0 < query.probability.head < 1


def test_a_picture_is_brightest_where_the_head_looks(explained):
    out, found = explained
    with Image.open(out / "L2H1.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    top = next(y for y in range(30, 90) if (pixels[y, 14:100] != 255).any())
    beside = pixels[top : top + 176, 14 + 176 : 14 + 352]
    y, x = np.unravel_index((beside[..., 0] + beside[..., 1] - beside[..., 2]).argmax(), beside.shape[:2])
    one = np.zeros((4, 4))
    one[int(4 * y / 176), int(4 * x / 176)] = 1
    assert place_in_words(one) == found.heads[1].images[0].looks_at


@pytest.mark.parametrize(
    ("row", "column", "words"), [(0, 0, "upper left"), (1, 1, "middle"), (2, 1, "lower middle"), (1, 2, "middle right")]
)
def test_places_are_named_in_thirds(row, column, words):
    map_YX = np.zeros((3, 3))
    map_YX[row, column] = 1
    assert place_in_words(map_YX) == words


def test_ranks_beyond_those_that_are_kept_are_said_to_be():
    assert (rank_in_words(255), rank_in_words(256)) == ("255", "over 255")


def test_heads_without_a_mask_are_the_mask_and_the_users_texts_describe_them(tiny_files, tmp_path):
    model, data = tiny_files
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join([*COLOURS, "", COLOURS[0]]))
    found = explain_heads(
        DataSection(path=str(data)), tmp_path / "out", heads="L1H0", model=f"local-dir:{model}", descriptions=texts
    )
    assert (found.mask, found.mask_file, found.split, found.num_images) == (["L1H0"], None, "all", 74)
    assert (found.descriptions, found.num_descriptions) == (str(texts), 5)
    assert {each.text for each in found.heads[0].texts} <= set(COLOURS)


def test_a_head_that_is_not_in_the_mask_is_explained_beside_it(tiny_files, mask, tmp_path):
    found = explain_heads(DataSection(path=str(tiny_files[1])), tmp_path / "out", mask=mask, heads="L1H0,L2H1")
    assert [(head.head, head.in_mask) for head in found.heads] == [("L1H0", False), ("L2H1", True)]
    assert found.mask == list(HEADS)


@pytest.mark.parametrize(("name", "kinds"), [("labels", {"class"}), ("pairs", {"text", "image", "group"})])
def test_images_of_other_tasks_have_labels_or_pairs(tiny_files, tasks, mask, tmp_path, name, kinds):
    objective = "text_score" if name == "pairs" else None
    data = DataSection(path=str(tasks / f"{name}.parquet"), objective=objective)
    found = explain_heads(data, tmp_path / "out", mask=mask, heads=",".join(map(str, GRID)))
    images = [image for head in found.heads for image in head.images]
    assert images
    for image in images:
        assert {query.kind for query in image.queries} == kinds
        if name == "labels":
            assert image.texts == [("cat", "dog", "red bus")[image.row % 3]] == [image.queries[0].text]
        else:
            assert image.row % 2 == 0
            assert image.queries[0].probability is None


def test_towers_that_pool_by_attention_have_images_and_no_texts(tiny_files, tmp_path, headmask):
    model = write_tiny_model(tmp_path / "model", attentional_pool=True, attn_pooler_heads=4)
    arguments = ("--heads", "L2H1", "--model", f"local-dir:{model}", "--data", tiny_files[1], "--split", "test")
    code, out, _ = headmask("explain", *arguments, "--out", tmp_path / "out")
    assert code == 0
    assert "No texts: it pools by attention" in out
    found = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert (found["heads"][0]["texts"], found["heads"][0]["size"]) == ([], None)
    assert found["heads"][0]["images"]


def test_the_command_prints_a_table_or_json(tiny_files, mask, tmp_path, headmask):
    arguments = ("explain", "--mask", mask, "--data", tiny_files[1], "--split", "test", "--out", tmp_path / "out")
    code, out, err = headmask(*arguments)
    assert (code, err) == (0, "")
    assert "L0H2" in out
    assert "probability is " in out
    code, _, err = headmask(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert "out exists; choose another name or pass --overwrite" in err
    shutil.copyfile(tmp_path / "out" / "L0H2.png", tmp_path / "out" / "L1H1.png")  # Of another mask.
    code, out, _ = headmask(*arguments, "--overwrite", "--json")
    assert code == 0
    assert json.loads(out)["format"] == "headmask-explain/1"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["L0H2.png", "L2H1.png", "explain.json"]


def test_a_mask_without_heads_leaves_nothing_to_explain(tiny_files, tmp_path, headmask):
    path = write_mask(tmp_path, tiny_files[0], ())
    code, out, _ = headmask("explain", "--mask", path, "--data", tiny_files[1], "--out", tmp_path / "out")
    assert code == 0
    assert f"There is nothing to explain. {path} ablates nothing: with it, the model is as it was." in out.replace(
        "\n", ""
    )
    assert f"explain.json is in {tmp_path / 'out'}" in out.replace("\n", "")
    assert "Pictures" not in out
    assert json.loads((tmp_path / "out" / "explain.json").read_text())["heads"] == []


def test_heads_are_ablated_as_the_mask_says(tiny_files, tmp_path):
    means = {head: [0.5] * 8 for head in HEADS}
    path = write_mask(tmp_path, tiny_files[0], ablation="mean", means=means)
    data = DataSection(path=str(tiny_files[1]))
    found = explain_heads(data, tmp_path / "out", mask=path, split="test")
    model = load_model(f"local-dir:{tiny_files[0]}")
    split = load_data(tiny_files[1], UInt8Preprocess(model.preprocess))["test"]
    images = (torch.from_numpy(split.pixels[:]).float() / 255 - 0.5) / 0.25
    means_LHd = MaskFile.read(path).means_tensor()
    with torch.no_grad():
        text_QE = F.normalize(model.clip.encode_text(model.tokenizer(list(split.texts))), dim=-1)
        with ablate(model.clip, HeadMask.from_heads(GRID, [Head(0, 2)]), ablation="mean", means_LHd=means_LHd):
            image_NE = F.normalize(model.clip.encode_image(images), dim=-1)
    targets = split.targets.at_scale(model.scale)
    expected = Mix.parse("probability").value(targets.values(targets.measure(image_NE, text_QE)))
    assert found.heads[0].guide.head == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a mask file with --mask, or a model and its heads with --model and --heads"),
        (["--heads", "L1H1"], "name a mask file with --mask, or a model and its heads"),
        (["--mask", "{mask}", "--heads", "L9H0"], "L9H0 is not on grid 3x4: layers are 0..2, heads 0..3"),
        (["--mask", "{mask}", "--heads", ""], "--heads must name heads, such as L3H7,L5H0; got ''"),
        (["--mask", "{mask}", "--heads", "7"], "a head is written L<layer>H<head>, such as L3H7; got '7'"),
        (["--mask", "{mask}", "--model", "{other}"], "this mask was made for local-dir:"),
        (["--mask", "{mask}", "--descriptions", "none.txt"], "there is no file of descriptions at none.txt"),
        (["--mask", "{mask}", "--split", "train"], "split must be one of search, confirm, test, all; got 'train'"),
        (["--mask", "{mask}", "--out", "{model}"], "holds what is not of an explanation that headmask wrote"),
        (["--mask", "{text}"], "explain shows what heads of image towers do to images"),
        (["--mask", "{mean}", "--heads", "L1H1"], "and has none of L1H1: only its own heads can be explained"),
    ],
)
def test_bad_input_is_one_message(tiny_files, mask, tmp_path, headmask, arguments, message):
    other = f"local-dir:{write_tiny_model(tmp_path / 'other', seed=1)}"
    text, mean = tmp_path / "text.json", tmp_path / "mean.json"
    content = MaskFile.read(mask)
    content.model_copy(update={"tower": "text"}).write(text)
    content.model_copy(update={"ablation": "mean", "means": {head: [0.0] * 8 for head in HEADS}}).write(mean)
    known = {"mask": mask, "other": other, "model": tiny_files[0], "text": text, "mean": mean}
    filled = [each.format(**known) for each in arguments]
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    code, _, err = headmask("explain", "--data", tiny_files[1], *out, *filled)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_credits_of_images_average_to_the_metric(tiny_files):
    model = load_model(f"local-dir:{tiny_files[0]}")
    split = load_data(tiny_files[1], UInt8Preprocess(model.preprocess))["test"]
    rng = np.random.default_rng(0)
    ranks = {"t2i": rng.integers(0, 20, 60), "i2t": rng.integers(0, 20, 30)}
    ranks |= {"t2i_probability": rng.random(60), "i2t_probability": rng.random(30)}
    for text in ("mean_recall", "probability", "0.7*t2i_r1 + 0.3*i2t_mrr"):
        mix = Mix.parse(text)
        credit_N = image_credits(split.targets, ranks, mix, 30)
        assert credit_N.mean() == pytest.approx(mix.value(split.targets.values(ranks)))


def test_the_page_names_every_field():
    page = (Path(__file__).parents[3] / "docs" / "explain.md").read_text()
    for part in (Explanation, ExplainedHead, HarmedImage, Query, DescribingText, Change):
        assert [field for field in part.model_fields if not re.search(rf"`(\w+\.)?{field}`", page)] == []


def test_the_bundled_descriptions_are_many_short_and_all_different():
    texts = read_descriptions(None)
    assert 1000 < len(texts) == len({text.lower() for text in texts})
    assert max(map(len, texts)) <= 60
    assert all(text == text.strip() for text in texts)
