"""Damaged run folders and journals over the commands that read them, and replicas that cannot be had."""

import json
import os
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.settings.config import read_config
from tests.malformed.case import Case

NAME = "run"
LOCKS = (f"{NAME}/study.journal.",)
_ABOUT = {"model": "0" * 64, "grid": "3x4", "objective": "mean_recall", "guide": "mean_recall", "task": "retrieval"}


def config(folder):
    """Return the configuration of a run folder."""
    flags = {"model.name": "ViT-B-32", "data.path": "d.parquet", "output.folder": str(folder), "pool.kind": "inline"}
    return read_config(None, flags).public()


def journal(folder, **attrs):
    """Write a study of a few trials."""
    from headmask.mask import HeadGrid, HeadMask
    from orchestrator.study.records import TrialRecord
    from orchestrator.study.store import StudyStore

    grid = HeadGrid(3, 4)
    content = {"config": config(folder), "fingerprint": _ABOUT, **attrs}
    with StudyStore.create(str(folder / "study.journal"), NAME, content) as store:
        for number in range(4):
            value = number / 8
            store.append(TrialRecord(number, HeadMask(grid, (number, 0, 0)), value, {"mean_recall": value}, "scan"))
    for beside in folder.glob("study.journal.*"):
        beside.unlink()
    return folder / "study.journal"


def finished(cwd, *, number=0):
    """Write a finished run folder."""
    from benchmarks.compare import write_run

    if not number:
        finished(cwd, number=1)
    folder = cwd / (NAME if not number else f"{NAME}{number}")
    write_run(folder, number, 8)
    (folder / "config.json").write_text(json.dumps(config(folder.relative_to(cwd))))
    return folder


def stopped(cwd, **attrs):
    """Write a run folder of a search that has not ended."""
    folder = cwd / NAME
    folder.mkdir()
    os.chdir(cwd)
    journal(Path(NAME), **attrs)
    (folder / "config.json").write_text(json.dumps(config(NAME)))
    return folder


def with_file(name, content, begin=finished):
    """Return what makes a run folder in which a file has another content."""

    def make(cwd):
        path = begin(cwd) / name
        path.parent.mkdir(exist_ok=True)
        if path.is_file():
            path.unlink()
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def changed(name, before, after, begin=finished):
    """Return what makes a run folder in which some bytes of a file are others."""

    def make(cwd):
        path = begin(cwd) / name
        content = path.read_bytes()
        assert before in content, content[:300]
        path.write_bytes(content.replace(before, after, 1))

    return make


def line(number, content):
    """Return what makes a stopped run folder with another line in its journal."""

    def make(cwd):
        path = stopped(cwd) / "study.journal"
        lines = path.read_bytes().splitlines(keepends=True)
        lines.insert(number - 1, content + b"\n")
        path.write_bytes(b"".join(lines))

    return make


def as_folder(name, begin=finished):
    """Return what makes a run folder in which a file is a folder."""

    def make(cwd):
        path = begin(cwd) / name
        path.unlink(missing_ok=True)
        path.mkdir()

    return make


def wrong_byte(name):
    """Return what makes a run folder in which a Parquet file has one wrong byte, in the first page of a column."""

    def make(cwd):
        path = finished(cwd) / name
        column = pq.ParquetFile(path).metadata.row_group(0).column(0)
        place = column.data_page_offset + column.total_compressed_size - (column.data_page_offset - 4) - 3
        content = bytearray(path.read_bytes())
        content[place] ^= 0x10
        path.write_bytes(content)

    return make


def cut(name):
    """Return what makes a run folder in which a file ends in its middle."""

    def make(cwd):
        path = finished(cwd) / name
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])

    return make


def other_table(name, **columns):
    """Return what makes a run folder in which a Parquet file holds another table."""

    def make(cwd):
        pq.write_table(pa.table(columns), finished(cwd) / name)

    return make


def fifo(name):
    """Return what makes a run folder in which a file is a pipe."""

    def make(cwd):
        path = finished(cwd) / name
        path.unlink()
        os.mkfifo(path)

    return make


def other_attr(key, value):
    """Return what makes a stopped run folder whose study another writer changed."""

    def make(cwd):
        import optuna

        from orchestrator.study.storage import open_storage

        folder = stopped(cwd)
        with open_storage(str(folder / "study.journal")) as storage:
            optuna.load_study(study_name=NAME, storage=storage).set_user_attr(key, value)
        for beside in folder.glob("study.journal.*"):
            beside.unlink()

    return make


TWO = ["compare", NAME, f"{NAME}1"]
COMPARE, REPORT, RESUME = ["compare", NAME, "{run}"], ["report", NAME], ["resume", NAME]
STUDIES = ["studies", "--storage", f"{NAME}/study.journal"]
BY_NAME = ["report", NAME, "--storage", f"{NAME}/study.journal"]
REGISTER, SYNC = ["track", "register", NAME, "--name", "m"], ["track", "sync", NAME]
DEEP = "[" * 100_000
VALUE = b'"value":0.25'

CASES = [
    # refine
    Case("refining nothing", ["refine"], r"name the run folder of a finished search, or what to refine"),
    Case("refining a folder that is not there", ["refine", "none"], r"there is no run folder at none"),
    Case("refining with a model of its own", ["refine", "{run}", "--model", "V"], r"leave out --model"),
    Case("keeping a mask without a search", ["refine", "--prune"], r"name the run folder of a search"),
    Case("no steps", ["refine", "{run}", "--steps", "0"], r"Invalid value for '--steps'"),
    Case(
        "refine: result.json is garbage",
        ["refine", NAME],
        r"result.json is not JSON",
        make=with_file("result.json", "{"),
    ),
    # config.json
    Case(
        "config.json is garbage, resume",
        RESUME,
        r"configuration of a search run/config.json is not JSON",
        make=with_file("config.json", "garbage"),
    ),
    Case("config.json is garbage, report", REPORT, r"config.json is not JSON", make=with_file("config.json", "{")),
    Case("config.json is garbage, compare", COMPARE, r"config.json is not JSON", make=with_file("config.json", "{]")),
    Case("config.json is empty", RESUME, r"config.json is not JSON", make=with_file("config.json", "")),
    Case(
        "config.json is a list",
        RESUME,
        r"config.json is not a configuration of a search",
        make=with_file("config.json", "[]"),
    ),
    Case(
        "config.json is a list, compare",
        COMPARE,
        r"is not a configuration of a search",
        make=with_file("config.json", "[1]"),
    ),
    Case("config.json is deep", REPORT, r"config.json is nested too deep", make=with_file("config.json", DEEP)),
    Case(
        "config.json has sections that are numbers",
        RESUME,
        r"config.json has \d mistakes?:",
        make=with_file("config.json", '{"model": 1, "data": 2, "output": 3}'),
    ),
    Case("config.json lacks all sections", REPORT, r"config.json has 3 mistakes", make=with_file("config.json", "{}")),
    Case(
        "config.json has an unknown key",
        RESUME,
        r"modle: unknown key, did you mean model",
        make=changed("config.json", b'"model"', b'"modle"'),
    ),
    Case(
        "config.json has a wrong byte",
        RESUME,
        r"config.json is not UTF-8 text: byte 0xff in line 1",
        make=changed("config.json", b"ViT", b"\xffiT"),
    ),
    Case(
        "config.json has a null byte",
        REPORT,
        r"config.json is not text: there is a null byte",
        make=changed("config.json", b"ViT", b"\0iT"),
    ),
    Case("config.json is a folder", RESUME, r"config.json is a folder; name a file", make=as_folder("config.json")),
    Case("config.json is a pipe", REPORT, r"config.json is a named pipe", make=fifo("config.json")),
    Case(
        "config.json has a long number",
        RESUME,
        r"config.json is malformed: a number has 5,000 digits",
        make=with_file("config.json", "[" + "9" * 5000 + "]"),
    ),
    # result.json
    Case(
        "result.json is garbage, report",
        REPORT,
        r"result of a search run/result.json is not JSON[\s\S]*headmask resume run",
        make=with_file("result.json", "garbage"),
    ),
    Case(
        "result.json is garbage, compare", COMPARE, r"result.json is not JSON", make=with_file("result.json", "\n\n}")
    ),
    Case(
        "result.json is garbage, register",
        REGISTER,
        r"result.json is not JSON",
        make=with_file("result.json", "garbage"),
    ),
    Case("result.json is empty", REPORT, r"result.json is not JSON", make=with_file("result.json", "")),
    Case("result.json is a number", COMPARE, r"result.json is malformed:\n", make=with_file("result.json", "17")),
    Case("result.json is deep", REPORT, r"result.json is nested too deep", make=with_file("result.json", DEEP)),
    Case(
        "result.json has a wrong byte",
        REPORT,
        r"result.json is not UTF-8",
        make=changed("result.json", b"mean_recall", b"mean\xffrecall"),
    ),
    Case(
        "result.json has a changed digit, report",
        REPORT,
        r"run/result.json is not what headmask wrote. .*headmask resume run",
        make=changed("result.json", b'"image_forwards": ', b'"image_forwards": 7'),
    ),
    Case(
        "result.json has a changed digit, compare",
        COMPARE,
        r"result.json is not what headmask wrote",
        make=changed("result.json", b'"p_value": 0.01', b'"p_value": 0.91'),
    ),
    Case(
        "result.json has a changed digit, register",
        REGISTER,
        r"result.json is not what headmask wrote",
        make=changed("result.json", b'"test_looks": 1', b'"test_looks": 9'),
    ),
    Case(
        "result.json has another verdict",
        REPORT,
        r"verdict: must be 'reliable improvement'",
        make=changed("result.json", b'improvement"', b'imqrovement"'),
    ),
    Case(
        "result.json has another objective",
        COMPARE,
        r"result.json is malformed:[\s\S]*has no other_recall, which is the objective",
        make=changed("result.json", b'"objective": "mean_recall"', b'"objective": "other_recall"'),
    ),
    Case("result.json is a folder", COMPARE, r"result.json is a folder", make=as_folder("result.json")),
    Case("result.json is a pipe", REGISTER, r"result.json is a named pipe", make=fifo("result.json")),
    Case(
        "no result.json",
        ["compare", NAME, "{run}"],
        r"run is not a run folder: it has no result.json, and no config.json of a search that goes on",
        make=lambda cwd: (cwd / NAME).mkdir(),
    ),
    Case("no run folder to register", REGISTER, r"there is no run folder at run"),
    # mask.json
    Case(
        "mask.json of a run is garbage",
        REPORT,
        r"mask.json is not JSON|mask.json.* malformed",
        make=with_file("mask.json", "garbage"),
    ),
    # trials.parquet
    Case(
        "trials.parquet is garbage",
        REPORT,
        r"run/trials.parquet cannot be read as trials.parquet",
        make=with_file("trials.parquet", "garbage"),
    ),
    Case(
        "trials.parquet is cut", REPORT, r"trials.parquet cannot be read as trials.parquet", make=cut("trials.parquet")
    ),
    Case(
        "trials.parquet has a wrong byte",
        REPORT,
        r"trials.parquet cannot be read as trials.parquet",
        make=wrong_byte("trials.parquet"),
    ),
    Case(
        "trials.parquet is another table",
        REPORT,
        r"is not a trials.parquet of a search: KeyError: 'words'|is not a trials.parquet",
        make=other_table("trials.parquet", a=[1]),
    ),
    Case(
        "trials.parquet has words of another grid",
        REPORT,
        r"is not a trials.parquet of a search",
        make=other_table(
            "trials.parquet",
            words=[[1]],
            proposal=[0],
            value=[0.5],
            strategy=["s"],
            seconds=[1.0],
            failure=[None],
            device=["d"],
        ),
    ),
    Case("trials.parquet is a folder", REPORT, r"trials.parquet is a folder", make=as_folder("trials.parquet")),
    # queries.parquet
    Case(
        "queries.parquet is garbage, report",
        REPORT,
        r"queries.parquet cannot be read as queries.parquet",
        make=with_file("queries.parquet", "PAR1garbagePAR1"),
    ),
    Case(
        "queries.parquet is garbage, compare",
        TWO,
        r"queries.parquet cannot be read as queries.parquet",
        make=with_file("queries.parquet", "garbage"),
    ),
    Case("queries.parquet is cut", TWO, r"queries.parquet cannot be read", make=cut("queries.parquet")),
    Case(
        "queries.parquet is another table",
        REPORT,
        r"is not a queries.parquet of a search: it lacks data, split",
        make=other_table("queries.parquet", a=[1]),
    ),
    Case(
        "queries.parquet has a huge footer",
        REPORT,
        r"queries.parquet cannot be read",
        make=with_file("queries.parquet", b"PAR1" + struct.pack("<I", 0xFFFFFFF0) + b"PAR1"),
    ),
    # the journal
    Case(
        "garbage in a journal, resume",
        RESUME,
        r"line 6 of run/study.journal is not JSON .*sed -i.bak 6d run/study.journal",
        make=line(6, b"garbage"),
        leaves=LOCKS,
    ),
    Case("garbage in a journal, report", REPORT, r"line 6 of run/study.journal is not JSON", make=line(6, b"garbage")),
    Case(
        "garbage in a journal, studies", STUDIES, r"line 3 of run/study.journal is not JSON", make=line(3, b"\xff\xfe")
    ),
    Case(
        "garbage in a journal, compare",
        COMPARE,
        r"line 6 of run/study.journal is not a line of a study",
        make=line(6, b"17"),
    ),
    Case("null bytes in a journal", REPORT, r"line 2 of run/study.journal is not JSON", make=line(2, b"\0" * 40)),
    Case("a deep line in a journal", STUDIES, r"line 2 of run/study.journal is not JSON", make=line(2, DEEP.encode())),
    Case(
        "an operation that is none",
        REPORT,
        r"run/study.journal is not a journal of studies, or is damaged",
        make=line(9, b'{"op_code":99,"worker_id":"x"}'),
    ),
    Case(
        "a changed digit of a value, resume",
        RESUME,
        r"line \d+ of run/study.journal is not what headmask wrote",
        make=changed("study.journal", VALUE, b'"value":0.75', stopped),
        leaves=LOCKS,
    ),
    Case(
        "a changed digit of a value, report",
        REPORT,
        r"is not what headmask wrote",
        make=changed("study.journal", VALUE, b'"value":0.75', stopped),
    ),
    Case(
        "a changed digit of a value, compare",
        COMPARE,
        r"is not what headmask wrote",
        make=changed("study.journal", VALUE, b'"value":0.75', stopped),
    ),
    Case(
        "a changed digit of a value, studies",
        STUDIES,
        r"is not what headmask wrote",
        make=changed("study.journal", VALUE, b'"value":0.75', stopped),
    ),
    Case(
        "a changed metric",
        BY_NAME,
        r"is not what headmask wrote",
        make=changed("study.journal", b'"mean_recall":0.25', b'"mean_recall":0.35', stopped),
    ),
    Case(
        "a changed word of a mask",
        REPORT,
        r"is not what headmask wrote",
        make=changed("study.journal", b'"L00":2', b'"L00":6', stopped),
    ),
    Case(
        "a changed seed",
        RESUME,
        r"is not what headmask wrote",
        make=changed("study.journal", b'"seed":0', b'"seed":9', stopped),
        leaves=LOCKS,
    ),
    Case(
        "a changed budget by another writer",
        ["report", NAME, "--storage", f"{NAME}/study.journal"],
        r"study 'run' in run/study.journal is damaged: config not as headmask wrote it",
        make=other_attr("config", {"seed": 9}),
    ),
    Case(
        "a changed fingerprint by another writer",
        COMPARE,
        r"is damaged: fingerprint not as headmask wrote it",
        make=other_attr("fingerprint", {**_ABOUT, "grid": "9x9"}),
    ),
    Case(
        "a changed fingerprint by another writer, studies",
        STUDIES,
        r"is damaged: fingerprint not as headmask wrote it",
        make=other_attr("fingerprint", 3),
    ),
    Case("checksums that are none", REPORT, r"is damaged: its checksums are none", make=other_attr("checksums", "x")),
    Case(
        "a fingerprint without a grid",
        REPORT,
        r"fingerprint names no grid",
        make=lambda cwd: stopped(cwd, fingerprint={**_ABOUT, "grid": "wide"}),
    ),
    Case(
        "a fingerprint without its parts",
        COMPARE,
        r"its fingerprint has no grid, guide",
        make=lambda cwd: stopped(cwd, fingerprint={"model": "m", "objective": "top1", "task": "t"}),
    ),
    Case(
        "a selected mask that is none",
        REPORT,
        r"what it has selected is not a mask",
        make=lambda cwd: stopped(cwd, selected={"words": "many"}),
    ),
    Case(
        "a journal that is a folder",
        STUDIES,
        r"run/study.journal is a folder; name a file in it",
        make=lambda cwd: (cwd / NAME / "study.journal").mkdir(parents=True),
    ),
    Case(
        "a journal that is a pipe",
        STUDIES,
        r"study.journal is a named pipe",
        make=lambda cwd: ((cwd / NAME).mkdir(), os.mkfifo(cwd / NAME / "study.journal")),
    ),
    Case("no journal", STUDIES, r"there is no study at run/study.journal"),
    Case(
        "a picture as a journal",
        ["studies", "--storage", "x.png"],
        r"x.png is not a",
        make=lambda cwd: (cwd / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99) + b"\n"),
    ),
    # tracking
    Case(
        "garbage in tracking.jsonl",
        SYNC,
        r"tracking.jsonl, line 1, is not what headmask writes",
        make=with_file("tracking.jsonl", "garbage\n"),
    ),
    Case("nothing in tracking.jsonl", SYNC, r"tracking.jsonl holds nothing", make=with_file("tracking.jsonl", "")),
    # replicas
    *(
        Case(
            f"the address {address!r}",
            ["search", "--model", "x", "--data", "y", "--out", "o", "--address", address],
            r"the address of a Ray cluster must be auto, HOST:PORT, or ray://HOST:PORT .*; got ",
        )
        for address in (
            "localhost",
            "localhost:abc",
            "ray://",
            "ray://localhost",
            "http://localhost:8265",
            "127.0.0.1:99999",
            "127.0.0.1:-1",
            "x:y:z",
            "127.0.0.1:22 ",
            "rya://127.0.0.1:10001",
            "a b:1",
        )
    ),
    Case(
        "an address at which nothing listens",
        ["search", "--model", "x", "--data", "y", "--out", "o", "--address", "127.0.0.1:9"],
        r"cannot join Ray at 127.0.0.1:9: Connection refused. Check the address, or wait",
        code=75,
    ),
    Case(
        "an address at which nothing listens, resume",
        ["resume", NAME, "--pool", "ray", "--address", "ray://127.0.0.1:9"],
        r"cannot join Ray at ray://127.0.0.1:9: Connection refused.*continue with: headmask resume run",
        code=75,
        make=stopped,
    ),
    Case(
        "10,000 replicas on this machine",
        ["search", "--model", "x", "--data", "y", "--out", "o", "--replicas", "10000"],
        r"10,000 replicas cannot be placed: each needs 1 CPU, which fits",
    ),
    Case(
        "more threads than there are",
        ["search", "--model", "x", "--data", "y", "--out", "o", "--threads", "1000"],
        r"no replica can be placed: each needs 1000 CPU",
    ),
    Case(
        "more GPUs than there are",
        ["search", "--model", "x", "--data", "y", "--out", "o", "--gpus-per-replica", "64"],
        r"no replica can be placed: each needs 1 CPU and 64 GPU.*--gpus-per-replica 0",
    ),
    Case(
        "more shards than there is room for",
        ["search", "--model", "x", "--data", "y", "--out", "o", "--shards", "5000"],
        r"5,000 replicas cannot be placed",
    ),
    Case(
        "an image chunk of words",
        ["search", "--model", "x", "--data", "y", "--out", "o", "--image-chunk", "many"],
        r"search.image_chunk",
    ),
]
