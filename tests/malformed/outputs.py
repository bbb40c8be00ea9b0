# ruff: noqa: E501
"""Places that may not, or cannot, be written; and paths that name nothing that can be read."""

import os
import sqlite3
from pathlib import Path

from tests.malformed.case import Case

PAGE = '<!doctype html><html><head><meta name="generator" content="headmask"></head><body></body></html>'
LONG = "a" * 256
SEARCH = ["search", "--model", "local-dir:{model}", "--data", "{data}", "--pool", "inline", "--masks", "4"]
EXPORT = ["export", "--mask", "{mask}", "--no-latency"]
EXPLAIN = ["explain", "--mask", "{mask}", "--data", "{data}", "--split", "test"]
REPORT = ["report", "{run}"]
COMPARE = ["compare", "{run}", "{mask}"]
SHOW = ["data", "show", "{data}"]
BUILD = ["data", "build", "--images", "photos", "--captions", "captions.csv"]
DEMO = ["demo", "--pool", "inline", "--masks", "4"]


def photos(folder: Path) -> None:
    from PIL import Image

    (folder / "photos").mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "photos" / "a.png")
    (folder / "captions.csv").write_text("image,caption\na.png,a red square\n")


def thesis(folder: Path) -> None:
    """Files of a user's under the names that headmask would write, and places that no file can be written at."""
    photos(folder)
    for name in ("notes.json", "page.html", "sheet.png", "out.parquet", "out.safetensors", "empty folder/thesis.tex"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("years of work, headmask/1")
    (folder / "exported").mkdir()
    (folder / "exported" / "open_clip_config.json").write_text('{"model_cfg": {}, "preprocess_cfg": {}}')
    (folder / "exported" / "thesis.tex").write_text("years of work")
    (folder / "ours.html").write_text(PAGE)
    (folder / "loop").symlink_to("loop")
    (folder / "there").symlink_to("back")
    (folder / "back").symlink_to("there")
    os.mkfifo(folder / "pipe")


def run_of_others(folder: Path) -> None:
    (folder / "run").mkdir()
    for name in ("mask.json", "report.html", "heatmap.png", "trials.parquet"):
        (folder / "run" / name).write_text("mine")


def databases(folder: Path) -> None:
    (folder / "text.db").write_text("no database")
    with sqlite3.connect(folder / "bank.db") as bank:
        bank.execute("CREATE TABLE accounts (name TEXT)")
    bank.close()
    (folder / "empty.journal").touch()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")


COMMANDS = {
    "export": (EXPORT, "--out"),
    "explain": (EXPLAIN, "--out"),
    "report": (REPORT, "--out"),
    "compare": (COMPARE, "--out"),
    "show": (SHOW, "--sheet"),
    "build": (BUILD, "--out"),
    "search": (SEARCH, "--out"),
    "demo": (DEMO, "--out"),
}
FOLDERS = ("export", "explain", "search", "demo")
PLACES = {
    "an empty text": ("", r"a path cannot be empty|folder: .*empty|at least 1"),
    "the root": ("/", r"is a folder, where|working folder or above|need a folder of their own"),
    "this folder": (".", r"is a folder, where|working folder or above|need a folder of their own"),
    "the folder above": ("photos/..", r"is a folder, where|working folder or above|need a folder of their own"),
    "a loop": ("loop", r"links lead in a circle"),
    "a loop on the way": ("there/x", r"links lead in a circle"),
    "a pipe": ("pipe", r"is a named pipe"),
    "a device": ("/dev/null", r"is a device"),
    "a name that is too long": (LONG, r"the name is too long"),
    "a long name on the way": (f"new/{LONG}/x", r"the name is too long"),
    "a part that is a file": ("notes.json/x", r"a part of it is a file"),
    "a place of the kernel's": ("/proc/x", r"cannot write /proc/x"),
}

CASES = [
    Case(f"{command}: {name}", [*args, option, place], message, make=thesis)
    for command, (args, option) in COMMANDS.items()
    for name, (place, message) in PLACES.items()
] + [
    Case("a journal in notes", [*SEARCH, "--out", "run", "--storage", "notes.json"], r"notes.json exists and is not a journal of studies that headmask wrote", make=thesis),
    Case("a journal in the data", [*SEARCH, "--out", "run", "--storage", "{data}"], r"exists and is not a journal", make=thesis),
    Case("a database that is none", [*SEARCH, "--out", "run", "--storage", "sqlite:///text.db"], r"text.db exists and is not a database of studies", make=databases),
    Case("a database of others", [*SEARCH, "--out", "run", "--storage", "sqlite:///bank.db"], r"bank.db exists and is not a database of studies", make=databases),
    Case("a run among files of others", [*SEARCH, "--out", "run"], r"(?s)trials.parquet exists.*heatmap.png exists.*mask.json exists.*report.html exists", make=run_of_others),
    Case("a demo among files of others", ["demo", "--out", "run"], r"scenes.parquet exists and is not the demo's own file", make=lambda folder: ((folder / "run").mkdir(), (folder / "run" / "scenes.parquet").write_text("mine"))),
    Case("a file for a run folder", [*SEARCH, "--out", "notes.json"], r"notes.json is a file, where a folder is needed", make=thesis),
    Case("a sheet in the place of its data", ["data", "show", "{data}", "--sheet", "{data}"], r"exists and is not a picture that headmask wrote"),
    Case("a sheet in the place of a picture", [*SHOW, "--sheet", "sheet.png"], r"sheet.png exists and is not a picture that headmask wrote", make=thesis),
    Case("a sheet in the place of a photo", [*SHOW, "--sheet", "photos/a.png"], r"a.png exists and is not a picture that headmask wrote", make=thesis),
    Case("a report in the place of a mask", [*REPORT, "--out", "{mask}"], r"mask.json exists and is not a page that headmask wrote"),
    Case("a report in the place of a page", [*REPORT, "--out", "page.html"], r"page.html exists and is not a page that headmask wrote", make=thesis),
    Case("a comparison in the place of a mask", [*COMPARE, "--out", "{mask}"], r"mask.json exists and is not a page"),
    Case("a comparison in the place of trials", [*COMPARE, "--out", "{run}/trials.parquet"], r"trials.parquet exists and is not a page"),
    Case("a comparison in the place of a page", [*COMPARE, "--out", "page.html"], r"page.html exists and is not a page", make=thesis),
    Case("an export beside a thesis", [*EXPORT, "--overwrite", "--out", "exported"], r"exported holds what is not of a model folder .*: open_clip_config.json, thesis.tex", make=thesis),
    Case("an export to ONNX as a file", [*EXPORT, "--format", "onnx", "--out", "new.onnx"], r"is a folder of image.onnx and text.onnx; choose a name that does not end in .onnx"),
    Case("an export to ONNX beside a thesis", [*EXPORT, "--format", "onnx", "--overwrite", "--out", "exported"], r"exported holds what is not of a model folder", make=thesis),
    Case("an export into the model", [*EXPORT, "--overwrite", "--out", "{model}"], r"holds what is not of a model folder"),
    Case("an export over weights", [*EXPORT, "--overwrite", "--out", "{model}/open_clip_model.safetensors"], r"exists and is not a checkpoint that headmask wrote"),
    Case("an export over a text", [*EXPORT, "--overwrite", "--out", "out.safetensors"], r"out.safetensors exists and is not a checkpoint", make=thesis),
    Case("an export into the run", [*EXPORT, "--overwrite", "--out", "{run}"], r"holds what is not of a model folder"),
    Case("an export over a file", [*EXPORT, "--overwrite", "--out", "notes.json"], r"notes.json is a file, where a model folder would be written", make=thesis),
    Case("an explanation beside a thesis", [*EXPLAIN, "--overwrite", "--out", "empty folder"], r"empty folder holds what is not of an explanation .*: thesis.tex", make=thesis),
    Case("an explanation over the run", [*EXPLAIN, "--overwrite", "--out", "{run}"], r"holds what is not of an explanation"),
    Case("a data set over a table of others", [*BUILD, "--overwrite", "--out", "out.parquet"], r"out.parquet exists and is not a data set that headmask wrote", make=thesis),
    Case("a data set over its captions", [*BUILD, "--overwrite", "--out", "captions.csv"], r"captions.csv exists and is not a data set", make=thesis),
    Case("a data set over trials", [*BUILD, "--overwrite", "--out", "{run}/trials.parquet"], r"exists and is not a data set", make=thesis),
    Case("a data set over what it is made of", ["data", "build", "--from", "parquet", "--files", "{data}", "--overwrite", "--out", "{data}"], r"is read by the same command"),
    Case("a data set through a link", ["data", "build", "--from", "parquet", "--files", "{data}", "--overwrite", "--out", "link.parquet"], r"link.parquet exists and is not a data set", make=lambda folder: ((folder / "mine").write_text("mine"), (folder / "link.parquet").symlink_to("mine"))),
    Case("a data set that is there", [*BUILD, "--out", "{data}"], r"exists; choose another name or pass --overwrite", make=thesis),
    Case("a bad row leaves no build", [*BUILD, "--out", "new/folder/out.parquet"], r"bad row", make=lambda folder: (photos(folder), (folder / "captions.csv").write_text("image,caption\na.png,a\nb.png,b\n"))),
    Case("studies of a database that is not there", ["studies", "--storage", "sqlite:///typo.db"], r"there is no study at .*typo.db"),
    Case("studies of a text", ["studies", "--storage", "sqlite:///text.db"], r"text.db is not a database of studies", make=databases),
    Case("studies of a bank", ["studies", "--storage", "sqlite:///bank.db"], r"bank.db is not a database of studies", make=databases),
    Case("studies of notes", ["studies", "--storage", "notes.json"], r"notes.json is not a journal of studies", make=thesis),
    Case("studies of an empty file", ["studies", "--storage", "empty.journal"], r"there is no study in empty.journal, which is empty", make=databases),
    Case("studies of a pipe", ["studies", "--storage", "pipe"], r"pipe is a named pipe", make=databases),
    Case("studies of a loop", ["studies", "--storage", "loop"], r"cannot read study loop", make=databases),
    Case("a report on notes", ["report", "s", "--storage", "notes.json"], r"notes.json is not a journal", make=thesis),
    Case("resuming from notes", ["resume", "s", "--storage", "notes.json"], r"notes.json is not a journal", make=thesis),
    Case("comparing with notes", ["compare", "s", "--storage", "notes.json"], r"notes.json", make=thesis),
    Case("a mask that is a pipe", ["eval", "--mask", "pipe", "--data", "{data}"], r"pipe is a named pipe", make=thesis),
    Case("a mask that is a loop", ["export", "--mask", "loop", "--out", "new"], r"mask file loop", make=thesis),
    Case("a mask that is a device", ["export", "--mask", "/dev/zero", "--out", "new"], r"is a device"),
    Case("data that are a pipe", ["search", "--model", "local-dir:{model}", "--data", "pipe", "--out", "new", "--json"], r"pipe", make=thesis),
    Case("data that are a device", ["data", "show", "/dev/zero", "--no-sheet"], r"/dev/zero"),
    Case("data that are a loop", ["data", "show", "loop", "--no-sheet"], r"loop", make=thesis),
    Case("a configuration that is a pipe", ["search", "pipe"], r"pipe", make=thesis),
    Case("a configuration that is a folder", ["search", "photos"], r"photos", make=thesis),
    Case("captions that are a pipe", ["data", "build", "--images", "photos", "--captions", "pipe", "--out", "new.parquet"], r"pipe", make=thesis),
    Case("images that are a pipe", ["data", "build", "--images", "pipe", "--captions", "captions.csv", "--out", "new.parquet"], r"pipe", make=thesis),
    Case("weights that are a pipe", [*SEARCH, "--pretrained", "pipe", "--out", "new", "--json"], r"pipe|takes no", make=thesis),
    Case("descriptions that are a pipe", [*EXPLAIN, "--descriptions", "pipe", "--out", "new"], r"pipe", make=thesis),

    Case("a repository while offline", ["search", "--model", "hf-hub:nobody/nothing", "--data", "{data}", "--out", "new", "--json"], r"HF_HUB_OFFLINE is set"),
    Case("files of the hub while offline", ["data", "build", "--from", "parquet", "--files", "hf://datasets/nobody/nothing/x.parquet", "--out", "new.parquet"], r"hf://datasets/nobody/nothing/x.parquet cannot be read"),
]  # fmt: skip
