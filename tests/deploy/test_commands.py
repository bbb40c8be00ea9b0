"""Every command in deploy/ is one that the programs understand."""

import shlex

import pytest

from orchestrator.settings.config import read_config
from tests.commands import parse_headmask
from tests.deploy.files import DEPLOY, ROOT, FakeHeadmask, commands, documents, shown

PAGE = shown((DEPLOY / "README.md").read_text())
(JOB,) = documents("kuberay/rayjob.yaml")
(COMPOSE,) = documents("compose.yaml")
ENTRYPOINTS = {*commands(PAGE, "search-or-resume"), *commands(JOB["spec"]["entrypoint"], "search-or-resume")}
SERVICES = "\n".join(str(service["command"][-1]) for service in COMPOSE["services"].values())
SHOWN = sorted({command for text in (PAGE, SERVICES) for command in commands(text, "headmask [a-z]+")})
SUBMITTED = sorted(set(commands(PAGE, "ray job")))


@pytest.mark.parametrize("command", SHOWN)
def test_headmask_commands_parse(command):
    parse_headmask(command)


@pytest.mark.parametrize("entrypoint", sorted(ENTRYPOINTS))
@pytest.mark.parametrize("state", ["none", "stopped"])
def test_what_search_or_resume_makes_of_its_arguments_parses(tmp_path, entrypoint, state):
    arguments = shlex.split(entrypoint)[1:]
    # A journal there is, so that the study is looked for in it.
    storage = arguments[2] if "://" in arguments[2] else str(tmp_path / "study.journal")
    (tmp_path / "study.journal").write_text("{}\n")
    headmask = FakeHeadmask(tmp_path, answers=[[{"name": arguments[1].split("/")[-1], "state": state}]])
    assert headmask.run(["search-or-resume", *arguments[:2], storage, *arguments[3:]]).returncode == 0
    studies, run = headmask.calls
    parse_headmask(studies)
    parse_headmask(run)
    assert run.split()[1] == {"none": "search", "stopped": "resume"}[state]


def test_the_examples_search_is_a_configuration():
    config = read_config(DEPLOY / "search.toml", {"output.folder": "/state/runs/first"})
    assert config.budget.masks == 2000


@pytest.mark.parametrize("service", ["head", "worker", "gpu-worker"])
def test_ray_understands_how_compose_starts_it(service):
    from ray.scripts.scripts import start

    program, name, *arguments = COMPOSE["services"][service]["command"]
    assert (program, name) == ("ray", "start")
    start.make_context(name, arguments)


def test_there_are_commands():
    assert (len(ENTRYPOINTS), len(SHOWN), len(SUBMITTED)) == (4, 2, 5)


def test_ray_understands_how_aws_starts_it():
    from ray.scripts.scripts import start

    (cluster,) = documents("aws.yaml")
    lines = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    found = [command for line in lines for command in commands(line, "ray start")]
    assert len(found) == len(lines)
    for command in found:
        start.make_context("start", shlex.split(command.replace("$RAY_HEAD_IP", "10.0.0.1"))[2:])


@pytest.mark.parametrize("command", SUBMITTED)
def test_ray_job_commands_parse(command):
    from ray.dashboard.modules.job.cli import job_cli_group

    _, _, name, *arguments = shlex.split(command)
    job_cli_group.commands[name].make_context(name, arguments)


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_mlflow_understands_how_compose_starts_it():
    from mlflow.cli import cli

    _, name, *arguments = COMPOSE["services"]["mlflow"]["command"]
    assert cli.commands[name].make_context(name, arguments).params["allowed_hosts"].startswith("mlflow:5000,")


def test_every_file_says_what_it_was_checked_with():
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix != ".dockerignore" and path.name != ".env":
            text = path.read_text()
            assert "hecked" in text or "tests/deploy" in text, path.relative_to(ROOT)
