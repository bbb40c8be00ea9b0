# ruff: noqa: E501
"""Names that nothing can have, and options that say nothing of the data they are given with, in all commands."""

from tests.malformed.case import Case
from tests.malformed.outputs import databases, thesis

LONG = "x" * 300
SEARCH = ["search", "--model", "local-dir:{model}", "--data", "{data}", "--out", "o", "--pool", "inline", "--json"]
EVAL = ["eval", "--mask", "{mask}", "--data", "{data}"]
BUILD = ["data", "build", "--images", "photos", "--out", "new.parquet"]
TOO_LONG = {
    "storage of a search": ([*SEARCH, "--storage", LONG], r"cannot write x+: the name is too long"),
    "model of a search": (["search", "--model", LONG, *SEARCH[3:]], r"open_clip has no architecture 'x+'"),
    "weights of a search": (["search", "--model", "ViT-B-32", "--pretrained", LONG, *SEARCH[3:]], r"there is no file /.*/x+"),
    "preprocessing of a search": ([*SEARCH, "--preprocess", LONG], r"--preprocess must be .*there is no such file"),
    "run to resume": (["resume", LONG], r"there is no run folder at x+: name one"),
    "storage to resume": (["resume", "s", "--storage", LONG], r"cannot read study x+: File name too long"),
    "run to report": (["report", LONG], r"there is no run folder at x+: name one"),
    "storage to report": (["report", "s", "--storage", LONG], r"cannot read study x+: File name too long"),
    "run to compare": (["compare", "{run}", LONG], r"x+ is neither a run folder nor a mask file"),
    "storage to compare": (["compare", "s", "--storage", LONG], r"cannot read study x+: File name too long"),
    "storage to list": (["studies", "--storage", LONG], r"cannot read study x+: File name too long"),
    "database to list": (["studies", "--storage", f"sqlite:///{LONG}"], r"cannot read study .*x+: File name too long"),
    "preprocessing of eval": ([*EVAL, "--preprocess", LONG], r"--preprocess must be .*there is no such file"),
    "model of data": (["data", "show", "{data}", "--no-sheet", "--model", LONG], r"open_clip has no architecture 'x+'"),
    "captions of coco-cn": ([*BUILD, "--from", "coco-cn", "--captions", LONG], r"cannot read caption file x+"),
    "captions of flickr30k-cna": ([*BUILD, "--from", "flickr30k-cna", "--captions", LONG], r"cannot read caption file x+"),
    "run to track": (["track", "sync", LONG], r"there is no tracking.jsonl in x+"),
    "run to register": (["track", "register", LONG, "--name", "m"], r"there is no run folder at x+"),
}  # fmt: skip
EMPTY = {
    "run to resume": (["resume", ""], r"name a run folder, or a study with --storage URL; got an empty text"),
    "run to report": (["report", ""], r"name a run folder, or a study with --storage URL; got an empty text"),
    "run to compare": (["compare", "{run}", ""], r"cannot be an empty text"),
    "configuration": (["search", ""], r"Invalid value for '(config|\[CONFIG\])': a path cannot be empty; got ''"),
    "mask": (["eval", "--mask", "", "--data", "{data}"], r"Invalid value for '--mask': a path cannot be empty"),
    "preprocessing of a search": ([*SEARCH, "--preprocess", ""], r"model\.preprocess: must not be empty, got ''"),
    "preprocessing of eval": ([*EVAL, "--preprocess", ""], r"--preprocess must be a pretrained tag .*; got ''"),
    "model of data": (["data", "show", "{data}", "--no-sheet", "--model", ""], r"open_clip has no architecture ''"),
    "heads to protect": ([*SEARCH, "--protect", ""], r"--protect must be heads.*got ''"),
}
NO_MODEL = ["search", "--model", "local-dir:nowhere", "--out", "o", "--pool", "inline", "--json"]
NO_MASK_MODEL = ["--mask", "{mask}", "--model", "local-dir:nowhere"]

CASES = [
    *(Case(f"too long: {name}", args, message, make=thesis) for name, (args, message) in TOO_LONG.items()),
    *(Case(f"empty: {name}", args, message) for name, (args, message) in EMPTY.items()),
    Case("a sheet beside the root", ["data", "show", "/"], r"data file / is a folder; name a file"),
    Case("a sheet beside this folder", ["data", "show", "."], r"data file \. is a folder; name a file"),
    Case("a sheet beside nothing", ["data", "show", "none.parquet"], r"there is no data file at none.parquet; make one"),
    Case("comparing a pipe", ["compare", "{run}", "pipe"], r"pipe is neither a run folder nor a mask file\.", make=databases),
    Case("a run folder at the end of a loose link", [*SEARCH, "--no-precheck", "--masks", "0", "--out", "link"], r"budget\.masks", make=lambda folder: (folder / "link").symlink_to("nowhere")),
    Case("tracking in a pipe", [*SEARCH, "--tracking-uri", "sqlite:///pipe"], r"sqlite needs a file, and this is none", make=databases),
    Case("tracking in a device", [*SEARCH, "--tracking-uri", "sqlite:////dev/null"], r"sqlite needs a file, and this is none"),
    Case("sending to a pipe", ["track", "sync", "{run}", "--tracking-uri", "sqlite:///pipe"], r"sqlite needs a file, and this is none", make=databases),
    Case("sending to a device", ["track", "sync", "{run}", "--tracking-uri", "sqlite:////dev/null"], r"sqlite needs a file, and this is none"),
    Case("a study in a pipe", [*SEARCH, "--storage", "sqlite:///pipe"], r"sqlite needs a file, and this is none", make=databases),
    Case("a study in a circle", [*SEARCH, "--storage", "sqlite:///loop"], r"cannot write .*loop: its links lead in a circle", make=databases),
    Case("studies in a circle", ["studies", "--storage", "sqlite:///loop"], r"cannot read study .*loop", make=databases),
    Case("tracking in a circle", [*SEARCH, "--tracking-uri", "sqlite:///loop"], r"cannot write .*loop: its links lead in a circle", make=databases),
    Case("tracking in a text", [*SEARCH, "--tracking-uri", "sqlite:///text.db"], r"text.db exists and is not a database of MLflow", make=databases),
    Case("tracking in a bank", [*SEARCH, "--tracking-uri", "sqlite:///bank.db"], r"bank.db exists and is not a database of MLflow", make=databases),
    Case("tracking in the data", [*SEARCH, "--tracking-uri", "sqlite:///{data}"], r"exists and is not a database of MLflow"),
    Case("tracking in the study", [*SEARCH, "--storage", "sqlite:///x.db", "--tracking-uri", "sqlite:///x.db"], r"--tracking-uri and --storage must not be the same file; got sqlite:///x.db for both"),
    Case("options of sqlite's", [*SEARCH, "--tracking-uri", "sqlite:///file:x.db?mode=ro&uri=true"], r"sqlite needs a path, and options of its own are not understood"),
    Case("half an IPv6 address", [*SEARCH, "--tracking-uri", "http://[::1"], r"must be http://HOST:PORT, and the port must be a number up to 65,535; got http://\[::1"),
    Case("a port in a message", [*SEARCH, "--tracking-uri", "http://host:99999"], r"got http://host:99999"),
    Case("a scheme in capitals", [*SEARCH, "--tracking-uri", "SQLITE:///x.db"], r"did you mean sqlite\?"),
    Case("class names for captions", [*SEARCH, "--class-names", "none.txt"], r"--class-names is for classification or similarity, and the task of .* is retrieval; leave it out; got 'none.txt'"),
    Case("templates for captions", [*SEARCH, "--templates", "simple"], r"--templates is for classification"),
    Case("class names to score captions with", [*EVAL, "--class-names", "none.txt"], r"--class-names is for classification"),
    Case("templates to score captions with", [*EVAL, "--templates", "none.txt"], r"--templates is for classification"),
    Case("class names to show captions with", ["data", "show", "{data}", "--class-names", "none.txt"], r"--class-names is for classification"),
    Case("templates to explain captions with", ["explain", "--mask", "{mask}", "--data", "{data}", "--out", "o", "--templates", "simple"], r"--templates is for classification"),
    Case("search: data before the model", [*NO_MODEL, "--data", "none.parquet"], r"there is no data file at none.parquet"),
    Case("search: columns before the model", [*NO_MODEL, "--data", "{data}", "--caption-column", "none"], r"none"),
    Case("eval: data before the model", ["eval", *NO_MASK_MODEL, "--data", "none.parquet"], r"there is no data file at none.parquet"),
    Case("explain: data before the model", ["explain", *NO_MASK_MODEL, "--data", "none.parquet", "--out", "o"], r"there is no data file at none.parquet"),
    Case("5,000 digits for a head to protect", [*SEARCH, "--protect", "9" * 5000], r"a head is written L<layer>H<head>, such as L3H7; got '9{60}'"),
    Case("5,000 digits in a head to protect", [*SEARCH, "--protect", f"L{'9' * 5000}H1"], r"a head is written L<layer>H<head>"),
    Case("5,000 digits in a head to explain", ["explain", "--mask", "{mask}", "--data", "{data}", "--out", "o", "--heads", f"L{'9' * 5000}H1"], r"a head is written L<layer>H<head>"),
    Case("the only data set may lose", [*SEARCH, "--max-loss", "data=0.5"], r"every data set has a max_loss, so there is nothing to improve"),
    Case("one data set twice", [*SEARCH, "--data", "{data}"], r"two data sets are called data; give them a name each"),
]  # fmt: skip
