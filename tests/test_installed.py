"""What people get: a wheel and a source archive, installed, in folders that hold files with names of our packages."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("headmask", "workers", "strategies", "orchestrator")
BUILD = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with a wheel and a source archive, built from a copy of what they are made of."""
    folder = tmp_path_factory.mktemp("built")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    beside = "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in"
    for name in (*beside, "constraints.txt", "constraints-lowest.txt"):
        shutil.copy(ROOT / name, folder)
    subprocess.run([sys.executable, "-c", BUILD], cwd=folder, check=True, capture_output=True)
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The folder of the programs of an environment that the wheel is installed in; it borrows the dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", python]
    # After the wheel was installed, so that nothing is found that need not be.
    subprocess.run([*pip, "install", "--no-deps", "--no-index", *built.glob("*.whl")], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.fixture
def run(installed, tmp_path, tiny_files):
    """Runs a program of the environment in a folder, and returns exit code, standard output and standard error."""
    here = tmp_path / "here"
    here.mkdir()

    def run(*command, **variables):
        path = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        program, *arguments = map(str, command)
        ended = subprocess.run(
            [installed / program, *arguments], cwd=here, env=path | variables, capture_output=True, text=True
        )
        return ended.returncode, ended.stdout, ended.stderr

    run.folder = here
    return run


def search_of(files, folder, *options):
    model, data = files
    return ["search", "--model", f"local-dir:{model}", "--data", data, "--out", "r", *options]


SMALL = ["--strategy", "scan", "--masks", "5", "--no-precheck", "--image-chunk", "16"]


def hide(folder):
    """Put files with names of ours into a folder; importing one of them fails."""
    (folder / "workers.py").write_text("raise RuntimeError('a file of the user')\n")
    (folder / "strategies").mkdir()
    (folder / "strategies" / "__init__.py").write_text("raise RuntimeError('a file of the user')\n")


def test_the_wheel_has_all_packages_with_their_files_and_types(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        (scripts,) = [name for name in names if name.endswith("/entry_points.txt")]
        about, programs = Parser().parsestr(archive.read(metadata).decode()), archive.read(scripts).decode()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    assert {f"{name}/py.typed" for name in PACKAGES} < set(names)
    beside = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.suffix in (".j2", ".css", ".xz")]
    assert beside
    assert {path.relative_to(ROOT).as_posix() for path in beside} < set(names)
    assert "headmask = headmask.__main__:main" in programs
    assert about["Description-Content-Type"] == "text/markdown"
    assert about["License-Expression"] == "Apache-2.0"
    assert "Typing :: Typed" in about.get_all("Classifier")


def test_the_source_archive_builds_the_same_wheel(built, tmp_path):
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    assert not (folder / "tests").exists()
    subprocess.run([sys.executable, "-c", BUILD], cwd=folder, check=True, capture_output=True)
    (again,), (wheel,) = (folder / "dist").glob("*.whl"), built.glob("*.whl")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_the_command_searches_with_ray_where_files_have_names_of_our_packages(run, tiny_files):
    hide(run.folder)
    options = ["--replicas", "1", "--gpus-per-replica", "0", *SMALL]
    code, out, err = run("headmask", *search_of(tiny_files, run.folder, *options))
    assert code == 0, (out, err)
    assert (run.folder / "r" / "result.json").exists()


def test_the_module_runs_where_files_have_names_of_our_packages(run, tiny_files):
    hide(run.folder)
    assert run("python", "-m", "headmask", "schema")[0] == 0


@pytest.mark.parametrize("name", ["workers.py", "strategies", "orchestrator.py"])
def test_python_says_which_file_hides_our_package_before_anything_starts(run, name):
    place = run.folder / name
    if name.endswith(".py"):
        place.touch()
    else:
        place.mkdir()
        (place / "__init__.py").touch()
    code, _, err = run("python", "-c", "import headmask; headmask.search(model='no', data='no', out='r')")
    assert code == 1
    assert err.splitlines()[-1] == (
        f"headmask.errors.HeadmaskError: {place} has the name of a package of headmask's, {place.stem}, and Python "
        "finds it first: rename it or start in another folder, then restart Python"
    )


def test_python_ignores_folders_that_hide_nothing(run):
    (run.folder / "workers").mkdir()  # Without `__init__.py`, it gives way to a package.
    (run.folder / "my_workers.py").touch()
    assert run("python", "-c", "import headmask; headmask.search")[0] == 0


def test_ray_is_not_started_where_pythonpath_hides_our_packages_from_it(run, tiny_files):
    hide(run.folder)
    code, _, err = run("headmask", *search_of(tiny_files, run.folder, *SMALL), PYTHONPATH=str(run.folder))
    assert code == 2
    assert err == (
        f"headmask: {run.folder / 'workers.py'} has the name of a package of headmask's, and PYTHONPATH makes Ray's "
        "processes find it first: rename it, or take its folder out of PYTHONPATH\n"
    )
    assert not (run.folder / "r").exists()
