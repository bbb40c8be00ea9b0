"""The Python interface: what the command line does, typed, with results to go on with."""

import math

import pytest

import headmask
from headmask.errors import ConfigError, StudyError
from headmask.mask import HeadMask
from headmask.models.loading import load_model
from orchestrator.settings.options import RESUME, SCAN, SEARCH
from orchestrator.settings.typed import ResumeOptions, ScanOptions, SearchOptions
from tests.orchestrator.studies import start, trials

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def options(tiny_files):
    model, data = tiny_files
    settings = {"pool": "inline", "precheck": False, "image_chunk": 16, "precision": "float32"}
    return {"model": f"local-dir:{model}", "data": data, **settings}


def test_every_option_of_the_command_line_is_typed():
    assert set(SearchOptions.__annotations__) == set(SEARCH)
    assert set(ScanOptions.__annotations__) == set(SCAN) < set(SEARCH)
    assert set(ResumeOptions.__annotations__) == set(RESUME) < set(SEARCH)


def test_a_resumed_search_is_one_that_never_stopped(options, runs):
    headmask.search(**options, out=runs / "whole", masks=24)
    headmask.search(**options, out=runs / "parts", masks=16)
    run = headmask.resume(runs / "parts", masks=24)
    assert run.num_masks == 24
    for name in ("words", "value", "strategy"):
        assert [row[name] for row in trials(runs / "parts")] == [row[name] for row in trials(runs / "whole")]


def test_a_study_is_resumed_by_name(options, runs):
    storage = str(runs / "team.journal")
    headmask.search(**options, out=runs / "first", masks=16, storage=storage, study="mine")
    run = headmask.resume("mine", storage=storage, masks=20, out=runs / "elsewhere")
    assert (run.num_masks, run.folder) == (20, runs / "elsewhere")


def test_a_scan_is_what_a_search_scores_first(options, tiny_config, tmp_path):
    config = tiny_config(search__strategy="scan", budget__masks=13)
    start(config)
    by_mask = {row["mask"]: row for row in trials(config.folder)}
    heads = headmask.scan(**options)
    assert list(heads.index) == [f"L{layer}H{head}" for layer in range(3) for head in range(4)]
    assert heads[["layer", "head"]].to_numpy().tolist() == [[layer, head] for layer in range(3) for head in range(4)]
    assert heads.attrs["objective"] == "mean_recall"
    for name, row in heads.iterrows():
        for metric, value in heads.attrs["baseline"].items():
            assert row[metric] == by_mask[name][metric]
            assert value == by_mask[""][metric]
            assert row[f"delta_{metric}"] == row[metric] - value
        assert row["delta"] == row["delta_mean_recall"]
    assert heads["failure"].isna().all()


def test_a_scan_leaves_nothing_behind(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    headmask.scan(**options, layers=[1])
    assert list(tmp_path.iterdir()) == []


def test_a_scan_scores_no_test_split(options, monkeypatch):
    from workers.scoring.replica import Replica

    places, score = [], Replica.score
    monkeypatch.setattr(
        Replica, "score", lambda self, stage, *rest: places.append(stage.split) or score(self, stage, *rest)
    )
    headmask.scan(**options)
    headmask.scan(**options, split="confirm")
    assert set(places) == {"search", "confirm"}


def test_a_scan_keeps_to_the_heads_that_may_be_ablated(options):
    heads = headmask.scan(**options, layers=[0, 2], protect=["L0H1"], objective="0.5*t2i_r1 + 0.5*i2t_r1")
    assert list(heads.index) == ["L0H0", "L0H2", "L0H3", "L2H0", "L2H1", "L2H2", "L2H3"]
    assert heads["delta"].to_numpy() == pytest.approx((heads["delta_t2i_r1"] + heads["delta_i2t_r1"]).to_numpy() / 2)
    assert heads["0.5*t2i_r1 + 0.5*i2t_r1"].between(0, 1).all()


def test_a_scan_reads_the_file_of_a_search(options, tmp_path):
    (tmp_path / "search.toml").write_text(
        f'[model]\nname = "{options["model"]}"\n[data]\npath = "{options["data"]}"\n'
        "[search]\ngate = false\nimage_chunk = 16\nlayers = [2]\n[pool]\nkind = 'inline'\n"
        f'[output]\nfolder = "{tmp_path / "run"}"\n'
    )
    assert len(headmask.scan(tmp_path / "search.toml")) == 4
    assert not (tmp_path / "run").exists()


def test_a_head_that_cannot_be_scored_says_why(options, monkeypatch):
    from workers.scoring import messages, replica

    score = replica.Replica.score

    def failing(self, stage, grid, words):
        scores = score(self, stage, grid, words)
        broken = HeadMask.from_text(grid, "L1H1").words
        return [
            messages.MaskScore({}, 0.0, "NaN") if tuple(word) == broken else each
            for word, each in zip(words, scores, strict=True)
        ]

    monkeypatch.setattr(replica.Replica, "score", failing)
    heads = headmask.scan(**options)
    assert heads.loc["L1H1", "failure"] == "NaN"
    assert math.isnan(heads.loc["L1H1", "delta"])
    assert heads["failure"].isna().sum() == 11


@pytest.mark.parametrize(
    ("call", "wrong", "message"),
    [
        (headmask.search, {"mask": 20}, r"mask: unknown option, did you mean masks\?"),
        (headmask.scan, {"masks": 20}, r"masks: unknown option"),
        (headmask.scan, {"split": "test"}, "split must be search or confirm; got 'test'"),
        (headmask.scan, {"model": None}, "model: say which model"),
    ],
)
def test_wrong_options_are_refused(options, call, wrong, message):
    with pytest.raises(ConfigError, match=message):
        call(**{**options, **wrong})


def test_what_cannot_change_is_refused_when_a_study_goes_on(tmp_path):
    with pytest.raises(ConfigError, match="model: unknown option"):
        headmask.resume(tmp_path, model="ViT-B-32")
    with pytest.raises(StudyError, match="there is no run folder"):
        headmask.resume(tmp_path / "nowhere")


def test_progress_is_shown_when_asked_for(options, runs, capsys):
    headmask.search(**options, out=runs / "loud", masks=16, progress=True)
    assert "16/16 masks" in capsys.readouterr().out


def test_the_mask_of_a_search_goes_into_its_model(options, runs):
    run = headmask.search(**options, out=runs / "first", masks=16)
    source = load_model(options["model"])
    assert headmask.load(source, run.mask).tokenizer is source.tokenizer
