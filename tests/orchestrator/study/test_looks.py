"""Looks at test splits are counted over run folders, the cache and storages, whatever happened to the files."""

import json
import subprocess
import sys

import pytest

from headmask.mask import HeadGrid, HeadMask
from orchestrator.study import looks as ledger
from orchestrator.study.looks import FILE, Look, keep_looks, kept_looks, looks_at, looks_of_study, most_looks
from tests.orchestrator.studies import start

pytestmark = pytest.mark.usefixtures("undrawn")

GRID = HeadGrid(3, 4)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def looks(words, model="m", split="s"):
    return looks_at([split], HeadMask(GRID, words), model=model)


def test_a_mask_of_a_model_on_a_split_is_one_look(cache, tmp_path):
    run = tmp_path / "runs" / "a"
    for words, model in (((1, 0, 0), "m"), ((1, 0, 0), "m"), ((2, 0, 0), "m"), ((1, 0, 0), "other")):
        keep_looks(looks(words, model), run)
    keep_looks(looks((4, 0, 0), split="another"), run)
    assert most_looks(kept_looks(run), ["s"]) == 3
    assert most_looks(kept_looks(run), ["s", "another", "none"]) == 3
    assert most_looks(kept_looks(run), []) == 0
    for path in (cache / FILE, run.parent / FILE):
        assert len(path.read_text().splitlines()) == 4


def test_either_file_alone_is_enough(cache, tmp_path):
    run = tmp_path / "runs" / "a"
    keep_looks(looks((1, 0, 0)), run)
    (cache / FILE).unlink()
    assert most_looks(kept_looks(run), ["s"]) == 1
    keep_looks(looks((2, 0, 0)), tmp_path / "elsewhere" / "b")
    assert most_looks(kept_looks(run), ["s"]) == 2
    assert most_looks(kept_looks(None), ["s"]) == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"garbage\n",
        b"\xff\xfe\x00\n",
        b'{"split": 3, "words": "x"}\n',
        b"[" * 10_000 + b"\n",
        b'{"split": "s", "wo',
        b"x" * 200_000,
    ],
)
def test_what_is_damaged_is_left_out_and_the_rest_counts(cache, tmp_path, damage):
    keep_looks(looks((1, 0, 0)), None)
    with (cache / FILE).open("ab") as file:
        file.write(damage)
    keep_looks(looks((2, 0, 0)), None)
    assert most_looks(kept_looks(None), ["s"]) == 2
    assert json.loads((cache / FILE).read_bytes().split(b"\n")[-2])["words"] == [2, 0, 0]


def test_a_file_that_cannot_be_written_or_read_is_said(cache, tmp_path, caplog):
    (tmp_path / "runs" / FILE).mkdir(parents=True)
    keep_looks(looks((1, 0, 0)), tmp_path / "runs" / "a")
    assert "the look at the test split is not kept in" in caplog.text
    assert most_looks(kept_looks(tmp_path / "runs" / "a"), ["s"]) == 1
    assert "are not counted" in caplog.text


FOUR_LOOKS = """
import sys
from headmask.mask import HeadGrid, HeadMask
from orchestrator.study.looks import keep_looks, looks_at
for number in range(int(sys.argv[1]), 16, 4):
    keep_looks(looks_at(["s"], HeadMask(HeadGrid(3, 4), (number, 0, 0)), model="m"), None)
"""


def test_looks_of_processes_at_once_are_all_kept(cache):
    processes = [subprocess.Popen([sys.executable, "-c", FOUR_LOOKS, str(number)]) for number in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    assert most_looks(kept_looks(None), ["s"]) == 16


def test_looks_of_older_studies_are_those_of_their_model():
    attrs = {
        ledger.ATTR: [{"split": "s", "words": [1, 0, 0]}, "damaged", {"split": 3}],
        "fingerprint": {"model": "m", "tower": "text", "ablation": "mean"},
    }
    assert looks_of_study(attrs) == {Look(split="s", words=(1, 0, 0), model="m", tower="text", ablation="mean")}
    assert looks_of_study({ledger.ATTR: 3}) == set()
    assert looks_of_study({}) == set()


def test_searches_with_journals_of_their_own_and_eval_count_each_others_looks(cache, tiny_config, headmask):
    options = {"budget__masks": 16, "search__precheck": False}
    first = start(tiny_config("a", **options))
    heads = tuple(map(str, first.verdict.selected.heads))
    second = start(tiny_config("b", search__protect=heads, **options))
    assert heads
    assert (first.result.test_looks, second.result.test_looks) == (1, 2)
    masks = {tuple(outcome.verdict.selected.words) for outcome in (first, second)}
    config = second.session.config
    mask, data = config.folder / "mask.json", config.data[0].path
    number = len(masks | {tuple(second.verdict.recommended.words)})
    for _ in range(2):  # The same again is the same look.
        code, out, _ = headmask("eval", "--mask", mask, "--data", data, "--split", "test", "--json")
        assert code == 0
        assert json.loads(out)["test_looks"] == number
    code, out, _ = headmask("eval", "--mask", mask, "--data", data, "--split", "confirm", "--json")
    assert json.loads(out)["test_looks"] is None
