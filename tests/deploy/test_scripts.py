"""The scripts: shellcheck finds nothing, and a search goes on by the command that began it."""

import os
import signal
import subprocess
import time

import pytest

from tests.chaos.arena import ENVIRONMENT, HEADMASK
from tests.deploy.files import BIN, DEPLOY, ROOT, SCRIPTS, SEARCH_OR_RESUME, TWO_HOSTS, FakeHeadmask
from tests.orchestrator.studies import outcome, trials

DATABASE = "postgresql://me@host/studies"


@pytest.fixture
def fake(tmp_path):
    def make(**changes):
        return FakeHeadmask(tmp_path, **changes)

    return make


RAYJOB = [DEPLOY / "kuberay" / "unless-final.sh", "outcomes", "search-or-resume", "a.toml", "runs/first", DATABASE]


def searches(headmask):
    return [call for call in headmask.calls if call.split()[1] == "search"]


def studies(state):
    return [{"name": "other", "state": "stopped"}, {"name": "first", "state": state}]


@pytest.mark.parametrize("script", [*SCRIPTS, TWO_HOSTS], ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script):
    found = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_shellcheck_would_find_something(tmp_path):
    (tmp_path / "bad.sh").write_text("#!/bin/sh\nrm -rf $1/*\n")
    assert subprocess.run([BIN / "shellcheck", tmp_path / "bad.sh"], capture_output=True).returncode == 1


@pytest.mark.parametrize("listed", [[{"name": "other", "state": "stopped"}], studies("not begun")])
def test_a_new_study_is_started_and_one_that_has_not_begun(fake, listed):
    headmask = fake(answers=[listed])
    done = headmask.run([SEARCH_OR_RESUME, "a.toml", "runs/first/", DATABASE, "--masks", "9"])
    assert (done.returncode, headmask.calls[-1]) == (
        0,
        f"headmask search a.toml --out runs/first --storage {DATABASE} --masks 9",
    )


@pytest.mark.parametrize("state", ["stopped", "finished"])
def test_a_study_that_exists_is_resumed(fake, state):
    headmask = fake(answers=[studies(state)])
    headmask.run([SEARCH_OR_RESUME, "a.toml", "runs/first", DATABASE, "--masks", "9"])
    assert headmask.calls[-1] == f"headmask resume first --storage {DATABASE} --out runs/first --masks 9"


def test_a_journal_that_is_not_there_yet_is_not_asked(fake):
    headmask = fake(answers=[2])
    headmask.run([SEARCH_OR_RESUME, "a.toml", "runs/first", "runs/first/study.journal"])
    assert headmask.calls == ["headmask search a.toml --out runs/first --storage runs/first/study.journal"]


def test_a_lost_drivers_lock_is_waited_for(fake):
    headmask = fake(answers=[studies("running"), studies("stopped")])
    done = headmask.run([SEARCH_OR_RESUME, "a.toml", "runs/first", DATABASE])
    assert "another driver runs study first; waiting" in done.stderr
    assert [call.split()[1] for call in headmask.calls] == ["studies", "studies", "resume"]


def test_a_driver_that_does_not_let_go_is_worth_another_try(fake):
    headmask = fake(answers=[studies("running")])
    done = headmask.run([SEARCH_OR_RESUME, "a.toml", "runs/first", DATABASE], HEADMASK_WAIT_S="0")
    assert (done.returncode, done.stderr) == (75, "another driver still runs study first after 0 s\n")


def test_a_storage_that_does_not_answer_is_worth_another_try(fake):
    headmask = fake(answers=[2])
    assert headmask.run([SEARCH_OR_RESUME, "a.toml", "runs/first", DATABASE]).returncode == 75
    assert len(headmask.calls) == 1


@pytest.mark.parametrize("code", [0, 1, 2, 75, 130])
def test_headmasks_exit_codes_come_through(fake, code):
    assert fake(code=code).run([SEARCH_OR_RESUME, "a.toml", "runs/first", DATABASE]).returncode == code


def test_too_few_arguments_are_bad_input(fake):
    done = fake().run([SEARCH_OR_RESUME, "a.toml"])
    assert (done.returncode, done.stderr.split()[0]) == (2, "usage:")


@pytest.mark.parametrize(("code", "attempts"), [(0, 1), (1, 1), (2, 1), (70, 1), (75, 2), (130, 2), (137, 2)])
def test_a_rayjobs_next_attempt_repeats_what_is_final_and_tries_the_rest(fake, code, attempts):
    headmask = fake(code=code)
    codes = [headmask.run(RAYJOB, RAY_CLUSTER_NAME=f"headmask-x7k2p-{end}").returncode for end in ("aaaaa", "bbbbb")]
    assert (codes, len(searches(headmask))) == ([code, code], attempts)
    assert headmask.run(RAYJOB, RAY_CLUSTER_NAME="headmask-9zz4q-ccccc").returncode == code
    assert len(searches(headmask)) == attempts + 1, "another RayJob's outcome is none of ours"


def test_a_driver_that_ray_ends_with_1_has_not_finished(fake):
    """As it does when the cluster's head is gone; an earlier result is none of this attempt."""
    headmask = fake(code=1, leaves_result=False)
    (headmask.folder / "runs" / "first").mkdir(parents=True)
    (headmask.folder / "runs" / "first" / "result.json").touch()
    codes = [headmask.run(RAYJOB, RAY_CLUSTER_NAME=f"headmask-x7k2p-{end}").returncode for end in ("aaaaa", "bbbbb")]
    assert (codes, len(searches(headmask))) == ([75, 75], 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_that_was_killed_goes_on_by_the_same_command(tmp_path, tiny_files, runs):
    """As a preempted job does; compared with a search that was left alone."""
    model, data = tiny_files
    config = tmp_path / "search.toml"
    config.write_text(f"""
        model = {{name = "local-dir:{model}"}}
        data = [{{path = "{data}"}}]
        search = {{precheck = false, image_chunk = 16, random_masks = 4, finalists = 4, block_size = 8}}
        pool = {{kind = "inline"}}
        budget = {{masks = 120}}
    """)
    program = tmp_path / "headmask"
    program.write_text(f"#!{BIN / 'python'}\n{HEADMASK}\n")
    program.chmod(0o755)
    environment = {**os.environ, **ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    journal, log = runs / "first.journal", tmp_path / "log"

    def begin(name):
        with log.open("a") as file:
            command = [SEARCH_OR_RESUME, config, runs / name, runs / f"{name}.journal"]
            return subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    first = begin("first")
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 20):
        assert time.monotonic() < deadline, log.read_text()
        assert first.poll() is None, log.read_text()
        time.sleep(0.05)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert not (runs / "first" / "result.json").exists()
    assert begin("first").wait(120) == 0, log.read_text()
    assert begin("undisturbed").wait(120) == 0, log.read_text()
    assert trials(runs / "first") == trials(runs / "undisturbed")
    assert outcome(runs / "first") == outcome(runs / "undisturbed")
