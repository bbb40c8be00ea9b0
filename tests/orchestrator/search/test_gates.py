"""Searches by back-propagation: what they leave, what they count, and that gates do not all end alike."""

from itertools import combinations

import numpy as np
import pytest
from mlflow import MlflowClient

from headmask.maskfile import MaskFile
from orchestrator.demo import DEMO_CHUNK, unpack_demo
from orchestrator.demo.scenes import downstream_rows
from orchestrator.run.plan import make_plan
from orchestrator.search.gradients import GateGradients
from orchestrator.search.session import prepare
from orchestrator.settings.config import read_config
from orchestrator.settings.options import flags_of
from orchestrator.verdict.decide import Verdict
from strategies.gates import SWEEP, Gates
from tests.orchestrator.run.test_tasks import files  # noqa: F401
from tests.orchestrator.studies import outcome, resume, start, trials
from workers.data.dataset import Row, write_dataset
from workers.pool.queue import InlinePool

SCAN = 13


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def gated_config(tiny_config):
    return lambda name="gates", **changes: tiny_config(name, **{"search__strategy": "gates", **changes})


@pytest.fixture
def differentiated(monkeypatch):
    """The micro-batches that inline pools are given."""
    seen, submit = [], InlinePool.submit_gradients

    def watching(pool, tasks):
        seen.extend(tasks)
        submit(pool, tasks)

    monkeypatch.setattr(InlinePool, "submit_gradients", watching)
    return seen


def test_gates_are_in_the_result_the_mask_file_the_pictures_and_the_tracking_run(gated_config, runs, monkeypatch):
    monkeypatch.setattr(Verdict, "is_reliable", True)
    config = gated_config()
    result = start(config).result
    assert result.gates.steps == len(result.gates.losses) > SWEEP
    assert len(result.gates.shut) == 12
    assert (config.folder / "gates.png").read_bytes().startswith(b"\x89PNG")
    mask = MaskFile.read(config.folder / "mask.json")
    assert mask.gates == {head: result.gates.shut[head] for head in result.selected}
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    history = client.get_metric_history(result.mlflow_run_id, "gate_loss")
    assert [point.step for point in history] == list(range(1, result.gates.steps + 1))
    assert [point.value for point in history] == pytest.approx(result.gates.losses)
    metrics = client.get_run(result.mlflow_run_id).data.metrics
    assert metrics["gates_shut"] == pytest.approx(sum(result.gates.shut.values()))
    assert 0 <= metrics["gates_sure"] <= 1
    assert "gates.png" in {each.path for each in client.list_artifacts(result.mlflow_run_id)}


def test_a_search_without_gates_has_none(tiny_config):
    config = tiny_config(budget__masks=20)
    assert start(config).result.gates is None
    assert not (config.folder / "gates.png").exists()


def test_a_resumed_search_differentiates_nothing_again(gated_config, differentiated):
    start(gated_config("whole", budget__masks=40))
    whole = len(differentiated)
    assert whole > SWEEP
    config = gated_config("whole", budget__masks=60)
    resume(config)
    gone_on = len(differentiated) - whole
    assert 0 < gone_on < whole
    differentiated.clear()
    start(gated_config("other", budget__masks=60))
    assert differentiated == []
    assert trials(config.folder) == trials(config.folder.parent / "other")


def test_lost_gradients_give_the_same_gates(gated_config, differentiated, tmp_path, monkeypatch):
    config = gated_config("one")
    start(config)
    whole = len(differentiated)
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "empty"))
    start(gated_config("two"))
    assert len(differentiated) == 2 * whole
    assert outcome(config.folder) == outcome(config.folder.parent / "two")
    assert trials(config.folder) == trials(config.folder.parent / "two")


def test_training_counts_as_image_forwards(gated_config, tiny_config):
    config = gated_config(budget__masks=30)
    gradients = GateGradients(prepare(config))
    # One micro-batch of all 24 images, forwards and backwards.
    assert (gradients.num_batches, gradients.forwards_per_step) == (1, 3 * 24)
    assert gradients.masks_per_step == pytest.approx(3)
    result = start(config).result
    masks_alone = start(tiny_config("genetic", search__strategy="genetic", budget__masks=30)).result
    training = result.gates.steps * gradients.forwards_per_step
    assert result.image_forwards - training == pytest.approx(masks_alone.image_forwards, rel=0.2)
    assert make_plan(gated_config("other", budget__masks=30))["image_forwards"] == pytest.approx(
        result.image_forwards, rel=0.1
    )
    limit = round(result.image_forwards / 2)
    stopped = start(gated_config("stopped", budget__image_forwards=limit)).result
    assert stopped.stopped_by == "image_forwards"
    assert stopped.image_forwards >= limit


@pytest.mark.parametrize("name", ["labels", "pairs"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_gates_are_trained_for_every_task_and_tower(tiny_config, tiny_files, files, name, tower):  # noqa: F811
    data = tiny_files[0], files / f"{name}.parquet"
    config = tiny_config(files=data, search__strategy="gates", search__tower=tower, budget__masks=22)
    result = start(config).result
    assert np.isfinite(result.gates.losses).all()
    assert len(set(result.gates.shut.values())) > 1


def test_gates_of_the_demo_neither_all_open_nor_all_shut(tmp_path):
    """Over four seeds, after a sweep up to seven shut gates: these are far more surely shut than others, and alike."""
    rows = downstream_rows(11, sizes={"search": 64, "confirm": 8, "test": 8})
    data = [Row(f"{number}.webp", image, texts, split) for number, (image, texts, split) in enumerate(rows)]
    write_dataset(tmp_path / "scenes.parquet", data)
    model = f"local-dir:{unpack_demo(tmp_path / 'demo').model}"
    flags = {"model": model, "data": tmp_path / "scenes.parquet", "out": tmp_path, "pool": "inline"}
    session = prepare(read_config(None, flags_of({**flags, "image_chunk": DEMO_CHUNK})))
    pool = InlinePool(session.payload)
    session = session.settled(pool.settle(session.wanted))
    found = []
    for seed in range(4):
        gates = Gates(GateGradients(session, pool), num_free=48, most=7, seed=seed)
        gates.advance(SWEEP)
        shut_F = gates.path[-1]
        assert shut_F.sum() == 7
        assert gates.shut_F[shut_F].mean() > 2 * gates.shut_F[~shut_F].mean()
        assert gates.shut_F.max() < 0.95
        assert gates.shut_F.min() > 0.01
        found.append(set(np.flatnonzero(shut_F).tolist()))
    shared = [len(one & other) for one, other in combinations(found, 2)]
    assert np.mean(shared) > 3


def test_a_mixture_with_a_share_of_gates_trains_in_proportion(tiny_config):
    config = tiny_config(search__gate_share=0.25, budget__masks=60)
    result = start(config).result
    assert SWEEP < result.gates.steps < SWEEP + 0.25 / 3 * 60
    by = {row["strategy"] for row in trials(config.folder)}
    assert by == {"scan", "genetic", "pairwise", "gates"}
