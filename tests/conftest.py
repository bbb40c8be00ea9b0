"""Fixtures that all tests share: tiny models and data, and one local Ray for those who need it."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections import Counter
from contextlib import nullcontext
from importlib.metadata import version

# Two processes of tests share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test needs the network; the hub's library reads this when it is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from tests.tiny import make_tiny_config, tiny_clip, write_task_datasets, write_tiny_dataset, write_tiny_model

WARNINGS = {
    "ray": ((2, 60), ["unclosed file <_io.TextIOWrapper name='/dev/null'", "subprocess .* is still running"]),
    "mlflow": ((3, 17), [r"The Query\.get\(\) method is considered legacy"]),
}
"""By library: the version that is known to warn no longer, and what older ones warn of."""


def pytest_configure(config):
    """Let older versions of libraries warn of what only newer ones of them can mend."""
    for library, (mended, messages) in WARNINGS.items():
        if tuple(map(int, version(library).split(".")[:2])) < mended:
            for message in messages:
                config.addinivalue_line("filterwarnings", f"ignore:{message}")


def pytest_collection_modifyitems(items):
    """Run files that use Ray first, which take longest, then those of many tests: the last ones should be short."""
    with_ray = {item.path for item in items if "local_ray" in getattr(item, "fixturenames", ())}
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in with_ray, -sizes[item.path]))


@pytest.fixture(scope="session")
def clip():
    """A tiny CLIP with random weights: 3 layers x 4 heads, 28 px, 17 tokens. Tests leave it as it is."""
    return tiny_clip()


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    """A tiny model folder and a tiny data set on disk."""
    folder = tmp_path_factory.mktemp("tiny")
    return write_tiny_model(folder / "model"), write_tiny_dataset(folder / "data.parquet")


@pytest.fixture(scope="session")
def task_files(tmp_path_factory):
    """A folder with data sets of labels and groups, of pairs, and of other captions."""
    return write_task_datasets(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def tiny_preprocess():
    """The preprocessing of the tiny model: 28 pixels."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from workers.data.preprocess import UInt8Preprocess

    return UInt8Preprocess(image_transform_v2(PreprocessCfg(size=28), is_train=False))


@pytest.fixture(scope="session")
def wide_files(tmp_path_factory):
    """A model of width 256 with 65 tokens, 3 layers x 4 heads, and a few images: realistic shapes for bit equality."""
    folder = tmp_path_factory.mktemp("wide")
    model = write_tiny_model(folder / "model", width=256, head_width=64, image_size=64, patch_size=8)
    return model, write_tiny_dataset(folder / "data.parquet", search=10, confirm=6, test=8)


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory, empty_mlflow, pixel_cache):
    """A folder with `runs/demo` as `headmask demo` leaves it, after a short search."""
    base = tmp_path_factory.getbasetemp()
    # What processes of pytest-xdist share lies above their own folders.
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-demo"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            _run_demo(base / "demo", empty_mlflow)
            (base / "demo").rename(shared)
    return shutil.copytree(shared, base / "demo")


def _run_demo(folder, empty_mlflow):
    from orchestrator.api import search
    from orchestrator.demo import DEMO_CONSTANTS, unpack_demo

    (folder / "runs").mkdir(parents=True)
    shutil.copyfile(empty_mlflow, folder / "runs" / "mlflow.db")
    paths, out = unpack_demo(folder / "runs" / "demo"), folder / "runs" / "demo"
    search(
        model=f"local-dir:{paths.model}",
        data=paths.data,
        out=out,
        pool="inline",
        masks=90,
        fold=True,
        **DEMO_CONSTANTS,
    )


@pytest.fixture(scope="session")
def pixel_cache(tmp_path_factory):
    """The pixel cache of the whole test session."""
    folder = tmp_path_factory.mktemp("pixels")
    os.environ["HEADMASK_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(pixel_cache):
    """Keep every test out of the user's cache, and from looks at test splits that other tests have taken."""
    (pixel_cache / "test-looks.jsonl").unlink(missing_ok=True)


@pytest.fixture
def png():
    """Encodes an array or an image as PNG bytes."""

    def encode(content, kind="PNG", **options):
        image = (
            Image.fromarray(np.asarray(content, dtype=np.uint8)) if not isinstance(content, Image.Image) else content
        )
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory):
    """An MLflow database, migrated and empty: making one takes seconds, copying it nothing."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def runs(empty_mlflow, tmp_path):
    """A folder for run folders, with an MLflow database."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    return folder


@pytest.fixture
def undrawn(request):
    """Searches without pictures and reports, which take most of a tiny one's time, except in tests marked `drawn`."""
    from tests.orchestrator.studies import undrawn

    with nullcontext() if request.node.get_closest_marker("drawn") else undrawn():
        yield


@pytest.fixture
def tiny_config(tiny_files, runs):
    """Makes the configuration of a small inline search, with changes by key: `budget__masks=20`."""

    def make(name="tiny", files=tiny_files, **changes):
        return make_tiny_config(files, runs / name, **changes)

    return make


@pytest.fixture(scope="session")
def local_ray():
    """The one Ray of the test session: two CPUs on this machine."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


# Of a module, because it keeps an event loop running that other tests could not start one beside.
@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that opens pages."""
    from tests.browser import COMMANDS, command, running

    if command() is None:
        pytest.skip(f"there is no Chromium: none of {', '.join(COMMANDS)} is installed")
    with running() as found:
        yield found


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """A PostgreSQL server; a test that stops it starts it again."""
    from tests.postgres import Postgres

    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def tiny_session(tiny_config):
    """Tiny model and data, ready for a pool."""
    from orchestrator.search.preparing import prepare

    return prepare(tiny_config())


@pytest.fixture
def headmask(monkeypatch, capsys):
    """Runs a command in this process, and returns exit code, standard output and standard error."""

    from orchestrator import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["headmask", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    monkeypatch.setenv("COLUMNS", "100")
    return run
