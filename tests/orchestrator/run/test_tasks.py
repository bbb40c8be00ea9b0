"""Searches on every task and on several data sets, from file to verdict, and what `headmask eval` says of them."""

import io
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from mlflow import MlflowClient
from PIL import Image

from headmask.errors import ConfigError, ModelError
from headmask.maskfile import MaskFile
from headmask.models.loading import load_model
from orchestrator.run.plan import make_plan
from orchestrator.run.precheck import check_baseline
from orchestrator.search.preparing import prepare
from orchestrator.settings.config import read_config
from tests.orchestrator.studies import resume, start, trials
from tests.tiny import TEMPLATES, write_chinese_model
from tests.workers.data.test_sources import write_coco_cn, write_pictures
from workers.data.build import build
from workers.data.dataset import Dataset
from workers.data.prompts import prompts
from workers.data.sources.captions import coco_cn
from workers.pool.inline import InlinePool
from workers.tasks.classification import ClassificationTargets
from workers.tasks.similarity import SimilarityTargets

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def files(task_files):
    return task_files


def accuracy(model, data, split):
    """Return top-1 with stock open_clip, prompt by prompt."""
    dataset = Dataset(data)
    labels, names = dataset.labels()
    rows = [row for row, each in enumerate(dataset.splits()) if each == split]
    encoded = list(dataset.images())
    images = torch.stack([model.preprocess(Image.open(io.BytesIO(encoded[row]))) for row in rows])
    with torch.no_grad():
        image_NE = F.normalize(model.clip.encode_image(images), dim=-1)
        classes = [
            F.normalize(
                F.normalize(model.clip.encode_text(model.tokenizer(list(prompts([name], TEMPLATES)))), dim=-1).mean(0),
                dim=0,
            )
            for name in names
        ]
    right = (image_NE @ torch.stack(classes).T).argmax(1).numpy() == np.array(labels)[rows]
    return right.mean()


@pytest.mark.parametrize("tower", ["image", "text"])
def test_classification_is_searched_and_its_baseline_is_stock_open_clips(tiny_config, files, tower):
    config = tiny_config(data__path=str(files / "labels.parquet"), search__tower=tower, budget__masks=30)
    result = start(config).result
    assert result.objective == "top1"
    assert result.splits.test.num_images == 30
    assert set(result.splits.test.baseline) == set(ClassificationTargets.metrics)
    model = load_model(config.model.name)
    assert result.splits.test.baseline["top1"] == pytest.approx(accuracy(model, files / "labels.parquet", "test"))
    low, high = result.splits.test.interval
    assert low <= result.splits.test.delta["top1"] <= high


@pytest.mark.parametrize("objective", ["worst_group", "mean_per_class_recall", "0.5*top1 + 0.5*worst_group"])
def test_every_metric_of_classification_can_be_the_objective(tiny_config, files, objective):
    config = tiny_config(data__path=str(files / "labels.parquet"), search__objective=objective, budget__masks=15)
    result = start(config).result
    low, high = result.splits.test.interval
    assert low <= result.splits.test.delta[result.objective] <= high
    values = [trial["value"] for trial in trials(config.folder)]
    assert result.splits.search.baseline[result.objective] == values[0]
    run = MlflowClient(tracking_uri=f"sqlite:///{config.folder.parent / 'mlflow.db'}").get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED"
    tracked = {name: value for name, value in run.data.metrics.items() if name.startswith("test/delta.")}
    assert list(tracked.values()) == [pytest.approx(result.splits.test.delta[result.objective])]


def test_matching_is_searched(tiny_config, files):
    result = start(tiny_config(data__path=str(files / "pairs.parquet"), budget__masks=20)).result
    assert result.objective == "group_score"
    assert set(result.splits.test.baseline) == {"text_score", "image_score", "group_score"}


@pytest.mark.drawn
def test_similarity_is_searched_and_every_report_reads_it(tiny_config, files, headmask):
    data = str(files / "labels.parquet")
    config = tiny_config(data__path=data, data__task="similarity", budget__masks=20)
    result = start(config).result
    assert result.objective == "map_at_r"
    assert set(result.splits.test.baseline) == set(SimilarityTargets.metrics)
    assert result.splits.test.num_captions == 0
    mask, task = str(config.folder / "candidate.json"), ("--data", data, "--task", "similarity")
    code, out, _ = headmask("eval", "--mask", mask, *task, "--split", "test", "--json")
    assert code == 0
    assert json.loads(out)["baseline"] == pytest.approx(result.splits.test.baseline, abs=1e-9)
    again = shutil.copy(data, config.folder / "again.parquet")
    code, out, _ = headmask("eval", "--mask", mask, *task, "--data", str(again), "--split", "test")
    assert code == 0
    assert "change in points, with its 95 % interval" in out
    assert "again" in out
    assert (
        headmask("explain", "--mask", mask, *task, "--heads", "L0H0", "--out", str(config.folder / "explained"))[0] == 0
    )
    other = tiny_config("other", data__path=data, data__task="similarity", budget__masks=20, search__seed=1)
    start(other)
    code, out, _ = headmask("compare", str(config.folder), str(other.folder))
    assert code == 0
    assert "i2i_r5" in out
    page = (config.folder / "report.html").read_text()
    assert "Images looking for images of their label" in page
    code, out, _ = headmask("data", "show", *task[1:])
    assert (code, "for similarity" in out) == (0, True)


def test_the_text_tower_is_refused_where_there_are_no_texts(tiny_config, files):
    config = tiny_config(data__path=str(files / "labels.parquet"), data__task="similarity", search__tower="text")
    with pytest.raises(ConfigError, match="heads of the text tower change nothing in similarity"):
        prepare(config)


def several(tiny_config, tiny_files, files, **changes):
    paths = [str(tiny_files[1]), str(files / "labels.parquet"), str(files / "other.parquet")]
    return tiny_config(**{"data__path": paths, "budget__masks": 30, **changes})


@pytest.mark.parametrize("combine", ["mean", "worst"])
def test_several_data_sets_are_searched_together(tiny_config, tiny_files, files, combine):
    config = several(tiny_config, tiny_files, files, search__combine=combine)
    result = start(config).result
    assert result.objective == f"{combine} of data/mean_recall, labels/top1, other/mean_recall"
    fold = min if combine == "worst" else lambda values: sum(values) / len(values)
    guide = "mean_recall" if combine == "worst" else "probability"
    assert result.guide == f"{combine} of data/{guide}, labels/top1, other/{guide}"
    for trial in trials(config.folder):
        parts = [trial[f"data/{guide}"], trial["labels/top1"], trial[f"other/{guide}"]]
        assert trial["value"] == pytest.approx(fold(parts))
    low, high = result.splits.test.interval
    assert low <= result.splits.test.delta[result.objective] <= high
    assert result.splits.test.num_images == 90


def test_a_score_on_several_data_sets_is_that_on_each_alone(tiny_config, tiny_files, files):
    together = trials(start(several(tiny_config, tiny_files, files, search__strategy="scan")).session.config.folder)
    for name, path in (("data", tiny_files[1]), ("labels", files / "labels.parquet")):
        alone = trials(start(tiny_config(name, data__path=str(path), search__strategy="scan")).session.config.folder)
        metric = "top1" if name == "labels" else "mean_recall"
        assert [trial[f"{name}/{metric}"] for trial in together] == [trial[metric] for trial in alone][: len(together)]


def test_a_guarded_data_set_limits_the_search(tiny_config, tiny_files, files):
    limits = {"data": 0.5, "labels": 0.5}
    config = several(tiny_config, tiny_files, files, data__max_loss=limits)
    outcome = start(config)
    result, table = outcome.result, trials(config.folder)
    assert (result.objective, result.guide) == ("other/mean_recall", "other/probability")
    before = table[0]
    lost = 0
    for trial in table:
        losses = [before[key] - trial[key] - 0.005 for key in ("data/mean_recall", "labels/top1")]
        beyond = sum(max(0.0, loss) for loss in losses)
        assert trial["value"] == pytest.approx(-beyond if beyond > 1e-9 else trial["other/probability"])
        lost += beyond > 1e-9
    assert 0 < lost < len(table)
    assert [guarded.data for guarded in result.guarded] == ["data", "labels"]
    for guarded in result.guarded:
        assert guarded.interval[0] <= guarded.delta <= guarded.interval[1]
        assert guarded.holds == (guarded.interval[0] >= -0.005)
    if not all(guarded.holds for guarded in result.guarded):
        assert result.verdict == "no reliable improvement"


@pytest.mark.slow
def test_a_guarded_study_resumed_is_the_uninterrupted_one(tiny_config, tiny_files, files):
    whole = several(tiny_config, tiny_files, files, name="whole", data__max_loss={"data": 1})
    start(whole)
    short = several(tiny_config, tiny_files, files, name="short", data__max_loss={"data": 1}, budget__masks=18)
    start(short)
    longer = short.model_copy(update={"budget": whole.budget})
    resume(longer)
    assert trials(short.folder) == trials(whole.folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data__max_loss": {"date": 1}}, "there is no data set 'date', did you mean data"),
        ({"data__max_loss": {"data": 1, "labels": 1, "other": 1}}, "every data set has a max_loss"),
        ({"data__max_loss": {"data": -1}}, r"data\[0\].max_loss: must be greater than or equal to 0, got -1"),
        ({"search__combine": "median"}, "search.combine: must be 'mean' or 'worst'"),
        (
            {"data__task": "sorting"},
            r"data\[2\].task: must be 'retrieval', 'classification', 'matching' or 'similarity', got 'sorting'",
        ),
    ],
)
def test_limits_that_make_no_sense_are_refused(tiny_config, tiny_files, files, flags, message):
    with pytest.raises(ConfigError, match=message):
        several(tiny_config, tiny_files, files, **flags)


def test_two_data_sets_of_one_name_are_refused(tiny_config, tiny_files):
    with pytest.raises(ConfigError, match=r"data: two data sets are called data; give them a name each$"):
        tiny_config(data__path=[str(tiny_files[1])] * 2)


def test_a_metric_of_another_task_is_refused_before_any_search(tiny_config, files):
    config = tiny_config(data__path=str(files / "labels.parquet"), search__objective="t2i_r1")
    with pytest.raises(ConfigError, match=r"t2i_r1 is not a metric of .*labels.parquet, a data set for classification"):
        prepare(config)


def test_data_sets_come_from_a_toml_file(tmp_path, tiny_files, files):
    (tmp_path / "search.toml").write_text(
        f"""
        [model]
        name = "local-dir:{tiny_files[0]}"
        [[data]]
        path = "{tiny_files[1]}"
        name = "flickr"
        objective = "t2i_r1"
        [[data]]
        path = "{files / "labels.parquet"}"
        max_loss = 0.5
        templates = "simple"
        [output]
        folder = "{tmp_path / "run"}"
        """
    )
    config = read_config(tmp_path / "search.toml", {})
    session = prepare(config)
    assert [str(goal) for goal in session.objective.goals] == ["flickr/t2i_r1", "labels/top1"]
    assert len(session.splits["test"][1].texts) == 6 * 7
    assert read_config(tmp_path / "search.toml", {"search.seed": 1}).data == config.data


def test_masks_on_several_data_sets_make_a_transfer_table(tiny_config, tiny_files, files, headmask):
    config = tiny_config()
    result = start(config).result
    folder = config.folder
    (folder / "none.json").write_text((folder / "mask.json").read_text())
    empty = MaskFile.read(folder / "mask.json").model_copy(update={"heads": ()})
    empty.write(folder / "none.json")
    chosen = MaskFile.read(folder / "mask.json").model_copy(update={"heads": tuple(result.selected) or ("L0H0",)})
    chosen.write(folder / "chosen.json")
    command = [
        "eval", "--mask", str(folder / "none.json"), "--mask", str(folder / "chosen.json"),
        "--data", str(tiny_files[1]), "--data", str(files / "labels.parquet"), "--split", "test",
    ]  # fmt: skip
    code, out, _ = headmask(*command, "--json")
    assert code == 0
    table = json.loads(out)["evaluations"]
    assert [(each["mask"].rpartition("/")[2], each["objective"]) for each in table] == [
        ("none.json", "mean_recall"),
        ("none.json", "top1"),
        ("chosen.json", "mean_recall"),
        ("chosen.json", "top1"),
    ]
    assert [each["delta"][each["objective"]] for each in table[:2]] == [0, 0]
    assert table[2]["baseline"] == pytest.approx(result.splits.test.baseline, abs=1e-9)
    code, out, _ = headmask(*command)
    assert code == 0
    assert "change in points, with its 95 % interval" in out
    assert "labels" in out


def test_chinese_captions_are_searched_with_a_multilingual_text_tower(tiny_config, tmp_path):
    captions = write_coco_cn(tmp_path / "coco-cn")
    ids = [line.partition("#")[0] for line in (captions / "imageid.human-written-caption.txt").read_text().splitlines()]
    images = write_pictures(tmp_path / "images", *(f"{name.split('_')[1]}/{name}.jpg" for name in dict.fromkeys(ids)))
    data = build(coco_cn(images, [captions]), tmp_path / "coco-cn.parquet").path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = write_chinese_model(tmp_path / "model")
        result = start(tiny_config(model__name=f"local-dir:{model}", data__path=str(data), budget__masks=15)).result
    assert result.splits.search.num_captions == 2
    assert result.splits.test.num_captions == 2


def test_embeddings_are_made_once_and_then_found(tiny_config, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "cache"))
    first = prepare(tiny_config())
    files = sorted((tmp_path / "cache").glob("embeddings-*.npz"))
    assert len(files) == 3
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.search.otherside.embedded", None)
        second = prepare(tiny_config())
    for name in ("search", "confirm", "test"):
        assert (first.payload.splits[name][""].other_E == second.payload.splits[name][""].other_E).all()
    files[0].write_bytes(files[0].read_bytes()[:-200])
    content = bytearray(files[1].read_bytes())
    content[len(content) // 2] ^= 1
    files[1].write_bytes(content)
    third = prepare(tiny_config())
    assert caplog.text.count("are made again") == 2
    assert (first.payload.splits["test"][""].other_E == third.payload.splits["test"][""].other_E).all()


def test_a_plan_counts_all_data_sets(tiny_config, tiny_files, files):
    plan = make_plan(several(tiny_config, tiny_files, files, data__max_loss={"data": 1}))
    assert plan["inputs"] == "72 search, 60 confirm, 90 test"
    assert plan["pixels_per_host_gib"] == pytest.approx(222 * 28 * 28 * 3 / 2**30, abs=1e-3)
    assert plan["object_store_gib"] < plan["memory_per_replica_gib"]


def test_the_precheck_looks_at_every_data_set(tiny_config, tiny_files, files):
    for tower in ("image", "text"):
        session = prepare(several(tiny_config, tiny_files, files, search__tower=tower, search__precheck=True))
        with pytest.raises(ModelError, match=r"scores at chance level: text-to-image recall@10 .* of data, chance is"):
            check_baseline(session, InlinePool(session.payload))
        labels = prepare(tiny_config(data__path=str(files / "labels.parquet"), search__tower=tower))
        with pytest.raises(ModelError, match=r"top-1 is .* of labels, chance is 16.7 %. Check .* and labels"):
            check_baseline(labels, InlinePool(labels.payload))
        pairs = prepare(tiny_config(data__path=str(files / "pairs.parquet"), search__tower=tower))
        check_baseline(pairs, InlinePool(pairs.payload))
