"""The SLURM script's body, run with stand-ins for `srun` and `scontrol`; Ray, its tokens and the searches are real."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.chaos.arena import ENVIRONMENT, HEADMASK
from tests.deploy.files import BIN, DEPLOY, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which("ray", path=BIN), reason="the command `ray` is not beside this Python"),
]
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
show) printf 'one\\ntwo\\n' ;;
requeue) echo "$2" >>requeued ;;
esac
"""


@pytest.fixture
def cluster(tmp_path, tiny_files, runs):
    """A folder to submit from, and a way to submit; both nodes are this machine."""
    model, data = tiny_files
    (tmp_path / "search.toml").write_text(f"""
        model = {{name = "local-dir:{model}"}}
        data = [{{path = "{data}"}}]
        search = {{precheck = false, image_chunk = 16, random_masks = 4, finalists = 4, block_size = 8}}
        budget = {{masks = 40}}
    """)
    (tmp_path / "deploy").symlink_to(DEPLOY)
    programs = {"srun": SRUN, "scontrol": SCONTROL, "headmask": f"#!{BIN / 'python'}\n{HEADMASK}\n"}
    for name, content in programs.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")} | ENVIRONMENT
    environment |= {"PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "1", "SLURM_SUBMIT_DIR": str(tmp_path)}

    def submit(job, out, *flags):
        command = [DEPLOY / "slurm.sh", "search.toml", runs / out, "--replicas", "1", *flags]
        with (tmp_path / f"{out}.log").open("w") as log:
            return subprocess.Popen(
                command, env=environment | {"SLURM_JOB_ID": job}, cwd=tmp_path, stdout=log, stderr=log
            )

    return tmp_path, submit


def test_two_jobs_share_their_nodes_and_one_that_is_stopped_is_requeued(cluster, runs):
    folder, submit = cluster
    jobs = [f"{os.getpid()}{number}" for number in (1, 2)]
    long, short = submit(jobs[0], "long", "--masks", "3500"), submit(jobs[1], "short")
    log = folder / "long.log"
    assert short.wait(240) == 0, (folder / "short.log").read_text()
    assert (runs / "short" / "result.json").exists()
    deadline = time.monotonic() + 120
    while "/3500 masks" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        assert long.poll() is None, log.read_text()
        time.sleep(0.5)
    long.terminate()
    assert long.wait(120) == 130, log.read_text()
    assert (folder / "requeued").read_text() == f"{jobs[0]}\n"
    assert not [job for job in jobs if Path(f"/tmp/ray-{job}").exists()]
