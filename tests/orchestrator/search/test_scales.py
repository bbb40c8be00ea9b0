"""Searches by back-propagation: what they leave, what they count, and that scales tell harmful heads from others."""

import json

import numpy as np
import pytest
from mlflow import MlflowClient

from headmask.errors import StudyError
from headmask.mask import HeadMask
from headmask.maskfile import MaskFile
from orchestrator.demo import DEMO_CHUNK, unpack_demo
from orchestrator.demo.scenes import downstream_rows
from orchestrator.outcome.schema import SearchResult, read_result
from orchestrator.run.plan import make_plan
from orchestrator.search.gradients import ScaleGradients
from orchestrator.search.preparing import prepare
from orchestrator.settings.config import read_config
from orchestrator.settings.options import flags_of
from orchestrator.study.integrity import checksum
from orchestrator.verdict.decide import Verdict
from strategies import make_sampler
from strategies.base import MIN_STEPS
from strategies.scales import Scales
from tests.orchestrator.run.test_tasks import files  # noqa: F401
from tests.orchestrator.studies import killed, outcome, resume, start, trials
from workers.data.dataset import Row, write_dataset
from workers.pool.inline import InlinePool

pytestmark = pytest.mark.usefixtures("undrawn")

NUM_SCAN = 13


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def scales_config(tiny_config):
    return lambda name="scales", **changes: tiny_config(name, **{"search__strategy": "scales", **changes})


@pytest.fixture
def differentiated(monkeypatch):
    """The micro-batches that inline pools are given."""
    seen, submit = [], InlinePool.submit_tasks

    def watching(pool, tasks):
        seen.extend(tasks)
        submit(pool, tasks)

    monkeypatch.setattr(InlinePool, "submit_tasks", watching)
    return seen


@pytest.mark.drawn
def test_scales_are_in_the_result_the_mask_file_the_pictures_and_the_tracking_run(scales_config, runs, monkeypatch):
    monkeypatch.setattr(Verdict, "is_reliable", True)
    config = scales_config(search__strategy="mixture")
    result = start(config).result
    assert result.scales.steps == len(result.scales.losses) == MIN_STEPS
    assert len(result.scales.scales) == 12
    assert all(0 <= scale <= 1.5 for scale in result.scales.scales.values())
    assert -1 <= result.scales.agreement <= 1
    assert (config.folder / "scales.png").read_bytes().startswith(b"\x89PNG")
    mask = MaskFile.read(config.folder / "mask.json")
    assert mask.scales == {head: result.scales.scales[head] for head in result.selected}
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    history = client.get_metric_history(result.mlflow_run_id, "scale_loss")
    assert [point.step for point in history] == list(range(1, result.scales.steps + 1))
    assert [point.value for point in history] == pytest.approx(result.scales.losses)
    metrics = client.get_run(result.mlflow_run_id).data.metrics
    assert metrics["scales_low"] == sum(scale < 0.5 for scale in result.scales.scales.values())
    assert "scales.png" in {each.path for each in client.list_artifacts(result.mlflow_run_id)}


def test_agreement_is_that_of_falls_and_changes_by_rank(tiny_config):
    config = tiny_config(budget__masks=60)
    result = start(config).result
    gains = {row["mask"]: row["value"] for row in trials(config.folder) if row["mask"] in result.scales.scales}
    assert len(gains) == 12
    falls = [-result.scales.scales[head] for head in gains]
    ranks = [midranks(side) for side in (falls, list(gains.values()))]
    assert result.scales.agreement == pytest.approx(np.corrcoef(*ranks)[0, 1])


def midranks(values):
    """Return the rank of every value; equal ones share the mean of theirs."""
    values = np.array(values)
    return (values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2


def test_where_nothing_was_scanned_agreement_is_undefined(scales_config):
    assert start(scales_config(budget__masks=6)).result.scales.agreement is None


@pytest.mark.drawn
def test_a_search_that_trains_nothing_has_no_scales(tiny_config):
    config = tiny_config(search__strategy="pairwise", budget__masks=20)
    assert start(config).result.scales is None
    assert not (config.folder / "scales.png").exists()


def test_a_budget_smaller_than_the_scan_has_masks_of_several_heads(tiny_config):
    config = tiny_config(budget__masks=NUM_SCAN - 3)
    start(config)
    assert sum("," in row["mask"] for row in trials(config.folder)) >= 1


def test_the_scan_is_complete_in_the_end(tiny_config):
    config = tiny_config(budget__masks=60)
    result = start(config).result
    singles = [row["mask"] for row in trials(config.folder) if "," not in row["mask"]]
    assert len(singles) == len(set(singles)) == NUM_SCAN
    assert result.surrogate.num_screened > 0


def test_a_resumed_search_differentiates_nothing_again(tiny_config, differentiated):
    start(tiny_config("whole", budget__masks=30))
    assert len(differentiated) == MIN_STEPS
    config = tiny_config("whole", budget__masks=60)
    resume(config)
    start(tiny_config("other", budget__masks=60))
    assert len(differentiated) == MIN_STEPS
    assert trials(config.folder) == trials(config.folder.parent / "other")
    assert outcome(config.folder) == outcome(config.folder.parent / "other")


def test_lost_gradients_give_the_same_scales(scales_config, differentiated, tmp_path, monkeypatch):
    config = scales_config("one")
    start(config)
    whole = len(differentiated)
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "empty"))
    start(scales_config("two"))
    assert len(differentiated) == 2 * whole
    assert outcome(config.folder) == outcome(config.folder.parent / "two")
    assert trials(config.folder) == trials(config.folder.parent / "two")


def test_a_search_killed_on_the_way_goes_on_as_it_began(tiny_config, scales_config):
    killed([("blocks", scales_config("killed")), ("blocks", tiny_config("mixture"))])
    for name, make in (("killed", scales_config), ("mixture", tiny_config)):
        whole, config = make(f"whole-{name}", budget__masks=60), make(name, budget__masks=60)
        start(whole)
        resume(config)
        assert trials(config.folder) == trials(whole.folder)
        assert outcome(config.folder) == outcome(whole.folder)


def test_training_counts_as_image_forwards(scales_config):
    config = scales_config(budget__masks=30)
    gradients = ScaleGradients(prepare(config))
    # One micro-batch of all 24 images, forwards and backwards.
    assert (gradients.num_batches, gradients.forwards_per_step) == (1, 3 * 24)
    assert gradients.masks_per_step == pytest.approx(3)
    found = start(config)
    session, result = found.session, found.result
    training = result.scales.steps * gradients.forwards_per_step
    blocks = make_sampler("scales", session.grid, block_size=8, gradients=gradients).blocks
    masks = [HeadMask(session.grid, tuple(row["words"])) for row in trials(config.folder)]
    parts = [masks[numbers.start : numbers.stop] for numbers in map(blocks.numbers, range(5))]
    assert sum(map(len, parts)) == 30
    assert result.image_forwards - training == pytest.approx(sum(map(session.forwards, parts)), abs=1)
    assert make_plan(scales_config("other", budget__masks=30))["image_forwards"] == pytest.approx(
        result.image_forwards, rel=0.1
    )
    limit = training + round((result.image_forwards - training) / 2)
    stopped = start(scales_config("stopped", budget__image_forwards=limit)).result
    assert stopped.stopped_by == "image_forwards"
    assert limit <= stopped.image_forwards < result.image_forwards


def test_a_split_of_many_images_is_trained_on_one_micro_batch_a_step(tiny_config, tmp_path, tiny_files, differentiated):
    rows = downstream_rows(3, sizes={"search": 150, "confirm": 20, "test": 30})
    data = [Row(f"{number}.webp", image, texts, split) for number, (image, texts, split) in enumerate(rows)]
    write_dataset(tmp_path / "scenes.parquet", data)
    config = tiny_config(files=(tiny_files[0], tmp_path / "scenes.parquet"), budget__masks=20)
    result = start(config).result
    gradients = ScaleGradients(prepare(config))
    assert gradients.num_batches == 3
    assert gradients.masks_per_step == pytest.approx(1)
    assert result.scales.steps == len(differentiated) == MIN_STEPS
    sizes = [len(task.units_u) for task in differentiated]
    assert sizes == MIN_STEPS * [50]
    first, second, third, again = (set(task.units_u.tolist()) for task in differentiated[:4])
    assert first | second | third == set(range(150))
    assert again == first


def test_several_data_sets_take_turns_in_micro_batches(tiny_config, tiny_files, files, differentiated):  # noqa: F811
    """Data sets that are only guarded train nothing."""
    paths = [str(tiny_files[1]), str(files / "labels.parquet"), str(files / "pairs.parquet")]
    config = tiny_config(data__path=paths, data__max_loss={"labels": 100}, budget__masks=20)
    result = start(config).result
    assert [task.data for task in differentiated] == (MIN_STEPS // 2) * [0, 2]
    assert np.isfinite(result.scales.losses).all()


@pytest.mark.parametrize("name", ["labels", "pairs"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_scales_are_trained_for_every_task_and_tower(tiny_config, tiny_files, files, name, tower):  # noqa: F811
    data = tiny_files[0], files / f"{name}.parquet"
    config = tiny_config(files=data, search__strategy="scales", search__tower=tower, budget__masks=22)
    result = start(config).result
    assert np.isfinite(result.scales.losses).all()
    assert set(result.scales.scales.values()) != {1.0}


def test_heads_that_may_not_be_ablated_have_no_scale(scales_config, differentiated):
    result = start(scales_config(search__layers=[0, 2], search__protect=["L0H1"], budget__masks=20)).result
    assert list(result.scales.scales) == ["L0H0", "L0H2", "L0H3", "L2H0", "L2H1", "L2H2", "L2H3"]
    for task in differentiated:
        assert task.scales_LH[1].tolist() == [1.0] * 4
        assert task.scales_LH[0, 1] == 1.0


def test_scales_of_the_demo_agree_between_seeds_and_with_the_scan(tmp_path):
    """Other micro-batches, the same low heads: their order says much, and neither all nor none are low."""
    rows = downstream_rows(11, sizes={"search": 128, "confirm": 8, "test": 8})
    data = [Row(f"{number}.webp", image, texts, split) for number, (image, texts, split) in enumerate(rows)]
    write_dataset(tmp_path / "scenes.parquet", data)
    model = f"local-dir:{unpack_demo(tmp_path / 'demo').model}"
    flags = {"model": model, "data": tmp_path / "scenes.parquet", "out": tmp_path, "pool": "inline"}
    found = []
    for seed in range(3):
        session = prepare(read_config(None, flags_of({**flags, "image_chunk": DEMO_CHUNK, "seed": seed})))
        pool = InlinePool(session.payload)
        session = session.settled(pool.settle(session.wanted))
        scales = Scales(ScaleGradients(session, pool), num_free=48)
        scales.advance(24)
        averaged_F = scales.averaged(24)
        assert 0 < (averaged_F < 0.5).sum() < 24
        assert np.mean(scales.losses[-4:]) < np.mean(scales.losses[:4])
        found.append(averaged_F)
    assert np.corrcoef(found)[np.triu_indices(3, 1)].min() > 0.5


@pytest.fixture
def earlier(scales_config):
    """Return a finished search's folder and result.json as 0.1 wrote it, with gates instead of scales."""
    folder = scales_config(budget__masks=20).folder
    start(scales_config(budget__masks=20))
    content = json.loads((folder / "result.json").read_text())
    scales = content.pop("scales")
    content["gates"] = {"steps": scales["steps"], "losses": scales["losses"], "shut": {"L0H0": 0.5}}
    del content["checksum"]
    return folder, content


@pytest.mark.parametrize("gates", [True, False])
def test_an_earlier_result_with_gates_is_read(earlier, gates):
    folder, content = earlier
    content["gates"] = content["gates"] if gates else None
    (folder / "result.json").write_text(json.dumps({**content, "checksum": checksum(content)}))
    result = read_result(folder, SearchResult)
    assert result.scales is None
    assert result.selected == content["selected"]


def test_an_earlier_result_that_was_changed_is_refused(earlier):
    folder, content = earlier
    (folder / "result.json").write_text(json.dumps({**content, "num_masks": 7, "checksum": checksum(content)}))
    with pytest.raises(StudyError, match=r"result\.json is not what headmask wrote"):
        read_result(folder, SearchResult)


def test_an_earlier_mask_file_with_gates_is_read(scales_config):
    config = scales_config(budget__masks=20)
    start(config)
    path = config.folder / "mask.json"
    content = json.loads(path.read_text())
    assert "gates" not in content
    del content["scales"]
    path.write_text(json.dumps({**content, "gates": dict.fromkeys(content["heads"], 0.9)}))
    assert MaskFile.read(path) == MaskFile.model_validate(content)
