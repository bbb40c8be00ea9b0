"""Searches with the surrogate: the same study however they go, no second scan, and predictions that are watched."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from mlflow import MlflowClient

import strategies
from headmask.errors import HeadmaskError
from headmask.mask import HeadMask
from orchestrator.run.plan import make_plan
from orchestrator.search.preparing import prepare
from orchestrator.search.scoring import Interrupted, score_all
from orchestrator.search.surrogate import make_surrogate
from orchestrator.study.reopening import stored_config
from strategies import MaskSampler
from tests.orchestrator.run.test_tasks import files  # noqa: F401
from tests.orchestrator.studies import killed, outcome, resume, start, trials
from workers.pool.inline import InlinePool
from workers.scoring.messages import MaskScore
from workers.scoring.scorer import Scorer

pytestmark = pytest.mark.usefixtures("undrawn")

SCAN = 13


class ScreeningSampler(MaskSampler):
    """Proposes the best of a few random masks by their predictions."""

    label = "screening"

    def propose(self, count, history, rng):
        bits_RF = rng.random((3 * count, len(history.free_heads))) < 0.3
        values = self.screen([HeadMask(self.grid, words) for words in history.words(bits_RF)])
        return history.take(bits_RF[np.argsort(-values, kind="stable")], count)


@pytest.fixture(autouse=True)
def _own_strategy_and_cache(monkeypatch, tmp_path):
    monkeypatch.setitem(strategies.STRATEGIES, "screening", ScreeningSampler)
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def screening_config(tiny_config):
    return lambda name="screening", **changes: tiny_config(name, **{"search__strategy": "screening", **changes})


@pytest.fixture
def submitted(monkeypatch):
    """Everything that is submitted to inline pools: stage and mask."""
    seen, submit = [], InlinePool.submit

    def watching(pool, stage, masks):
        masks = list(masks)
        seen.extend((stage, mask) for mask in masks)
        submit(pool, stage, masks)

    monkeypatch.setattr(InlinePool, "submit", watching)
    return seen


def scanned(submitted):
    return [mask for stage, mask in submitted if stage.embeddings]


def rows(tmp_path):
    return sorted((tmp_path / "cache").glob("displacements-*/*.npz"))


def test_predictions_are_watched_and_never_values(screening_config, submitted):
    config = screening_config()
    result = start(config).result
    several = [trial for trial in trials(config.folder) if "," in trial["mask"]]
    predicted = [mask for stage, mask in submitted if stage.predicted]
    assert result.surrogate.num_screened == len(predicted) >= 3 * 27 + len(several)
    assert 0 < result.surrogate.rank_correlation <= 1
    exact = {str(mask) for stage, mask in submitted if stage.split == "search" and not stage.predicted}
    assert {trial["mask"] for trial in trials(config.folder)} <= exact
    run = MlflowClient(tracking_uri=f"sqlite:///{config.folder.parent / 'mlflow.db'}").get_run(result.mlflow_run_id)
    assert run.data.metrics["surrogate_rank_correlation"] == pytest.approx(result.surrogate.rank_correlation)


def test_a_resumed_search_does_not_scan_again(screening_config, submitted, tmp_path):
    whole = screening_config("whole", budget__masks=60)
    start(whole)
    assert len(scanned(submitted)) == len(rows(tmp_path)) == SCAN
    start(screening_config("grown", budget__masks=30))
    submitted.clear()
    config = screening_config("grown", budget__masks=60)
    resume(config)
    assert scanned(submitted) == []
    assert trials(config.folder) == trials(whole.folder)
    assert outcome(config.folder) == outcome(whole.folder)


def test_rows_that_are_gone_are_computed_again_and_nothing_else(screening_config, submitted, tmp_path):
    whole = screening_config("whole", budget__masks=60)
    start(whole)
    config = screening_config("grown", budget__masks=30)
    start(config)
    first, second, *_ = rows(tmp_path)
    first.unlink()
    second.write_bytes(b"damaged")
    submitted.clear()
    resume(screening_config("grown", budget__masks=60))
    assert sorted(str(mask) for mask in scanned(submitted)) == sorted([first.stem, second.stem])
    assert trials(config.folder) == trials(whole.folder)
    assert len(rows(tmp_path)) == SCAN


def test_a_signal_stops_a_search_that_waits_for_predictions(screening_config, monkeypatch):
    whole, config = screening_config("whole"), screening_config("stopped")
    start(whole)
    submit, signals = InlinePool.submit, iter([signal.SIGINT])

    def interrupted(pool, stage, masks):
        if stage.predicted and (number := next(signals, None)):
            os.kill(os.getpid(), number)
        submit(pool, stage, masks)

    monkeypatch.setattr(InlinePool, "submit", interrupted)
    with pytest.raises(Interrupted):
        start(config)
    resume(config)
    assert trials(config.folder) == trials(whole.folder)


def test_nothing_is_predicted_with_a_head_that_fails_alone(screening_config, submitted, monkeypatch, tmp_path):
    score = Scorer.score

    def failing(self, masks_MLH, **kept):
        scores = score(self, masks_MLH, **kept)
        bad = [HeadMask.from_bools(mask_LH).words == (1, 0, 0) for mask_LH in masks_MLH]
        return [MaskScore({}, 0.0, "failed on 3 replicas") if b else s for b, s in zip(bad, scores, strict=True)]

    monkeypatch.setattr(Scorer, "score", failing)
    config = screening_config(budget__masks=30)
    start(config)
    assert len(rows(tmp_path)) == SCAN - 1
    proposed = [trial["mask"].split(",") for trial in trials(config.folder)[SCAN:]]
    assert not any("L0H0" in heads for heads in proposed)
    submitted.clear()
    resume(screening_config(budget__masks=40))
    assert scanned(submitted) == []


def test_a_mask_that_can_no_longer_be_scored_ends_a_resumed_search(screening_config, monkeypatch, tmp_path):
    start(screening_config(budget__masks=20))
    rows(tmp_path)[0].unlink()
    monkeypatch.setattr(Scorer, "score", lambda self, masks_MLH, **_: [MaskScore({}, 0.0, "lost")] * len(masks_MLH))
    with pytest.raises(HeadmaskError, match=r"has a value for mask L0H0, which cannot be scored any more \(lost\)"):
        resume(screening_config(budget__masks=40))


def test_a_search_killed_while_rows_are_written_goes_on_from_those_that_were(tiny_config, tmp_path):
    config = tiny_config("killed", budget__masks=60)
    killed([("rows", config)])
    written = {path: path.stat().st_mtime_ns for path in rows(tmp_path)}
    assert len(written) == 5
    resume(config)
    assert len(rows(tmp_path)) == SCAN
    assert written == {path: path.stat().st_mtime_ns for path in written}
    whole = tiny_config("whole", budget__masks=60)
    start(whole)
    assert trials(config.folder) == trials(whole.folder)


def test_nothing_is_predicted_before_the_scan_of_a_mixture_is_complete(tiny_config, submitted):
    start(tiny_config(budget__masks=60))
    predicted = [place for place, (stage, _) in enumerate(submitted) if stage.predicted]
    scan = [place for place, (stage, _) in enumerate(submitted) if stage.embeddings]
    assert len(scan) == SCAN
    assert max(scan) < min(predicted)
    several = [place for place, (stage, mask) in enumerate(submitted) if stage.split == "search" and len(mask) > 1]
    assert min(several) < max(scan)
    assert all(len(mask) <= 1 for stage, mask in submitted if stage.embeddings)


def test_a_mixture_that_ends_before_its_scan_does_predicts_nothing(tiny_config, submitted):
    result = start(tiny_config(budget__masks=20)).result
    assert result.surrogate.rank_correlation is None
    assert result.surrogate.num_screened == 0
    assert not [mask for stage, mask in submitted if stage.predicted]


def test_a_budget_within_the_scan_predicts_nothing_and_can_grow(screening_config, submitted):
    whole = screening_config("whole")
    start(whole)
    submitted.clear()
    config = screening_config("short", budget__masks=9, search__image_chunk=8)
    assert start(config).result.surrogate.rank_correlation is None
    assert not [mask for stage, mask in submitted if stage.predicted]
    resume(screening_config("short", search__image_chunk=8))
    assert len(scanned(submitted)) == SCAN


def test_ray_searches_as_the_inline_pool_does(screening_config, local_ray):
    inline, ray = screening_config("inline"), screening_config("ray", pool__kind="ray", pool__replicas=2)
    results = [start(config).result.surrogate for config in (inline, ray)]
    assert trials(ray.folder) == trials(inline.folder)
    assert results[0] == results[1]


@pytest.mark.parametrize("changes", ["text tower", "classification", "several data sets", "mean", "limits"])
def test_single_heads_are_predicted_in_every_kind_of_search(tiny_config, tiny_files, files, changes):  # noqa: F811
    labels = str(files / "labels.parquet")
    changes = {
        "text tower": {"search__tower": "text"},
        "classification": {"data__path": labels},
        "several data sets": {"data__path": [str(tiny_files[1]), labels]},
        "mean": {"search__ablation": "mean"},
        "limits": {"search__protect": ["L0H1"], "search__layers": [0, 2]},
    }[changes]
    session = prepare(tiny_config(**changes))
    pool = InlinePool(session.payload)
    session = session.settled(pool.settle(session.wanted))
    surrogate = make_surrogate(session, pool, print, lambda: False)
    scan = sorted(surrogate.missing)
    assert len(scan) == 1 + len(session.limits.free_heads(session.grid))
    results = score_all(pool, surrogate.scan_stage, scan)
    for result in results.values():
        surrogate.on_scored(result)
    exact = [session.search_value(results[mask].score.metrics) for mask in scan]
    # Rounding to float16 may flip a rank here and there.
    assert np.abs(surrogate.screen(scan) - exact).max() < 0.02
    assert len(set(exact)) > 3


class Said:
    """A display that remembers."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def update(self, progress, pool_status):
        pass

    def stop(self):
        pass


def test_displacements_that_need_too_much_memory_are_done_without(tiny_config):
    from orchestrator.run import begin

    config, display = tiny_config(search__surrogate_gib=1e-6), Said()
    outcome = begin.start(config, display)
    assert outcome.result.surrogate is None
    assert outcome.session.fingerprint["surrogate"] is False
    (line,) = [line for line in display.lines if "surrogate" in line]
    assert line == (
        "Searching without the surrogate: it takes 1.5e-05 GiB, more than the 1e-06 GiB that it may; allow more with "
        "--surrogate-gib"
    )


@pytest.mark.parametrize(
    ("device_gib", "host_gib", "driver_gib", "shards", "room_gib"),
    [(None, 16, 64, 1, 4), (140, 1000, 1000, 1, 35), (140, 1000, 1000, 4, 140), (140, 1000, 60, 4, 15)],
)
def test_the_surrogate_may_take_a_quarter_of_what_is_free_everywhere(
    tiny_session, device_gib, host_gib, driver_gib, shards, room_gib
):
    device_bytes = None if device_gib is None else device_gib * 2**30
    survey = replace(tiny_session.survey, device_bytes=device_bytes, host_bytes=host_gib * 2**30)
    session = replace(tiny_session, survey=survey, driver_bytes=driver_gib * 2**30, shards=shards)
    assert session.surrogate_room == room_gib * 2**30


def test_a_resumed_study_keeps_the_surrogate_whatever_is_free_now(tiny_config, monkeypatch):
    config = tiny_config(budget__masks=20)
    start(config)
    monkeypatch.setattr("orchestrator.search.session.free_host_bytes", lambda: 1)
    outcome = resume(tiny_config(budget__masks=24))
    assert outcome.session.fingerprint["surrogate"] is True
    assert not outcome.session.surrogate_fits


def test_a_search_without_is_another_study(tiny_config, submitted):
    config = tiny_config(search__surrogate=False)
    assert start(config).result.surrogate is None
    assert not [stage for stage, _ in submitted if stage.embeddings or stage.predicted]
    assert stored_config(str(config.folder), None).search.surrogate is False
    with_it, without = (prepare(tiny_config(search__surrogate=used)).fingerprint for used in (True, False))
    assert with_it != without


def test_a_scan_alone_leaves_nothing_to_predict(tiny_config, submitted):
    assert start(tiny_config(search__strategy="scan")).result.surrogate is None
    assert scanned(submitted) == []


def test_a_plan_counts_the_displacements(tiny_config):
    plans = [make_plan(tiny_config(search__surrogate=used)) for used in (True, False)]
    assert [plan["surrogate"] for plan in plans] == [True, False]
    assert plans[0]["fingerprint"] != plans[1]["fingerprint"]
