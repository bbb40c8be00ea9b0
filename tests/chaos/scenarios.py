"""What can happen to a search. Each function makes it happen, checks what is left, and returns what was survived."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from orchestrator.study.catalogue import list_studies
from tests.chaos.arena import ENVIRONMENT, Arena, Driver, NotSurvived, limited
from tests.postgres import Postgres

Scenario = Callable[[Arena], str]
SCENARIOS: dict[str, Scenario] = {}
LEFT_S = 20.0
"""Seconds that processes of Ray's may outlive their driver."""


def scenario(function: Scenario) -> Scenario:
    """Add a scenario by its name."""
    SCENARIOS[function.__name__] = function
    return function


# --- replicas ---


def _kill_one(arena: Arena, driver: Driver, number: int) -> bool:
    """Send a signal to a random replica; return whether there was one."""
    replicas = driver.replicas()
    if not replicas:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        arena.rng.choice(replicas).send_signal(number)
    return True


@scenario
def replicas_killed(arena: Arena) -> str:
    """SIGKILL a random replica every few seconds, through the whole search."""
    driver, kills = arena.search("replicas_killed"), 0
    driver.wait_until_said("masks,")
    while driver.is_running:
        kills += _kill_one(arena, driver, signal.SIGKILL)
        driver.sleep(arena.rng.uniform(2.0, 10.0))
    arena.finish(driver)
    arena.check("replicas_killed")
    return f"{kills} replicas killed"


@scenario
def replica_stopped(arena: Arena) -> str:
    """SIGSTOP a random replica at a random moment: it gives no signal at all."""
    driver = arena.search("replica_stopped")
    driver.wait_until_said("masks,")
    driver.sleep(arena.rng.uniform(0, 0.3) * arena.seconds)
    if not _kill_one(arena, driver, signal.SIGSTOP):
        raise NotSurvived("there was no replica to stop")
    arena.finish(driver)
    arena.check("replica_stopped")
    return "a replica stopped for good"


@scenario
def memory_exhausted(arena: Arena) -> str:
    """Let a replica have no more memory than it has, in the middle of a batch."""
    driver = arena.search("memory_exhausted")
    driver.wait_until_said("masks,")
    driver.sleep(arena.rng.uniform(0, 0.3) * arena.seconds)
    (victim, *_) = driver.replicas()
    victim.rlimit(resource.RLIMIT_AS, (victim.memory_info().vms, resource.RLIM_INFINITY))
    arena.finish(driver)
    arena.check("memory_exhausted")
    return "a replica that could not allocate anything more"


@scenario
def nodes_lost_and_added(arena: Arena) -> str:
    """Kill a raylet of a cluster of three, and add another one."""
    token = secrets.token_hex(16)
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
        cluster.wait_for_nodes()
        driver = arena.search("nodes", "--address", cluster.address)
        driver.wait_until_said("masks,")
        driver.sleep(arena.rng.uniform(0, 0.3) * arena.seconds)
        cluster.remove_node(arena.rng.choice(nodes), allow_graceful=False)
        driver.sleep(arena.rng.uniform(0, 5))
        cluster.add_node(num_cpus=1)
        arena.finish(driver)
    finally:
        cluster.shutdown()
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)
    arena.check("nodes")
    return "a raylet lost and another one added"


# --- Ray itself ---


def _ray_killed(arena: Arena, name: str, program: str) -> str:
    """Kill a process of Ray's own: the driver says so and how to go on, nothing of Ray's stays, and nothing is lost."""
    driver = arena.search(name)
    driver.wait_until_said("masks,")
    driver.sleep(arena.rng.uniform(0, 0.1) * arena.seconds)
    children = driver.children()
    (victim,) = [child for child in children if child.name() == program]
    victim.kill()
    died_at = time.monotonic()
    arena.finish(driver, code=75)
    ended_s = time.monotonic() - died_at
    _, _, said = driver.said.rpartition("headmask: ")
    if "has died. What was scored is saved; continue with: headmask resume" not in said or "Traceback" in driver.said:
        raise NotSurvived(f"no way out was said:\n{driver.said[-3000:]}")
    _, alive = psutil.wait_procs(children, timeout=LEFT_S)
    if alive:
        raise NotSurvived(f"{LEFT_S:.0f} s later there still run {', '.join(each.name() for each in alive)}")
    arena.finish(arena.resume(name))
    arena.check(name)
    return f"a killed {program}: exit code 75 after {ended_s:.0f} s"


@scenario
def control_plane_killed(arena: Arena) -> str:
    """SIGKILL Ray's control plane, which the driver has started."""
    return _ray_killed(arena, "control_plane_killed", "gcs_server")


@scenario
def raylet_killed(arena: Arena) -> str:
    """SIGKILL the raylet of the driver's machine."""
    return _ray_killed(arena, "raylet_killed", "raylet")


# --- masks ---


def _fatal(arena: Arena, kind: str, expected: str) -> None:
    """Compare a search with a fatal mask with one in which that mask just fails."""
    program = ["-m", "tests.chaos.fatal"]
    just_fails = f"{kind}_fails"
    for name, pool, how in ((just_fails, "inline", "fail"), (kind, "ray", kind)):
        arena.finish(arena.search(name, pool=pool, program=[*program, how]), code=1)
    tables = [arena.left(name)[0] for name in (just_fails, kind)]
    failures = [[row.pop("failure") for row in table if row["failure"]] for table in tables]
    if any(len(found) != 1 for found in failures) or expected not in failures[1][0]:
        raise NotSurvived(f"failures {failures}, where one was expected that says {expected!r}")
    for table in tables:
        for row in table:
            row.pop("failure", None)
    if tables[0] != tables[1]:
        raise NotSurvived(f"{kind}: trials differ from those of a search in which the mask just fails")


@scenario
def mask_exits(arena: Arena) -> str:
    """A mask that makes every replica exit is recorded as a failure after three of them, and is the only one."""
    _fatal(arena, "exit", "failed on 3 replicas")
    return "a mask that makes replicas exit"


@scenario
def mask_infinite(arena: Arena) -> str:
    """A mask with non-finite embeddings is recorded as a failure."""
    _fatal(arena, "infinite", "non-finite embeddings")
    return "a mask with infinite embeddings"


# --- the driver ---


@scenario
def driver_killed(arena: Arena, *, kills: int = 20) -> str:
    """SIGKILL the driver at random moments, of starting, scoring, storing, confirming, testing, tracking, exporting."""
    done, searches = 0, 0
    while done < kills:
        name, pool = f"driver{searches}", "ray" if searches % 3 == 2 else "inline"
        searches += 1
        driver = arena.search(name, pool=pool)
        while done < kills:
            driver.sleep(arena.rng.uniform(0.05, 1.0) * arena.seconds)
            if not driver.is_running:
                break
            driver.kill()
            driver.wait()
            done += 1
            # What was killed before it was stored is begun again.
            has_study = (arena.folder / name / "config.json").exists()
            driver = arena.resume(name) if has_study else arena.search(name, pool=pool)
        arena.finish(driver)
        arena.check(name)
    return f"{done} kills over {searches} searches"


@scenario
def journal_torn(arena: Arena) -> str:
    """Kill the driver, and leave half a line at the end of the journal."""
    driver = arena.search("torn", pool="inline")
    driver.wait_until_said("masks,")
    driver.sleep(arena.rng.uniform(0, 0.3) * arena.seconds)
    driver.kill()
    driver.wait()
    journal = arena.folder / "torn" / "study.journal"
    line = journal.read_text().splitlines()[-1]
    with journal.open("a") as file:
        file.write(line[: arena.rng.randrange(1, len(line))])
    arena.finish(arena.resume("torn"))
    arena.check("torn")
    return "half a line at the end of the journal"


@scenario
def signals(arena: Arena) -> str:
    """SIGTERM and Ctrl-C at random moments: exit code 130, and what was scored is there."""
    for name, number in (("sigterm", signal.SIGTERM), ("sigint", signal.SIGINT)):
        driver = arena.search(name)
        driver.wait_until_said("masks,")
        driver.sleep(arena.rng.uniform(0, 0.2) * arena.seconds)
        driver.kill(number)
        arena.finish(driver, code=130)
        arena.finish(arena.resume(name))
        arena.check(name)
    return "SIGTERM and Ctrl-C"


# --- storage and tracking ---


@scenario
def disk_full(arena: Arena) -> str:
    """Let no file grow for a while, so that the journal's lines are cut in the middle of a write."""
    driver = arena.search("disk_full", pool="inline")
    driver.wait_until_said("masks,")
    journal = arena.folder / "disk_full" / "study.journal"
    size = journal.stat().st_size + arena.rng.randrange(50, 500)
    with limited(psutil.Process(driver.process.pid), resource.RLIMIT_FSIZE, size):
        driver.sleep(8)
    arena.finish(driver)
    arena.check("disk_full")
    if "the storage is away" not in driver.said:
        raise NotSurvived("the disk was never full for the journal")
    return "a disk that was full for 8 s"


@scenario
def postgres_crashed(arena: Arena) -> str:
    """Crash the PostgreSQL server of the study, and start it again some seconds later."""
    with Postgres(arena.folder / "server") as server:
        url = server.new_database()
        driver = arena.search("postgres", "--storage", url, "--study", "chaos")
        driver.wait_until_said("masks,")
        driver.sleep(arena.rng.uniform(0, 0.2) * arena.seconds)
        server.crash()
        driver.sleep(arena.rng.uniform(1, 8))
        server.start()
        arena.finish(driver)
        (study,) = list_studies(url)
    arena.check("postgres")
    table, _, _ = arena.undisturbed
    if (study.state, study.masks) != ("finished", len(table)):
        raise NotSurvived(f"the database holds {study.masks} masks of {len(table)}, state {study.state}")
    return "a crash of the database"


@contextlib.contextmanager
def _mlflow(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run an MLflow server."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder)]
    environment = {**os.environ, **ENVIRONMENT}
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(
            [*command, *stores], stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for_server(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return
        time.sleep(0.5)
    raise NotSurvived("MLflow's server did not start")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@scenario
def tracking_back(arena: Arena) -> str:
    """Kill the MLflow server in the middle, and start it again: the run is complete in the end."""
    port, folder = _free_port(), arena.folder / "mlflow"
    with _mlflow(folder, port):
        _wait_for_server(port)
        driver = arena.search("tracking_back", "--tracking-uri", f"http://127.0.0.1:{port}")
        driver.wait_until_said("masks,")
        driver.sleep(arena.rng.uniform(0, 0.2) * arena.seconds)
    driver.sleep(arena.rng.uniform(1, 5))
    with _mlflow(folder, port):
        arena.finish(driver)
    arena.check("tracking_back")
    result = json.loads((arena.folder / "tracking_back" / "result.json").read_text())
    from mlflow import MlflowClient

    run = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}").get_run(result["mlflow_run_id"])
    if run.info.status != "FINISHED" or run.data.metrics["num_masks"] != result["num_masks"]:
        raise NotSurvived(f"the tracked run is {run.info.status}: {run.data.metrics}")
    return "an MLflow server killed and started again"


@scenario
def tracking_gone(arena: Arena) -> str:
    """Track to a server that is never there: the search ends, and says that tracking is incomplete."""
    driver = arena.search("tracking_gone", "--tracking-uri", f"http://127.0.0.1:{_free_port()}")
    arena.finish(driver)
    arena.check("tracking_gone")
    if "is incomplete" not in driver.said:
        raise NotSurvived("nobody was told that tracking is incomplete")
    return "an MLflow server that never came back"
