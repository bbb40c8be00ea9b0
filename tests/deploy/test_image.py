"""The Dockerfile: hadolint finds nothing, and its commands do what they are for."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.files import BIN, DEPLOY, ROOT

DOCKERFILE = DEPLOY / "Dockerfile"
CONTENT = DOCKERFILE.read_text()


def hadolint(path):
    return subprocess.run([BIN / "hadolint", "--no-color", path], capture_output=True, text=True)


def test_hadolint_finds_nothing():
    found = hadolint(DOCKERFILE)
    assert found.returncode == 0, found.stdout


def test_hadolint_would_find_something(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && pip install ray\n")
    assert "DL3006" in hadolint(tmp_path / "Dockerfile").stdout


def test_it_runs_as_a_user_with_a_number():
    """Kubernetes cannot tell whether a name is root's."""
    assert re.findall(r"^USER (.*)$", CONTENT, re.MULTILINE) == ["1000"]


def test_the_large_layer_is_what_pyproject_asks_for():
    (program,) = re.findall(r'python -c "(.*?)" "\$EXTRAS"', CONTENT, re.DOTALL)
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", CONTENT, re.MULTILINE)
    # As the shell reads it: a backslash at the end of a line joins lines.
    command = [sys.executable, "-c", program.replace("\\\n", ""), extras]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    assert listed == [*project["dependencies"], *optional["cluster"], *optional["postgresql"], *optional["mysql"]]


def copied(stage):
    """Return the sources that a stage takes from the context."""
    lines = re.findall(r"^COPY (.*)$", stage, re.MULTILINE)
    mounts = re.findall(r"type=bind,source=([^,]+)", stage)
    return {part for line in lines for part in line.split()[:-1] if not part.startswith("--")} | set(mounts)


def test_the_context_holds_what_is_copied_and_the_packages_and_nothing_else():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert copied(CONTENT) - {"."} <= kept
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    needed = packages | {"pyproject.toml", "constraints.txt", *project["project"]["license-files"], "README.md"}
    assert kept == needed | copied(CONTENT) - {"."}
    assert all((ROOT / path).exists() for path in kept)


@pytest.mark.parametrize("name", ["pyproject.toml", "deploy/compose.yaml", "deploy/kuberay/rayjob.yaml"])
def test_examples_name_the_version_that_is_built(name):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tags = re.findall(r"headmask:(\d[\w.]*)|^version = \"(.*)\"$", Path(ROOT, name).read_text(), re.MULTILINE)
    assert {tag or own for tag, own in tags} == {version}
