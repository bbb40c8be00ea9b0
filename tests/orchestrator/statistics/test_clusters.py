"""What is said where too few images are independent of each other, from the search to the page that compares."""

import json
import shutil
from dataclasses import replace

import pytest

from headmask.mask import HeadMask
from headmask.maskfile import MaskFile
from orchestrator.compare.comparison import compare
from orchestrator.compare.sources import Sources
from orchestrator.outcome.run import SearchRun
from orchestrator.outcome.schema import Prospects, SearchResult
from orchestrator.outcome.tables import sentences, split_rows
from orchestrator.search.preparing import prepare
from orchestrator.settings.objective import Goal
from orchestrator.statistics.clusters import Clusters, doubt, in_words, too_few
from orchestrator.statistics.paired import Evidence
from orchestrator.track.searchrun import _metrics
from orchestrator.verdict.decide import decide
from tests.orchestrator.studies import start
from tests.orchestrator.verdict.test_decide import EMPTY, GOOD, ScriptedPool, records
from tests.tiny import make_tiny_config, tiny_rows
from workers.data.dataset import Row, write_dataset
from workers.scoring.messages import MaskScore
from workers.tasks.metrics import Mix

SIZES = {"search": 24, "confirm": 20, "test": 30}


def few(number, largest, num_images, effective, data="photos"):
    return Clusters(data=data, number=number, largest=largest, num_images=num_images, effective=effective)


def write_captioned(path, captions_of):
    """Write the tiny images with the captions that a function makes of their own and their number."""
    rows = enumerate(tiny_rows(SIZES))
    write_dataset(path, (Row(row.path, row.image, captions_of(row.captions, n), row.split) for n, row in rows))
    return path


@pytest.fixture(scope="module")
def few_left(tmp_path_factory, tiny_files, empty_mlflow, pixel_cache):
    """A run folder of a search on images that have one of five captions, and nothing else. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("few")
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    data = write_captioned(folder / "few.parquet", lambda own, n: (f"class {n % 5}",))
    config = make_tiny_config((tiny_files[0], data), folder / "tiny", budget__masks=20)
    return start(config), config


class ThreeCaptions(ScriptedPool):
    """The same images are right as in `ScriptedPool`, with all their captions, of which there are three."""

    def score(self, stage, mask):
        score = super().score(stage, mask)
        (ranks,) = score.ranks
        ranks = {kind: found if kind.startswith("i2t") else found[::2].repeat(3) for kind, found in ranks.items()}
        return MaskScore(score.metrics, 0.0, ranks=(ranks,))


def test_a_caption_that_all_images_share_beside_their_own_changes_no_interval(tiny_config, tiny_session, tmp_path):
    data = write_captioned(tmp_path / "shared.parquet", lambda own, n: (*own, "a drawing"))
    session = prepare(tiny_config(data__path=str(data)))
    own = decide(tiny_session, records({GOOD: 0.6}), ScriptedPool({GOOD: 0.5}, num_turned=12))
    shared = decide(session, records({GOOD: 0.6}), ThreeCaptions({GOOD: 0.5}, num_turned=12))
    assert own.is_reliable
    assert shared.is_reliable
    assert shared.evidence.num_clusters == 30
    assert shared.evidence.interval == pytest.approx(own.evidence.interval)
    assert shared.evidence.p_value == own.evidence.p_value


@pytest.mark.parametrize("num_turned", [12, 30])
def test_where_all_images_have_one_caption_nothing_is_claimed(tiny_config, tmp_path, num_turned):
    data = write_captioned(tmp_path / "one.parquet", lambda own, n: ("a drawing",))
    session = prepare(tiny_config(data__path=str(data)))

    class OneCaption(ScriptedPool):
        def score(self, stage, mask):
            score = super().score(stage, mask)
            (ranks,) = score.ranks
            ranks = {kind: found if kind.startswith("i2t") else found[::2] for kind, found in ranks.items()}
            return MaskScore(score.metrics, 0.0, ranks=(ranks,))

    verdict = decide(session, records({GOOD: 0.6}), OneCaption({GOOD: 0.5}, num_turned))
    assert verdict.selected == GOOD
    assert (verdict.evidence.interval, verdict.evidence.p_value) == (None, None)
    assert verdict.recommended == EMPTY


def test_without_an_interval_a_guarded_data_set_is_not_shown_to_lose_little():
    goal = Goal("photos", Mix.parse("t2i_r1"), max_loss=0.5)
    assert not goal.holds(Evidence(None, None, 7, 3))
    assert goal.holds(Evidence((-0.4, 0.1), 0.5, 70, 30))
    assert not goal.holds(Evidence((-0.6, 0.1), 0.5, 70, 30))


def test_a_search_with_few_groups_says_so_and_leaves_none_of_what_misleads(few_left):
    _, config = few_left
    content = json.loads((config.folder / "result.json").read_text())
    found = SearchResult.model_validate(content)
    assert found.verdict == "no reliable improvement"
    test = content["splits"]["test"]
    assert test["clusters"] == [{"data": "few", "number": 5, "largest": 6, "num_images": 30, "effective": 5.0}]
    if found.selected:
        assert (test["interval"], test["p_value"]) == (None, None)
    assert content["prospects"]["standard_error"] is None
    text = "\n".join(sentences(found))
    assert "Only 5 independent groups of images on confirm: too few to say which smaller masks are as good" in text
    assert "which differences are noise is not known: only 5 independent groups of images on search" in (
        text.replace(" there is not", " is not")
    )
    assert [row[-1] for row in split_rows(found)] == ["optimistic", "chosen here", "never chosen on"]
    page = (config.folder / "report.html").read_text()
    assert '<th scope="col">independent groups</th>' in page
    assert "search/noise" not in dict(_metrics(found))
    assert dict(_metrics(found))["test/num_clusters"] == 5


def without_interval(result):
    """Return the result as it is where a mask was selected on few groups of images."""
    test = result.splits.test.model_copy(update={"interval": None, "p_value": None, "num_differing": 3})
    return result.model_copy(update={"splits": result.splits.model_copy(update={"test": test}), "selected": ["L0H0"]})


def test_the_sentence_says_why_there_is_no_interval(few_left):
    result = without_interval(few_left[0].result)
    (first, *_) = sentences(result)
    assert (
        "points on test, without a 95 % interval: only 5 independent groups of images on test; an interval needs"
        in (first)
    )
    assert "p =" not in first
    assert not {"test/interval_low", "test/interval_high", "test/p_value"} & dict(_metrics(result)).keys()


def test_every_consumer_of_a_result_copes_without_an_interval(few_left, tmp_path, headmask):
    folder = shutil.copytree(few_left[1].folder, tmp_path / "tiny")
    result = without_interval(SearchResult.model_validate_json((folder / "result.json").read_text()))
    result.write(folder / "result.json")
    run = SearchRun.read(folder)
    assert "without a 95 % interval" in str(run)
    assert "without a 95 % interval" in run._repr_html_()
    assert "too few independent groups" in run.plot().axes[1].get_title()
    code, _, err = headmask("report", folder, "--out", folder / "again.html")
    assert code == 0, err
    assert "No interval: too few independent groups of images." in (folder / "again.html").read_text()
    found = compare(Sources().find([str(folder), str(folder / "mask.json")]))
    assert next(each for each in found.runs if each.kind == "run folder").interval is None


def test_two_runs_on_few_groups_are_compared_without_intervals(few_left, tiny_config, tmp_path, headmask, undrawn):
    _, config = few_left
    other = tiny_config(
        data__path=config.data[0].path, budget__masks=20, output__folder=str(tmp_path / "other"), search__seed=1
    )
    start(other)
    code, out, err = headmask("compare", config.folder, other.folder, "--out", tmp_path / "c.html", "--json")
    assert code == 0, err
    found = json.loads(out[: out.rindex("}") + 1])
    assert (
        "Differences on test are given without intervals and p-values, and no mask is called as good there: only 5 "
        "independent groups of images on test; at least 20 are needed." in found["warnings"]
    )
    for run in found["runs"]:
        assert run["reference_p_value"] is None
        for split in ("confirm", "test"):
            assert (run[split]["difference"] or {"interval": None})["interval"] is None


def test_eval_on_few_groups_gives_no_interval_and_says_why(few_left, tmp_path, headmask):
    _, config = few_left
    mask = MaskFile.read(config.folder / "mask.json")
    one = HeadMask.from_text(mask.head_grid, "L0H0")
    path = tmp_path / "one.json"
    path.write_text(mask.model_copy(update={"heads": tuple(map(str, one.heads))}).model_dump_json())
    data = config.data[0].path
    code, out, _ = headmask("eval", "--mask", path, "--data", data, "--split", "test", "--json")
    found = json.loads(out)
    assert (code, found["interval"], found["p_value"], found["clusters"]["number"]) == (0, None, None, 5)
    _, out, _ = headmask("eval", "--mask", path, "--data", data, "--split", "test")
    assert "points, without a 95 % interval: only 5 independent groups of images on test of few.parquet" in " ".join(
        out.split()
    )
    _, out, _ = headmask("eval", "--mask", path, "--data", data, "--data", data, "--split", "test")
    assert "too few groups" in out
    assert "only 5 independent groups of images on test of few.parquet; an interval needs at least 20" in out


def test_results_of_earlier_versions_are_read(few_left):
    content = json.loads(few_left[0].result.model_dump_json())
    for split in content["splits"].values():
        del split["clusters"]
    del content["splits"]["test"]["num_differing"]
    content["splits"]["test"] |= {"interval": [0.01, 0.03], "p_value": 0.2}
    found = SearchResult.model_validate(content)
    assert "95 % interval +1.00 to +3.00, p = 0.2000" in sentences(found)[0]


def test_too_few_groups_are_said_by_what_they_count_for():
    assert too_few([few(20, 1, 20, 20.0)], "test") is None
    assert too_few([few(1, 30, 30, 1.0)], "test") == "only 1 independent group of images on test"
    assert too_few([few(61, 60, 120, 3.9344), few(90, 1, 90, 90.0, "other")], "test") == (
        "the 61 independent groups of images on test of photos count for 3.9, because the largest holds 60 of 120 "
        "images"
    )


def test_what_keeps_an_interval_above_zero_from_being_a_claim_is_said():
    good = Evidence((0.01, 0.03), 0.01, 100, 40)
    assert doubt(good) is None
    assert doubt(replace(good, interval=(-0.01, 0.03))) is None
    assert "only 1 independent group of images change at all" in doubt(replace(good, num_differing=1))
    assert "the permutation test does not agree" in doubt(replace(good, p_value=0.06))
    assert "has no width" in doubt(replace(good, interval=(0.02, 0.02)))


def test_intervals_in_words():
    assert in_words((0.01, 0.03), 0.01, None) == "95 % interval +1.00 to +3.00, p = 0.0100"
    assert in_words((0.01, 0.03), None, None) == "95 % interval +1.00 to +3.00"
    assert in_words(None, None, "only 7 independent groups of images on test") == (
        "without a 95 % interval: only 7 independent groups of images on test; an interval needs at least 20"
    )


def test_noise_is_not_known_without_a_standard_error():
    known = {"best": [], "delta": 0.0, "growth": [], "num_more": 0, "expected": None}
    assert Prospects(**known, standard_error=None).noise is None
    assert Prospects(**known, standard_error=0.01).noise == pytest.approx(0.0196)
