"""The command line: what it prints, one clear message for bad input, and exit codes."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import open_clip
import pytest
from PIL import Image

from headmask.apply.masked import load_pruned
from headmask.errors import ReplicasLostError
from headmask.mask import HeadGrid, HeadMask
from headmask.maskfile import MaskFile
from headmask.models.loading import load_model
from orchestrator.outcome.schema import SearchResult
from tests.orchestrator.studies import trials
from tests.tiny import write_tiny_dataset, write_tiny_model
from tests.workers.data.test_sources import (
    picture,
    write_coco,
    write_coco_cn,
    write_cola,
    write_karpathy,
    write_pictures,
    write_shard,
)
from workers.pool.inline import InlinePool

pytestmark = pytest.mark.usefixtures("undrawn")

HEAVY = (
    "torch",
    "open_clip",
    "ray",
    "optuna",
    "mlflow",
    "pyarrow",
    "matplotlib",
    "PIL",
    "pandas",
    "numpy",
    "sqlalchemy",
)


@pytest.fixture
def search_flags(tiny_files, runs):
    model, data = tiny_files
    return ["search", "--model", f"local-dir:{model}", "--data", data, "--out", runs / "first", "--no-precheck",
            "--pool", "inline", "--masks", "16", "--image-chunk", "16", "--precision", "float32"]  # fmt: skip


def test_help_imports_nothing_heavy():
    """What makes `headmask --help` answer at once."""
    program = (
        "import sys; sys.argv = ['headmask', '--help']\n"
        "from orchestrator.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert "Find the attention heads that hurt a CLIP model" in done.stdout


def test_importing_headmask_imports_nothing_heavy():
    program = f"import sys, headmask; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_search_begins_without_torch():
    """Ray starts, and replicas import what they need, while the driver does."""
    program = (
        "import sys, orchestrator.commands.ending, orchestrator.run.begin, workers.pool.ahead\n"
        "from orchestrator.search.scoring import Interrupted\n"
        "print({'torch', 'open_clip', 'mlflow', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.drawn
def test_the_main_job_from_photos_to_a_checkpoint(headmask, tiny_files, runs, tmp_path, search_flags):
    data = tiny_files[1]
    code, out, err = headmask(*search_flags)
    assert code == 0, err
    assert "mean_recall in points" in out
    assert "No reliable improvement" in out
    assert "16/16 masks" in out

    code, out, _ = headmask("resume", runs / "first", "--masks", 24)
    assert code == 0
    assert "24 masks in" in out
    nothing = (
        f"{runs / 'first' / 'mask.json'} ablates nothing: with it, the model is as it was. The best mask of its "
        f"search, which was not shown to help, is in {runs / 'first' / 'candidate.json'}."
    )
    assert nothing in out
    code, out, _ = headmask("eval", "--mask", runs / "first" / "mask.json", "--data", data, "--split", "confirm")
    assert (code, nothing in out) == (0, True)
    code, out, _ = headmask("export", "--mask", runs / "first" / "mask.json", "--out", tmp_path / "as-it-was")
    assert (code, nothing in out) == (0, True)
    code, out, _ = headmask(
        "explain", "--mask", runs / "first" / "mask.json", "--data", data, "--out", tmp_path / "explain"
    )
    assert (code, f"There is nothing to explain. {nothing}" in out) == (0, True)

    code, out, _ = headmask("eval", "--mask", runs / "first" / "candidate.json", "--data", data, "--split", "test")
    assert code == 0
    assert "mean_recall changes by" in out
    assert "95 % interval" in out

    target = tmp_path / "refined"
    code, out, _ = headmask("export", "--mask", runs / "first" / "candidate.json", "--out", target)
    assert code == 0
    assert f'open_clip.create_model("local-dir:{target}")' in out
    open_clip.create_model(f"local-dir:{target}")
    target = tmp_path / "smaller"
    code, out, _ = headmask("export", "--mask", runs / "first" / "candidate.json", "--out", target, "--prune", "--json")
    assert code == 0
    said = json.loads(out)
    assert (said["checkpoint"], said["pruned"]) == (str(target), True)
    before, after = said["footprints"]["before"], said["footprints"]["after"]
    assert before["parameters"] > after["parameters"]
    assert before["flops"] > after["flops"]
    assert min(before["latency_ms"], after["latency_ms"]) > 0
    assert said["footprints"]["timing"]["batch"] >= 1
    assert "**No reliable improvement**" in (target / "README.md").read_text()


def test_json_is_all_there_is_on_standard_output(headmask, search_flags, runs, tiny_files):
    code, out, err = headmask(*search_flags, "--json")
    assert code == 0
    result = SearchResult.model_validate_json(out)
    assert result.num_masks == 16
    assert "Loading local-dir:" in err
    mask = runs / "first" / "candidate.json"
    code, out, _ = headmask("eval", "--mask", mask, "--data", tiny_files[1], "--split", "test", "--json")
    evaluation = json.loads(out)
    assert evaluation["delta"] == pytest.approx(result.splits.test.delta)
    assert evaluation["interval"] == pytest.approx(list(result.splits.test.interval))
    assert evaluation["p_value"] == result.splits.test.p_value


def test_eval_scores_a_whole_file_by_default(headmask, search_flags, runs, tiny_files):
    headmask(*search_flags)
    _, out, _ = headmask("eval", "--mask", runs / "first" / "mask.json", "--data", tiny_files[1], "--json")
    evaluation = json.loads(out)
    assert (evaluation["split"], evaluation["num_images"], evaluation["num_captions"]) == ("all", 74, 148)


def test_a_plan_says_what_would_be_done_and_writes_nothing(headmask, search_flags, runs):
    before = sorted(runs.iterdir())
    code, out, _ = headmask(*search_flags, "--plan", "--json")
    plan = json.loads(out)
    assert code == 0
    assert (plan["masks"], plan["grid"]) == (16, "3 layers x 4 heads of the image tower")
    assert (plan["precision"], plan["image_chunk"]) == ("float32", 16)
    # 16 steps of training cost as much as 48 masks of 24 images; 16 masks share prefixes; finalists and the two test
    # masks are counted in full.
    assert 48 + 3 < plan["search_in_plain_forward_passes"] < 48 + 14
    in_full = (16 + 40) * 20 + 2 * 30
    assert plan["forwards"] == pytest.approx(plan["search_in_plain_forward_passes"] * 24 + in_full, abs=2)
    assert plan["forwards_per_second_of_one_replica"] > 0
    assert (plan["speed"], plan["replicas"], plan["width"], plan["shards"]) == ("measured here", "auto", 16, 1)
    at_speed = json.loads(headmask(*search_flags, "--speed", 10, "--plan", "--json")[1])
    assert at_speed["forwards_per_second_of_one_replica"] == 10
    assert at_speed["replica_hours"] == pytest.approx(at_speed["forwards"] / 36_000, abs=1e-3)
    # One replica, in this process, waits for planning alone.
    assert at_speed["hours"] == pytest.approx(at_speed["replica_hours"], rel=0.02)
    assert 0.9 < at_speed["replicas_busy"] <= 1
    assert sorted(runs.iterdir()) == before


def test_a_plan_counts_the_heads_that_may_be_ablated_and_says_all_budgets(headmask, search_flags):
    flags = [*search_flags, "--masks", 500, "--layers", "1,2", "--protect", "L1H0", "--max-heads", 2]
    plan = json.loads(headmask(*flags, "--plan", "--json")[1])
    assert (plan["masks"], plan["stops_at"]) == (1 + 7 + 21, "500 masks")
    spent = plan["image_forwards"] // 2
    limits = ["--image-forwards", spent, "--patience", 3]
    limited = json.loads(headmask(*search_flags, "--masks", 500, *limits, "--plan", "--json")[1])
    assert limited["stops_at"] == (
        f"500 masks or {spent} image forwards or 3 blocks without a better mask, whichever comes first"
    )
    assert spent <= limited["image_forwards"]
    assert json.loads(headmask(*search_flags, "--strategy", "scan", "--plan", "--json")[1])["masks"] == 13


def test_masks_keep_to_the_limits_of_size(headmask, search_flags, runs):
    limits = ["--layers", "1,2", "--protect", "L1H0", "--max-heads", 2, "--masks", 60]
    code, out, err = headmask(*search_flags, *limits, "--json")
    assert code == 0, err
    result = SearchResult.model_validate_json(out)
    assert (result.num_masks, result.stopped_by) == (1 + 7 + 21, "exhausted")
    masks = [HeadMask.from_text(HeadGrid(3, 4), row["mask"]) for row in trials(runs / "first")]
    assert max(map(len, masks)) == 2
    heads = {str(head) for mask in masks for head in mask.heads}
    assert heads == {f"L{layer}H{head}" for layer in (1, 2) for head in range(4)} - {"L1H0"}


def test_a_limit_is_lifted_when_a_study_is_resumed(headmask, search_flags, runs):
    code, out, _ = headmask(*search_flags, "--masks", 400, "--image-forwards", 1)
    assert code == 0
    assert "Stopped at the end of the block in which the budget of image forwards ran out." in " ".join(out.split())
    assert "8 masks in" in out
    _, out, _ = headmask("resume", runs / "first", "--image-forwards", 0, "--masks", 20)
    assert "Stopped at the budget of masks." in out
    assert "20 masks in" in out


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_the_heads_of_the_text_tower_can_be_searched(headmask, search_flags, runs, tiny_files, ablation):
    code, out, err = headmask(
        *search_flags, "--tower", "text", "--ablation", ablation, "--guide", "objective", "--json"
    )
    assert code == 0, err
    result = SearchResult.model_validate_json(out)
    mask = MaskFile.read(runs / "first" / "candidate.json")
    assert (mask.tower, mask.grid.layers, mask.grid.heads) == ("text", 2, 2)
    code, out, _ = headmask(
        "eval", "--mask", runs / "first" / "candidate.json", "--data", tiny_files[1], "--split", "test", "--json"
    )
    assert json.loads(out)["masked"] == pytest.approx(result.splits.test.selected)
    code, _, err = headmask("resume", runs / "first", "--masks", "16")
    assert code == 0, err
    export = ["export", "--mask", runs / "first" / "candidate.json", "--no-latency"]
    code, out, _ = headmask(*export, "--out", runs / "folded")
    assert code == 0
    open_clip.create_model(f"local-dir:{runs / 'folded'}")
    code, out, _ = headmask(*export, "--out", runs / "pruned", "--prune")
    assert code == 0
    assert "parameters of the text tower" in out
    assert load_pruned(runs / "pruned").clip


def test_a_chosen_chunk_and_precision_are_said_and_kept_and_planned(headmask, search_flags, runs):
    flags = search_flags[: search_flags.index("--image-chunk")]
    code, out, _ = headmask(*flags, "--plan", "--speed", "100", "--json")
    planned = json.loads(out)
    code, out, _ = headmask(*flags)
    assert code == 0
    said = re.search(
        r"Searching in (\w+)(?:, in which this hardware computes)?, (\d+) images at a time", " ".join(out.split())
    )
    assert (planned["precision"], str(planned["image_chunk"])) == said.groups()
    assert planned["fingerprint"] == json.loads((runs / "first" / "result.json").read_text())["fingerprint"]
    kept = json.loads((runs / "first" / "config.json").read_text())["search"]
    assert (kept["precision"], str(kept["image_chunk"])) == said.groups()
    code, _, err = headmask("resume", runs / "first", "--masks", "20")
    assert code == 0, err


def test_the_schema_of_the_result_is_printed(headmask):
    code, out, _ = headmask("schema")
    assert code == 0
    assert json.loads(out) == SearchResult.model_json_schema()


def test_a_toml_file_is_a_search(headmask, tiny_files, runs, tmp_path):
    model, data = tiny_files
    (tmp_path / "search.toml").write_text(
        f'[model]\nname = "local-dir:{model}"\n[data]\npath = "{data}"\n[output]\nfolder = "{runs / "toml"}"\n'
        '[search]\nstrategy = "scan"\ngate = false\n[pool]\nkind = "inline"\n'
    )
    code, out, err = headmask("search", tmp_path / "search.toml", "--json")
    assert code == 0, err
    assert SearchResult.model_validate_json(out).num_masks == 13


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--model", "ViT-B-33"], "open_clip has no architecture 'ViT-B-33', did you mean ViT-B-32?"),
        (["--model", "ViT-B-32"], "ViT-B-32 needs weights: pass pretrained, a tag (openai,"),
        (["--data", "none.parquet"], "there is no data file at none.parquet; make one with `headmask data build`"),
        (["--objective", "recall"], "search.objective: must be one of mean_recall, t2i_r1,"),
        (["--strategy", "annealing"], "strategy must be one of scan, genetic, pairwise, scales, mixture,"),
        (["--shortlist", "9"], "search.shortlist: a shortlist of heads is an option of tpe and nsga2; got 9"),
        (["--strategy", "gates"], "strategy must be one of scan, genetic, pairwise, scales, mixture,"),
        (["--gate-share", "0.2"], "No such option: --gate-share"),
        (["--layers", "1,x"], "--layers must be numbers separated by commas; got '1,x'"),
        (["--layers", "7"], "layer 7 is not on grid 3x4: layers are 0..2"),
        (["--protect", "L1H9"], "protected head L1H9 is not on grid 3x4"),
        (["--protect", "first"], "search.protect"),
        (["--masks", "0"], "budget.masks: must be greater than or equal to 1, got 0"),
        (["--patience", "-1"], "budget.patience: must be greater than or equal to 1, got -1"),
        (["--image-forwards", "1.5"], "Invalid value for '--image-forwards'"),
        (["--masks", "many"], "Invalid value for '--masks'"),
        (["--pool", "cloud"], "pool.kind: must be 'ray' or 'inline', got 'cloud'"),
        (["--storage", "mongodb://x"], "--storage must be a file or a URL of sqlite, postgresql, mysql; got mongodb://x"),
        (["--nonsense"], "No such option: --nonsense"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message_and_exit_code_2(headmask, search_flags, runs, changes, message):
    code, out, err = headmask(*search_flags, *changes)
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in out + err
    assert not (runs / "first").exists()


def test_chance_level_is_refused_without_no_precheck(headmask, search_flags):
    code, _, err = headmask(*(flag for flag in search_flags if flag != "--no-precheck"))
    assert code == 2
    assert "scores at chance level" in err
    assert "or pass --no-precheck" in err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["resume", "nowhere"], "there is no run folder at nowhere"),
        (["resume", "mine", "--storage", "nowhere.journal"], "there is no study at nowhere.journal"),
        (["eval", "--mask", "none.json", "--data", "d.parquet"], "there is no mask file at none.json"),
        (["export", "--mask", "none.json", "--out", "x"], "there is no mask file at none.json"),
        (["search", "none.toml"], "there is no configuration file at none.toml"),
        (["data", "build", "--images", "none", "--captions", "none.csv", "--out", "o.parquet"], "none"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
)
def test_what_is_not_there_is_one_message_and_exit_code_2(headmask, tmp_path, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = headmask(*command)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []


def test_a_mask_of_another_model_is_refused(headmask, search_flags, runs, tmp_path, tiny_files):
    headmask(*search_flags)
    other = write_tiny_model(tmp_path / "other", seed=9)
    for command in (["eval", "--data", tiny_files[1]], ["export", "--out", tmp_path / "out"]):
        code, _, err = headmask(*command, "--mask", runs / "first" / "mask.json", "--model", f"local-dir:{other}")
        assert code == 2
        assert "this mask was made for" in err


def test_photos_of_all_kinds_become_a_data_set(headmask, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(256, size=(40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    colours.save(folder / "turned.jpg", exif=exif)
    colours.convert("CMYK").save(folder / "cmyk.jpg")
    colours.convert("L").save(folder / "grey.png")
    colours.quantize(16).save(folder / "palette.png")
    colours.convert("RGBA").save(folder / "alpha.webp", lossless=True)
    Image.fromarray((np.arange(2400).reshape(40, 60) * 27).astype(np.uint16)).save(folder / "deep.png")
    (folder / "torn.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:400])
    names = ["turned.jpg", "cmyk.jpg", "grey.png", "palette.png", "alpha.webp", "deep.png", "torn.jpg", "missing.png"]
    with open(tmp_path / "captions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows([name, f"a picture called {name}"] for name in names)
    command = ["data", "build", "--from", "folder", "--images", folder, "--captions", tmp_path / "captions.csv",
               "--out", tmp_path / "my.parquet"]  # fmt: skip
    code, _, err = headmask(*command)
    assert code == 2
    assert "the source has 2 bad rows; mend them, or pass --on-bad-row skip:" in err
    assert "line 8 (torn.jpg): cannot be read as an image" in err
    assert "line 9 (missing.png): there is no image 'missing.png'" in err
    assert not (tmp_path / "my.parquet").exists()
    code, out, _ = headmask(*command, "--on-bad-row", "skip")
    assert code == 0
    assert "my.parquet: 6 images, 6 captions" in out
    assert out.count("left out: line") == 2


@pytest.mark.parametrize(
    ("pool", "number"), [("inline", signal.SIGINT), pytest.param("ray", signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_stops_saves_and_says_how_to_go_on(search_flags, runs, tmp_path, pool, number):
    """In a process of its own, by the signal itself."""
    command = [sys.executable, "-m", "orchestrator.cli", *map(str, search_flags)]
    command[command.index("--masks") + 1] = "4000"
    command[command.index("--pool") + 1] = pool
    command += ["--replicas", "1"]
    with open(tmp_path / "out", "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    journal, deadline = runs / "first" / "study.journal", time.monotonic() + 120
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") > 40):
        time.sleep(0.1)
    os.kill(process.pid, number)
    assert process.wait(90) == 130, (tmp_path / "out").read_text()
    printed = (tmp_path / "out").read_text()
    assert "Interrupted. What was scored is saved; continue with: headmask resume" in printed
    assert "Traceback" not in printed


def test_replicas_that_fit_nowhere_are_bad_input(headmask, search_flags, local_ray):
    code, _, error = headmask(*search_flags, "--pool", "ray", "--threads", 64)
    assert (code, "no replica can be placed" in error) == (2, True)
    assert "start it again" not in error


def test_replicas_that_are_lost_for_good_are_worth_another_try(headmask, search_flags, runs, monkeypatch):
    collect, count = InlinePool.collect, iter(range(4))

    def breaking(pool, timeout_s):
        if next(count, None) is None:
            raise ReplicasLostError("replicas keep dying")
        return collect(pool, timeout_s)

    with monkeypatch.context() as broken:
        broken.setattr(InlinePool, "collect", breaking)
        code, _, error = headmask(*search_flags)
    assert (code, error.splitlines()[-1]) == (
        75,
        f"headmask: replicas keep dying. What was scored is saved; continue with: headmask resume {runs / 'first'}",
    )
    assert headmask("resume", runs / "first")[0] == 0


COLA = "COLA_multiobjects_matching_benchmark.json"
SOURCES = {
    "coco": lambda folder: ["--captions", folder / "captions_val2014.json", "--images", folder / "images"],
    "karpathy": lambda folder: ["--captions", folder / "dataset_flickr30k.json", "--images", folder / "images"],
    "flickr30k": lambda folder: ["--captions", folder / "results.token", "--images", folder / "images"],
    "coco-cn": lambda folder: ["--captions", folder / "coco-cn", "--images", folder / "images"],
    "flickr30k-cna": lambda folder: ["--captions", folder / "flickr30k_cna_test.txt", "--images", folder / "images"],
    "parquet": lambda folder: ["--files", folder / "hub" / "*.parquet"],
    "webdataset": lambda folder: ["--files", folder / "wds"],
    "imagefolder": lambda folder: ["--images", folder / "classes"],
    "cola": lambda folder: ["--captions", folder / COLA, "--images", folder / "images"],
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """One small data set in every layout that there is."""
    folder = tmp_path_factory.mktemp("originals")
    coco_names = write_coco(folder / "captions_val2014.json", "val", [104, 2, 3])
    flickr_names = write_karpathy(folder / "dataset_flickr30k.json", ["train", "val", "test"], is_coco=False)
    (folder / "results.token").write_text("".join(f"{name}#0\ta dog\n{name}#1\tone dog\n" for name in flickr_names))
    write_coco_cn(folder / "coco-cn")
    (folder / "flickr30k_cna_test.txt").write_text(f"{flickr_names[0][:-4]}#0\t两个人\n", encoding="utf-8")
    cn_names = [f"COCO_train2014_{n:012d}.jpg" for n in (101, 103)] + ["COCO_val2014_000000000102.jpg"]
    write_pictures(folder / "images", *coco_names, *flickr_names, *cn_names, "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    write_tiny_dataset(folder / "hub" / "train.parquet")
    write_shard(folder / "wds" / "test" / "0.tar", [("a.jpg", picture(0)), ("a.txt", b"one\ntwo")])
    write_pictures(folder / "classes", *(f"{name}/{n}.jpg" for name in ("cat", "dog") for n in range(3)))
    write_cola(folder, (1, 2), (3, 4))
    return folder


@pytest.mark.parametrize("source", SOURCES)
def test_every_layout_is_built_shown_and_scored(headmask, originals, tmp_path, source, tiny_files):
    out = tmp_path / "out.parquet"
    code, printed, err = headmask(
        "data", "build", "--from", source, *SOURCES[source](originals), "--out", out, "--json"
    )
    assert (code, err) == (0, "")
    built = json.loads(printed)
    code, printed, err = headmask("data", "show", out, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(printed)
    assert shown["num_images"] == built["num_images"]
    assert (
        shown["task"] == built["task"] == {"imagefolder": "classification", "cola": "matching"}.get(source, "retrieval")
    )
    with Image.open(shown["contact_sheet"]) as sheet:
        assert sheet.width > 900
        assert len(set(sheet.convert("L").tobytes())) > 20
    mask = MaskFile(
        model=load_model(f"local-dir:{tiny_files[0]}").reference, grid={"layers": 3, "heads": 4}, heads=["L0H1", "L2H3"]
    )
    mask.write(tmp_path / "mask.json")
    code, printed, err = headmask("eval", "--mask", tmp_path / "mask.json", "--data", out, "--json")
    assert code == 0, err
    scored = json.loads(printed)
    assert scored["num_images"] == built["num_images"]
    assert scored["objective"] == {"imagefolder": "top1", "cola": "group_score"}.get(source, "mean_recall")


TWO_FILES = ["--images", ".", "--captions", "a", "--captions", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "parquet"], "--from parquet needs --files"),
        (["--from", "coco"], "--from coco needs --images and --captions"),
        (["--from", "imagefolder"], "--from imagefolder needs --images"),
        (["--from", "coco-cn", *TWO_FILES], "takes one --captions, a folder or a file; got 2"),
        (["--from", "folder", *TWO_FILES], "takes one --captions; got 2"),
    ],
)
def test_options_that_a_source_lacks_are_named(headmask, tmp_path, arguments, message):
    code, _, err = headmask("data", "build", *arguments, "--out", tmp_path / "out.parquet")
    assert code == 2
    assert message in err


def test_limits_of_loss_are_parsed(headmask, search_flags, tiny_files):
    code, _, err = headmask(*search_flags, "--max-loss", "data")
    assert (code, err) == (2, "headmask: --max-loss must be NAME=POINTS, such as coco=0.5; got 'data'\n")
    code, _, err = headmask(*search_flags, "--data", tiny_files[1], "--max-loss", "date=1")
    assert code == 2
    assert "there is no data set 'date', did you mean data" in err
