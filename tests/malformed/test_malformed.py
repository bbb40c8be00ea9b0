"""Hundreds of malformed inputs over all commands: each is one message and an exit code, and nothing is left behind."""

import importlib
import pkgutil
import re
import shutil

import pytest

import tests.malformed
from tests.malformed.case import Case

PARTS = sorted(
    module.name
    for module in pkgutil.iter_modules(tests.malformed.__path__)
    if not module.name.startswith(("test_", "case"))
)
CASES: list[tuple[str, Case]] = [
    (part, case) for part in PARTS for case in importlib.import_module(f"tests.malformed.{part}").CASES
]


@pytest.fixture(scope="session")
def ready(tmp_path_factory, tiny_files, empty_mlflow, pixel_cache):
    """Ready-made things by name: a model, a data set, a mask file and a finished run."""
    from orchestrator.api import search

    folder = tmp_path_factory.mktemp("ready")
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    model, data = tiny_files
    run = folder / "run"
    search(
        model=f"local-dir:{model}",
        data=data,
        out=run,
        pool="inline",
        masks=16,
        precheck=False,
        image_chunk=16,
        strategy="scan",
    )
    return {"model": str(model), "data": str(data), "mask": str(run / "mask.json"), "run": str(run)}


def contents(folder):
    """Return what lies in a folder: every name with what it is, its size and its time of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        # The time of change of a folder tells of scratch files that came and went, which is fine.
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, path.is_dir() or status.st_mtime_ns)
    return found


def test_there_are_hundreds_of_cases_with_names_of_their_own():
    names = [f"{part}: {case.name}" for part, case in CASES]
    assert len(set(names)) == len(names)
    # Grows as commands do; one that shrinks has lost cases.
    assert len(CASES) >= 1


@pytest.mark.parametrize(("part", "case"), CASES, ids=[f"{part}: {case.name}" for part, case in CASES])
def test_a_malformed_input_is_one_message_and_nothing_else(part, case, ready, headmask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if case.make is not None:
        case.make(tmp_path)
    before = contents(tmp_path)
    run_before = contents(type(tmp_path)(ready["run"]))
    # Not `format`: arguments may have braces of their own.
    arguments = [
        re.sub(r"\{(model|data|mask|run)\}", lambda found: ready[found[1]], argument) for argument in case.args
    ]
    code, out, err = headmask(*arguments)
    assert (code, out) == (case.code, ""), err
    assert re.search(case.message, err), err
    assert "Traceback" not in err
    assert err.count("headmask: ") == 1, err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\ud800-\udfff]", err), err
    after = {name: what for name, what in contents(tmp_path).items() if not name.startswith(case.leaves or ("\0",))}
    assert after == {name: what for name, what in before.items() if not name.startswith(case.leaves or ("\0",))}
    assert contents(type(tmp_path)(ready["run"])) == run_before
