"""Settings that cannot be: numbers out of their range, texts and URLs that name nothing, TOML of another shape."""

import os
import sqlite3

from tests.malformed.case import Case

SEARCH = ["search", "--model", "local-dir:{model}", "--data", "{data}", "--out", "o"]
FEW = ["--pool", "inline", "--masks", "3"]
DIGITS = "9" * 5000


def number(option, value, message, command=SEARCH):
    return Case(f"{command[0]} {option} {value[:20]}", [*command, option, value], message)


def out_of_range(option, value, command):
    """Return a case of an option whose range typer checks, in words that differ between its versions."""
    return number(option, value, rf"Invalid value for '{option}'.*(equal to|is not in the range \d+<=x<=\d+)", command)


NUMBERS = [
    number("--masks", "0", r"budget\.masks: must be greater than or equal to 1, got 0"),
    number("--masks", "-7", r"budget\.masks: .*, got -7"),
    number("--masks", "1" + "0" * 30, r"budget\.masks: must be less than or equal to 10,000,000"),
    number("--masks", DIGITS, r"Invalid value for '--masks'.*integer"),
    number("--masks", "1e3", r"Invalid value for '--masks'.*valid integer"),
    number("--masks", "true", r"Invalid value for '--masks'.*valid integer"),
    number("--seconds", "inf", r"budget\.seconds: must be a finite number, got inf"),
    number("--seconds", "nan", r"budget\.seconds: must be a finite number, got nan"),
    number("--seconds", "-1", r"budget\.seconds: must be greater than 0, got -1"),
    number("--seconds", "1e300", r"budget\.seconds: must be less than or equal to 1,?000,?000,?000"),
    number("--image-forwards", "-1", r"budget\.image_forwards: must be greater than or equal to 1, got -1"),
    number("--patience", "-1", r"budget\.patience: must be greater than or equal to 1, got -1"),
    number("--split-seed", "-1", r"data\.split_seed: must be greater than or equal to 0, got -1"),
    number("--split-seed", "9" * 25, r"data\.split_seed: must be less than or equal to 9,223,372,036,854,775,807"),
    number("--seed", "-1", r"search\.seed: must be greater than or equal to 0, got -1"),
    number("--threads", "100000", r"search\.threads: must be less than or equal to 1,?024, got 100000"),
    number("--threads", "0", r"search\.threads: must be greater than or equal to 1, got 0"),
    number("--image-chunk", "0", r"search\.image_chunk: must be measure, or a whole number from 1 to 65,536, got '0'"),
    number(
        "--image-chunk",
        "99999999",
        r"search\.image_chunk: must be measure, or .* from 1 to 65,536, got .99999999",
    ),
    number("--width", "15", r"search\.width: must be auto, or a whole number from 16 to 100,000, got '15'"),
    number("--width", "wide", r"search\.width: must be auto, or a whole number from 16 to 100,000, got 'wide'"),
    number("--max-heads", "0", r"search\.max_heads: must be greater than or equal to 1, got 0"),
    number("--shortlist", "-3", r"search\.shortlist: must be greater than or equal to 1, got -3"),
    number("--surrogate-gib", "nan", r"search\.surrogate_gib: must be a finite number, got nan"),
    number("--surrogate-gib", "inf", r"search\.surrogate_gib: must be a finite number, got inf"),
    number("--surrogate-gib", "0", r"search\.surrogate_gib: must be greater than 0, got 0"),
    number("--max-loss", "data=nan", r"data\.max_loss: must be a finite number, got nan"),
    number("--max-loss", "data=-1", r"data\.max_loss: must be greater than or equal to 0, got -1"),
    number("--max-loss", "data=101", r"data\.max_loss: must be less than or equal to 100, got 101"),
    number("--max-loss", "data", r"--max-loss must be NAME=POINTS, such as coco=0\.5; got 'data'"),
    number("--max-loss", "other=1", r"there is no data set 'other'; there are data"),
    number("--layers", "1,x", r"--layers must be numbers separated by commas; got '1,x'"),
    number("--layers", DIGITS, r"--layers must be numbers separated by commas; got '9{60}\.\.\.'"),
    number("--layers", "-1", r"search\.layers: must be greater than or equal to 0, got -1"),
    number("--protect", "L1", r"search\.protect: a head is written"),
    number("--replicas", "0", r"pool\.replicas: must be auto, or a whole number from 1 to 100,000, got '0'"),
    number("--replicas", "many", r"pool\.replicas: must be auto, or a whole number from 1 to 100,000, got 'many'"),
    number("--replicas", DIGITS, r"pool\.replicas: must be auto, or a whole number .*, got '9{60}\.\.\.'"),
    number("--shards", "1.5", r"pool\.shards: must be auto, or a whole number"),
    number("--gpus-per-replica", "inf", r"pool\.gpus_per_replica: must be a finite number, got inf"),
    number("--gpus-per-replica", "-1", r"pool\.gpus_per_replica: must be greater than or equal to 0, got -1"),
    number("--gpus-per-replica", "1.5", r"pool\.gpus_per_replica: must be a whole number of GPUs, or a part of one"),
    number("--speed", "nan", r"Invalid value for '--speed'"),
    number("--speed", "0", r"Invalid value for '--speed'.*0\.001"),
    number("--masks", "0", r"budget\.masks: must be greater than or equal to 1, got 0", ["resume", "{run}"]),
    number("--seconds", "nan", r"budget\.seconds: must be a finite number, got nan", ["resume", "{run}"]),
    number("--replicas", "-1", r"pool\.replicas: must be auto, or a whole number", ["resume", "{run}"]),
    number("--tracking-uri", "word", r"--tracking-uri must be the address of an MLflow", ["resume", "{run}"]),
    out_of_range("--threads", "0", ["eval", "--mask", "{mask}", "--data", "{data}"]),
    out_of_range("--threads", "99999", ["eval", "--mask", "{mask}", "--data", "{data}"]),
    out_of_range("--threads", "0", ["explain", "--data", "{data}", "--out", "x"]),
    out_of_range("--images", "0", ["explain", "--data", "{data}", "--out", "x"]),
    out_of_range("--images", "99999999", ["explain", "--data", "{data}", "--out", "x"]),
    out_of_range("--top", "1", ["compare", "--experiment", "e"]),
    out_of_range("--top", "999999", ["compare", "--experiment", "e"]),
    out_of_range("--rounds", "0", ["bench", "engine"]),
    out_of_range("--rounds", "9999999", ["bench", "engine"]),
    out_of_range("--images", "99999999", ["bench", "engine"]),
    out_of_range("--sample", "99999999", ["bench", "engine"]),
    number("--masks", "0", r"budget\.masks: must be greater than or equal to 1, got 0", ["demo", "--out", "o"]),
]


def text(option, value, message, command=SEARCH):
    return Case(f"{command[0]} {option} of {value!r}", [*command, option, value], message)


TEXTS = [
    text("--out", "", r"output\.folder: must not be empty", ["search", "--model", "m", "--data", "d"]),
    text("--study", "", r"output\.study: must not be empty"),
    text("--study", "a\udcffb", r"output\.study: it has half of a surrogate pair"),
    text("--experiment", "", r"output\.experiment: must not be empty"),
    text("--experiment", "  ", r"output\.experiment: must not be empty"),
    text("--pretrained", "", r"model\.pretrained: must not be empty"),
    text("--image-column", "", r"data\.image_column: must not be empty"),
    text("--class-names", "", r"data\.class_names: must not be empty"),
    text("--address", "", r"pool\.address: must not be empty"),
    text("--strategy", "", r"search\.strategy: must not be empty"),
    text("--objective", "nan*top1", r"search\.objective: must be one of"),
    text("--register", "a@latest", r"output\.register_as: a registered model is called"),
]


def url(option, value, message, command=SEARCH):
    return Case(f"{command[0]} {option} {value[:40]}", [*command, option, value], rf"(?!.*s3cret){message}")


def folder(path):
    (path / "runs").mkdir()


URLS = [
    url(
        "--storage",
        "postgresql://u:s3cret@host:port/db",
        r".*the port must be a number.*got postgresql://u:\*\*\*@host",
    ),
    url("--storage", "postgresql://u:s3cret@host:99999/db", r".*the port must be from 1 to 65,535"),
    url("--storage", "postgresql+no://u:s3cret@host/db", r".*there is no driver postgresql\+no"),
    url("--storage", "postgres://u:s3cret@host/db", r".*did you mean postgresql\?"),
    url("--storage", "postgresql:u:s3cret@host/db", r".*:// must follow postgresql"),
    url("--storage", "mysql://u:s3cret@host", r".*the name of the database is missing"),
    url("--storage", "sqlite://", r".*sqlite needs a file, for what is in memory is lost"),
    url("--storage", "sqlite:///:memory:", r".*sqlite needs a file"),
    url("--storage", "sqlite://studies.db", r".*sqlite needs three slashes"),
    url("--storage", "sqlite:studies.db", r".*:// must follow sqlite"),
    url("--storage", "://", r".*--storage must be a file or a URL of sqlite, postgresql, mysql; got ://"),
    url("--storage", "ftp://u:s3cret@host/x", r".*--storage must be a file or a URL"),
    url("--storage", "", r".*output\.storage: must not be empty"),
    url("--storage", "sqlite://", r".*sqlite needs a file", ["studies"]),
    url("--storage", "://", r".*--storage must be a file or a URL", ["studies"]),
    url("--storage", "postgresql://u:s3cret@host:port/db", r".*the port must be a number", ["studies"]),
    url("--storage", "postgresql://u:s3cret@h:port/db", r".*the port must be a number", ["resume", "s"]),
    url("--storage", "postgresql://u:s3cret@h:port/db", r".*the port must be a number", ["report", "s"]),
    url("--storage", "postgresql://u:s3cret@h:port/db", r".*the port must be a number", ["compare", "s", "t"]),
    url("--tracking-uri", "word", r".*--tracking-uri must be the address of an MLflow server or database.*got 'word'"),
    url("--tracking-uri", "", r".*output\.tracking_uri: must not be empty"),
    url("--tracking-uri", "./mlruns", r".*MLflow keeps no runs in folders of files any more"),
    url("--tracking-uri", "file:///tmp/mlruns", r".*MLflow keeps no runs in folders of files any more"),
    url("--tracking-uri", "ftp://u:s3cret@host", r".*MLflow has no servers of the kind ftp://"),
    url("--tracking-uri", "htp://host", r".*MLflow has no servers of the kind htp://, did you mean http\?"),
    url("--tracking-uri", "http://", r".*a host must follow http://"),
    url("--tracking-uri", "http://u:s3cret@host:port", r".*the port must be a number"),
    url("--tracking-uri", "http://a host", r".*a host must follow http://"),
    url("--tracking-uri", "sqlite://", r".*sqlite needs a file"),
    url("--tracking-uri", "postgresql://u:s3cret@host:port/db", r".*the port must be a number"),
    url("--tracking-uri", "word", r".*--tracking-uri must be the address", ["track", "sync", "{run}"]),
    url("--tracking-uri", "ftp://h", r".*no servers of the kind ftp", ["track", "register", "{run}", "--name", "n"]),
    url("--tracking-uri", "word", r".*--tracking-uri must be the address", ["compare", "--experiment", "e"]),
    url("--tracking-uri", "sqlite:///no.db", r".*there is no tracking store", ["compare", "--experiment", "e"]),
    Case(
        "storage that is a folder", [*SEARCH, "--storage", "runs"], r"runs is a folder; name a file in it", make=folder
    ),
    Case(
        "tracking URI that is a folder",
        [*SEARCH, "--tracking-uri", "runs"],
        r"MLflow keeps no runs in folders of files any more",
        make=folder,
    ),
    Case("a registered name", ["track", "register", "{run}", "--name", "a/b"], r"a registered model is called NAME"),
    Case("sync of no run", ["track", "sync", "x"], r"there is no tracking\.jsonl in x"),
]


def damaged(path):
    (path / "m.db").write_bytes(b"this is no database\n" * 500)
    os.utime(path / "m.db", (1, 1))


def of_others(path):
    connection = sqlite3.connect(path / "m.db")
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.commit()
    connection.close()
    os.utime(path / "m.db", (1, 1))


STORES = [
    Case(
        f"compare in {name}",
        ["compare", "--experiment", "e", "--tracking-uri", "sqlite:///m.db"],
        message,
        make=make,
    )
    for name, make, message in (
        ("a damaged store", damaged, r"m\.db is not a database of MLflow \(file is not a database\): move it away"),
        ("another program's database", of_others, r"m\.db is not a database of MLflow \(it holds a part"),
    )
]


def toml(name, content, message, flags=()):
    def make(path):
        (path / "t.toml").write_text(content)

    needed = ["--model", "local-dir:{model}", "--out", "o"]
    return Case(f"TOML: {name}", ["search", "t.toml", *needed, *flags], message, make=make)


WITH_DATA = ("--data", "{data}")
TABLES = [
    Case(
        "an Apple GPU for replicas on Ray",
        ["search", "--model", "local-dir:{model}", "--data", "{data}", "--out", "r", "--device", "mps"],
        r"device is for the inline pool, one replica in this process; got mps with Ray",
    ),
    toml(
        "data is a text, with a flag",
        'data = "d.parquet"',
        r"data: must be a table, .*\[\[data\]\]",
        ("--split-seed", "3"),
    ),
    toml("data is a list of texts", 'data = ["d.parquet"]', r"data: must be a table", ("--split-seed", "3")),
    toml("data is a number", "data = 3", r"data: must be a table, .*, got 3", ("--caption-column", "c")),
    toml("data is empty", "data = []", r"data: say which data, with --data"),
    toml(
        "a section is a number",
        "search = 3",
        r"search: must be a table, which begins with \[search\], got 3",
        WITH_DATA,
    ),
    toml("a section is a list of tables", "[[budget]]\nmasks = 3", r"budget: must be a table", WITH_DATA),
    toml("a list is a text", '[search]\nprotect = "L1H2"', r"search\.protect: must be a list", WITH_DATA),
    toml("a list is a table", "[search.layers]\na = 1", r"search\.layers: must be a list, .*, got a table", WITH_DATA),
    toml("a text is a list", '[search]\nobjective = ["top1"]', r"search\.objective: must be a valid string", WITH_DATA),
    toml("a number is a boolean", "[budget]\nmasks = true", r"budget\.masks: must be a number, got true", WITH_DATA),
    toml("a number is a text", '[budget]\nmasks = "9"', r"budget\.masks: must be a number, got '9'", WITH_DATA),
    toml(
        "a number is a date",
        "[budget]\nmasks = 2026-01-01",
        r"budget\.masks: must be a number, got 2026-01-01",
        WITH_DATA,
    ),
    toml("a boolean is a number", "[search]\ngate = 1", r"search\.precheck: must be true or false, got 1", WITH_DATA),
    toml("a boolean is a text", '[output]\nfold = "yes"', r"output\.fold: must be true or false, got 'yes'", WITH_DATA),
    toml("infinity", "[budget]\nseconds = inf", r"budget\.seconds: must be a finite number, got inf", WITH_DATA),
    toml(
        "not a number",
        "[search]\nsurrogate_gib = nan",
        r"search\.surrogate_gib: must be a finite number, got nan",
        WITH_DATA,
    ),
    toml("a share of gates", "[search]\ngate_share = 0.2", r"search\.gate_share: unknown key", WITH_DATA),
    toml(
        "5,000 digits",
        f"[budget]\nmasks = {DIGITS}",
        r"cannot read t\.toml: it holds a number with too many",
        WITH_DATA,
    ),
    toml(
        "nested 100,000 deep", f"a = {'[' * 100_000}{']' * 100_000}", r"t\.toml: its values are nested too", WITH_DATA
    ),
    toml("no such date", "[budget]\nmasks = 2026-99-99", r"cannot read t\.toml: ", WITH_DATA),
    toml("a key twice", "[budget]\nmasks = 1\nmasks = 2", r"cannot read t\.toml: ", WITH_DATA),
    toml("an unknown key", "[budget]\nmaks = 1", r"budget\.maks: unknown key, did you mean budget\.masks\?", WITH_DATA),
    toml("an unknown section", "[budjet]\nmasks = 1", r"budjet: unknown key, did you mean budget\?", WITH_DATA),
    toml("an escape sequence in a key", '"a\\u001b[31m" = 1', r"a\\x1b\[31m: unknown key", WITH_DATA),
    toml("a password", '[output]\nstorage = "mysql://u:s3cret@h"', r"(?!.*s3cret).*name of the database", WITH_DATA),
    toml("a name with a slash", '[data]\nname = "a/b"\npath = "d"', r"data\.name: must match pattern", ()),
    Case(
        "TOML: a folder",
        ["search", "t.toml", *WITH_DATA],
        r"configuration file t\.toml is a folder",
        make=lambda path: (path / "t.toml").mkdir(),
    ),
    Case(
        "TOML: a pipe",
        ["search", "t.toml", *WITH_DATA],
        r"configuration file t\.toml is a named pipe",
        make=lambda path: os.mkfifo(path / "t.toml"),
    ),
    Case("TOML: not there", ["search", "t.toml", *WITH_DATA], r"there is no configuration file at t\.toml"),
    Case(
        "TOML: UTF-16",
        ["search", "t.toml", *WITH_DATA],
        r"configuration file t\.toml is not UTF-8 text: .*it looks like UTF-16",
        make=lambda path: (path / "t.toml").write_text("a", "utf-16"),
    ),
]

CASES = NUMBERS + TEXTS + URLS + STORES + TABLES
